"""SimMIM: replace random squares by a token, regress their pixels with one linear layer.

SimMIM: A Simple Framework for Masked Image Modeling. Zhenda Xie, Zheng Zhang, Yue Cao, Yutong Lin, Jianmin
Bao, Zhuliang Yao, Qi Dai, Han Hu. CVPR 2022, arXiv 2111.09886.

Squares of 32 x 32 pixels are hidden: the embeddings of their patches become one learned vector, and an
unmodified encoder (ViT, Swin, SwinV2) sees all of them. One linear layer predicts the pixels that each output
feature stands for. Because no token is left out it works with windowed and hierarchical encoders.

Loss, over the set M of hidden pixels of the batch, with C channels::

    L = 1 / (C |M|)  sum_{i in M}  | prediction_i - x_i |_1

Differences from the official code:

* the mean divides by |M|, the official one by |M| + 1e-5;
* rectangular images and any number of channels;
* `local_window` normalises targets as in the follow-up ("On Data Scaling in Masked Image Modeling", arXiv
  2206.04664; 47 there), with the variance in float64: in float32 the official formula turns a constant image
  into noise.
"""

from jaxtyping import Float
from torch import Tensor, nn, zeros

from unmask.encoders.base import Encoder
from unmask.encoders.initialise import initialise_token
from unmask.masking import Mask, RandomMask
from unmask.methods.base import Method
from unmask.patches import from_patches, normalise_locally, to_patches, visible_statistics


class SimMIM(Method):
    """Xie et al. 2022.

    Args:
        encoder: any encoder.
        mask_ratio: share of squares to hide, rounded up, table 1.
        mask_size: side of a square in pixels, a multiple of the encoder's patch size, table 1.
        local_window: normalise target pixels by the window of so many pixels around each; None predicts plain
            pixels.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.6,  # table 1
        mask_size: int = 32,  # table 1
        local_window: int | None = None,
    ) -> None:
        super().__init__()
        if mask_size < 1 or mask_size % encoder.patch_size:
            fitting = max(1, round(mask_size / encoder.patch_size)) * encoder.patch_size
            raise ValueError(
                f"mask_size of {mask_size} pixels is no multiple of the encoder's patches of "
                f"{encoder.patch_size} pixels; use for instance method.mask_size={fitting}"
            )
        if local_window is not None and (local_window < 3 or local_window % 2 == 0):
            raise ValueError(f"local_window must be an odd number of at least 3 pixels, not {local_window}")
        self.encoder = encoder
        self.masking = RandomMask(ratio=mask_ratio, unit=mask_size // encoder.patch_size, rounding="up")
        self.masking.check(encoder.grid)
        self.local_window = local_window
        self.token = nn.Parameter(zeros(1, 1, encoder.token_dim))
        initialise_token(self.token, encoder)
        self.head = nn.Linear(encoder.dim, encoder.channels * encoder.stride**2)

    def forward(self, images: Float[Tensor, "B C H W"], *, mask: Mask | None = None) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encoder(images, mask, self.token)
        # predict
        prediction = self.pixels(self.head(seen.patches))
        # target
        target = self.target(images)
        # compare
        error = (prediction.float() - target).abs()
        return {"loss": mask.mean(to_patches(error, self.encoder.patch_size).mean(-1))}

    def pixels(self, prediction: Float[Tensor, "B N E"]) -> Float[Tensor, "B C H W"]:
        """Predictions of all features as an image; the order in a feature is (channel, row, column)."""
        return from_patches(prediction, self.encoder.feature_grid, self.encoder.stride, "c p q")

    def target(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """What every pixel should be predicted as."""
        return images if self.local_window is None else normalise_locally(images, self.local_window)

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"]:
        prediction = self.pixels(self.head(self.encoder(images, mask, self.token).patches)).float()
        if self.local_window is None:
            return prediction
        hidden = mask.pixels(self.encoder.patch_size)
        mean, deviation = visible_statistics(images, hidden, self.local_window)
        return prediction * deviation + mean

    def loss_of(
        self, picture: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, ""]:
        error = (self.target(picture) - self.target(images)).abs()
        return mask.mean(to_patches(error, self.encoder.patch_size).mean(-1))
