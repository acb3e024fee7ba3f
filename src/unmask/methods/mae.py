"""MAE: encode the visible quarter of an image, decode the rest from mask tokens.

Masked Autoencoders Are Scalable Vision Learners. Kaiming He, Xinlei Chen, Saining Xie, Yanghao Li, Piotr
Dollár, Ross Girshick. CVPR 2022, arXiv 2111.06377.

Three quarters of the patches are removed at random, and the ViT encoder sees only those that remain, which
costs about a quarter of a full pass. A small decoder gets the encoded patches and one shared token for every
removed one, each with its position, and predicts the removed pixels. Only the encoder is kept.

Loss, over the set M of removed patches of the batch, with d pixel values in a patch::

    L = 1 / |M|  sum_{i in M}  1 / d  || prediction_i - target_i ||^2
    target_i = (x_i - mean(x_i)) / sqrt(var(x_i) + 1e-6)      (norm_target; otherwise x_i)

Differences from the official code:

* visible patches enter the encoder in raster order, not shuffled: the same function, since positions are
  already added;
* the share to hide is rounded to the nearest patch; the official code keeps int(N * (1 - ratio)), in floating
  point (`rounding="mae_official"`);
* the decoder's last block and the linear layer after it compute the removed patches only: the others are not
  scored;
* the encoder may be any ViT that can leave patches out: learned or rotary positions, registers, without class
  token; or a HiViT, all of whose scales the decoder then sees (MAE-HiViT, arXiv 2205.14949).
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from unmask.decoders import ViTDecoder
from unmask.encoders.base import Encoder, require_dropping
from unmask.encoders.initialise import xavier_linear
from unmask.masking import Mask, RandomMask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.patches import PatchPixels


class MAE(Method):
    """He et al. 2022.

    Args:
        encoder: a ViT or HiViT: one that can leave patches out.
        mask_ratio: share of patches to remove, figure 5.
        norm_target: predict each patch normalised by its own mean and variance, table 1d.
        decoder_dim: width of the decoder, table 1b.
        decoder_depth: blocks of the decoder, table 1a.
        decoder_heads: attention heads of the decoder.
        rounding: how many patches a ratio is; "mae_official" is the official code's floating-point floor.
    """

    card = Card(
        title="MAE",
        target="pixels",
        normalisation="mean and deviation of each patch",
        student="visible patches only (ViT, HiViT)",
        head="Transformer, 8 blocks of width 512",
        loss="L2, hidden patches",
        masking="random patches, 75 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.75,  # figure 5
        norm_target: bool = True,  # table 1d
        decoder_dim: int = 512,  # table 1b
        decoder_depth: int = 8,  # table 1a
        decoder_heads: int = 16,
        rounding: Literal["nearest", "mae_official"] = "nearest",
    ) -> None:
        super().__init__()
        self.encoder = require_dropping(encoder, by="MAE")
        self.masking = RandomMask(ratio=mask_ratio, rounding=rounding)
        self.masking.check(encoder.grid)
        self.pixels = PatchPixels.of(encoder, normalised=norm_target)
        self.decoder = ViTDecoder.of(encoder, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads)
        self.head = nn.Linear(decoder_dim, self.pixels.outputs)
        self.head.apply(xavier_linear)

    def forward(self, images: Float[Tensor, "B C H W"], *, mask: Mask | None = None) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encoder.visible(images, mask)
        # predict
        prediction = self.head(self.decoder(seen, mask, hidden_only=True))
        # target
        target = mask.masked(self.pixels.encode(images))
        # compare
        return {"loss": (prediction.float() - target).square().mean()}

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"]:
        prediction = self.head(self.decoder(self.encoder.visible(images, mask), mask)).float()
        return self.pixels.picture(prediction, images, mask)

    def loss_of(
        self, picture: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, ""]:
        return mask.masked(self.pixels.encode(picture) - self.pixels.encode(images)).square().mean()
