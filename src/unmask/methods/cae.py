"""CAE: encode the visible patches, predict how the hidden ones would be encoded, and from that their codes.

Context Autoencoder for Self-Supervised Representation Learning. Xiaokang Chen, Mingyu Ding, Xiaodi Wang, Ying
Xin, Shentong Mo, Yunhao Wang, Shumin Han, Ping Luo, Gang Zeng, Jingdong Wang. 2022, arXiv 2202.03026.

In BEiT the encoder both describes what it sees and solves the task. CAE divides the two: the encoder gets the
visible patches only, a regressor predicts the representations of the hidden ones from theirs, and a decoder
turns these into the codes of a frozen tokenizer. Alignment keeps the regressor's predictions in the space of
the encoder: they must equal what it makes of the hidden patches when it sees nothing but them.

Loss, over the set M of hidden patches of the batch, with z_i the code of patch i of the whole image::

    L = CE(logits, z) + w  1 / |M|  sum_{i in M}  1 / D  || latent_i - stop_gradient(encoder(x_M)_i) ||^2

Differences from the official code:

* the target of the alignment is the encoder as it is, without stochastic depth; the official one is a copy
  that is renewed after it was used, one step too late (`lagging_target=True`);
* where the decoder's width is not the encoder's, one matrix and norm take the encoded patches over, targets
  included, as in the official code;
* any tokenizer with one code for every patch, any encoder that can leave patches out, rectangular images, any
  number of channels.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.encoders.base import Encoder, require_busy, require_dropping
from unmask.encoders.initialise import xavier_linear
from unmask.masking import BlockMask, Mask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.regressor import LatentDecoder, LatentRegressor
from unmask.targets.answers import Coded, Question
from unmask.targets.average import MovingAverage, evaluated
from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.codes import Codes, score_codes


class CAE(Method):
    """Chen et al. 2022.

    Args:
        encoder: a ViT: one that can leave patches out; the paper's is BEiT's with fixed positions.
        tokenizer: tells the codes; the paper's is DALL-E's dVAE.
        mask_ratio: share of patches to hide.
        min_block: patches in the smallest rectangle; None is BEiT's share of the grid, 16 of 196.
        regressor_depth: blocks of the regressor.
        decoder_depth: blocks of the decoder.
        decoder_dim: width of both; None is the encoder's.
        decoder_heads: attention heads of both; None is one for every 64 channels.
        layer_scale: what the scales of their branches start at.
        align_weight: of the alignment, w above.
        lagging_target: align with a copy of the encoder that is one step behind, as the official code does.
        mean: of pixels in [0, 1], a channel, that images are normalised with; None is ImageNet's.
        std: likewise.
    """

    card = Card(
        title="CAE",
        target="codes of DALL-E's dVAE; the encoder's own features of the hidden patches",
        normalisation="the most probable code; none",
        student="visible patches only (ViT)",
        head="regressor of 4 cross-attention blocks, then a decoder of 4 blocks",
        loss="cross-entropy + 2 x L2 of the features, hidden patches",
        masking="blocks of patches, 50 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        tokenizer: Tokenizer,
        mask_ratio: float = 0.5,  # official code: 98 of 196
        min_block: int | None = None,  # official code: 16 of 196
        regressor_depth: int = 4,  # official code
        decoder_depth: int = 4,  # official code
        decoder_dim: int | None = None,  # official code: 768, ViT-B's
        decoder_heads: int | None = None,  # official code: 12 of 64 channels
        layer_scale: float = 0.1,  # official code
        align_weight: float = 2.0,  # official code
        lagging_target: bool = False,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if align_weight < 0:
            raise ValueError(f"align_weight must not be negative, not {align_weight}")
        self.encoder = require_dropping(require_busy(encoder, by="CAE"), by="CAE")
        self.masking = BlockMask(ratio=mask_ratio, min_block=min_block)
        self.masking.check(encoder.grid)
        self.codes = Codes.per_patch(tokenizer, encoder, by="CAE", mean=mean, std=std)
        self.views = self.codes.views
        self.align_weight = align_weight
        self.teacher = MovingAverage(encoder, momentum=0.0) if lagging_target else None
        dim = encoder.dim if decoder_dim is None else decoder_dim
        heads = max(1, dim // 64) if decoder_heads is None else decoder_heads
        self.bridge = nn.Sequential()
        if dim != encoder.dim:
            self.bridge = nn.Sequential(nn.Linear(encoder.dim, dim), nn.LayerNorm(dim, eps=1e-6))
        self.regressor = LatentRegressor(
            dim, encoder.grid, depth=regressor_depth, heads=heads, layer_scale=layer_scale
        )
        self.decoder = LatentDecoder(
            dim, encoder.grid, depth=decoder_depth, heads=heads, layer_scale=layer_scale
        )
        self.head = nn.Linear(dim, self.codes.outputs)
        for module in (self.bridge, self.head):
            module.apply(xavier_linear)

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        token_images: Float[Tensor, "B C h w"] | Coded,
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encoder.visible(images, mask)
        # predict
        latent = self.regressor(self.bridge(seen.patches), mask)
        logits = self.head(self.decoder(latent, mask))
        # target
        codes = mask.masked(self.codes.encode(token_images))
        aligned = self.encoded_hidden(images, mask)
        # compare
        scores = score_codes(logits, codes)
        alignment = (latent.float() - aligned.float()).square().mean()
        total = scores["loss"] + self.align_weight * alignment
        return scores | {"loss": total, "codes": scores["loss"], "alignment": alignment}

    @torch.no_grad()
    def encoded_hidden(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B M D"]:
        """What the regressor should say: the hidden patches as they are encoded when nothing else is seen."""
        if self.teacher is None:
            with evaluated(self.encoder):
                return self.bridge(self.encoder.visible(images, mask.inverse()).patches)
        encoded = self.teacher.module.visible(images, mask.inverse()).patches
        if self.training:  # a probe that looks at the loss must not change what is learned
            self.teacher.follow(self.encoder)
        return self.bridge(encoded)

    @property
    def questions(self) -> Mapping[str, Question]:
        return self.codes.questions

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        latent = self.regressor(self.bridge(self.encoder.visible(images, mask).patches), mask)
        hidden = self.head(self.decoder(latent, mask)).argmax(-1)
        predicted = torch.zeros_like(mask.hidden, dtype=torch.long).masked_scatter(mask.hidden, hidden)
        return self.codes.picture(predicted, images, mask)
