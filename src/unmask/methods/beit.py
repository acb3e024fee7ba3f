"""BEiT: hide blocks of patches, predict the visual words that a tokenizer has for them.

BEiT: BERT Pre-Training of Image Transformers. Hangbo Bao, Li Dong, Songhao Piao, Furu Wei. ICLR 2022, arXiv
2106.08254.

A frozen tokenizer, a discrete autoencoder, has one of K codes for every patch. About 40 % of the patches, in
rectangles of random size and shape, become one learned vector; a transformer sees all places, and one linear
layer predicts the codes of the hidden ones. Codes leave out the details of pixels, which a model would
otherwise spend itself on.

Loss, over the set M of hidden patches of the batch, with z_i the code of patch i of the whole image::

    L = - 1 / |M|  sum_{i in M}  log softmax(logits_i)[z_i]

Differences from the official code:

* every image hides the same number of patches; the official generator of blocks gives up early and hides 74.5
  of 75 on average (`official_masks=True`, then every hidden patch of the batch still counts the same);
* any tokenizer with one code for every patch, any transformer with one feature for every patch, rectangular
  images, any number of channels.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import Encoder, require_busy
from unmask.encoders.initialise import mask_token
from unmask.heads import CodeHead
from unmask.masking import BlockMask, Mask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.answers import Coded, Question
from unmask.tokenizers.base import Tokenizer
from unmask.tokenizers.codes import Codes, score_codes


class BEiT(Method):
    """Bao et al. 2022.

    Args:
        encoder: a ViT; the paper's has relative positions and LayerScale.
        tokenizer: tells the codes; the paper's is DALL-E's dVAE.
        mask_ratio: share of patches to hide, about 40 %: 75 of 196.
        min_block: patches in the smallest rectangle; None is the paper's share of the grid, 16 of 196.
        official_masks: hide as many patches as the official generator happens to.
        mean: of pixels in [0, 1], a channel, that images are normalised with; None is ImageNet's.
        std: likewise.
    """

    card = Card(
        title="BEiT",
        target="codes of DALL-E's dVAE, or of another tokenizer",
        normalisation="the most probable code",
        student="a token for each hidden patch (ViT)",
        head="one matrix",
        loss="cross-entropy, hidden patches",
        masking="blocks of patches, 38 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        tokenizer: Tokenizer,
        mask_ratio: float = 0.383,  # official code: 75 of 196
        min_block: int | None = None,  # official code: 16 of 196
        official_masks: bool = False,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = require_busy(encoder, by="BEiT")
        self.masking = BlockMask(ratio=mask_ratio, min_block=min_block, official=official_masks)
        self.masking.check(encoder.grid)
        self.codes = Codes.per_patch(tokenizer, encoder, by="BEiT", mean=mean, std=std)
        self.views = self.codes.views
        self.token = mask_token(encoder)
        self.head = CodeHead(encoder.dim, self.codes.outputs)

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
        seen = self.encoder.hidden(images, mask, self.token)
        # predict
        logits = self.head(mask.masked(seen))
        # target
        codes = mask.masked(self.codes.encode(token_images))
        # compare
        return score_codes(logits, codes)

    @property
    def questions(self) -> Mapping[str, Question]:
        return self.codes.questions

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        logits = self.head(self.encoder.hidden(images, mask, self.token))
        return self.codes.picture(logits.argmax(-1), images, mask)

    @property
    def chance_loss(self) -> float:
        return self.codes.chance_loss
