"""iTPN: pre-train a hierarchical backbone and its feature pyramid together, on pixels and on features.

Integrally Pre-Trained Transformer Pyramid Networks. Yunjie Tian, Lingxi Xie, Zhaozhi Wang, Longhui Wei,
Xiaopeng Zhang, Jianbin Jiao, Yaowei Wang, Qi Tian, Qixiang Ye. CVPR 2023, arXiv 2211.12735.

Three quarters of the 16-pixel units are removed; a HiViT sees the rest, and a pyramid of channel MLPs, the
neck of a later detector, turns its three scales into three levels. A decoder gets the sum of the levels and
predicts the removed pixels. Masked feature modelling adds a target for every scale of the backbone: what a
slowly moving average of the backbone makes of the removed units, when it sees nothing but them.

Loss, over the set M of removed units of the batch, with d pixel values in a unit and scales s = 4, 8, 16::

    L = L_pixels + w L_features
    L_pixels   = 1 / |M|  sum_{i in M}  1 / d  || prediction_i - target_i ||^2      (MAE's)
    L_features = 1 / 3  sum_s  1 / |M|  sum_{i in M}  mean (head_s(decoded_i) - norm(teacher_s(x_M)_i))^2

Differences from the official code:

* masked feature modelling was never released, and the paper leaves open (our choice): how targets are
  normalised (each position by its own mean and variance), their distance (mean squared error, the mean of the
  three scales), the heads (one linear layer a scale on the decoder's output), and that the average covers the
  backbone only, with a constant momentum. `feature_weight=0` is the released pixel pre-training;
* units enter the backbone in raster order, not shuffled; `rounding` as in MAE;
* for comparison, `neck="convolution"` has convolutions instead of channel MLPs in the pyramid, and
  `neck="none"` no pyramid at all: the decoder then gets the backbone's own scales, as MAE's does of a HiViT,
  and with `feature_weight=0` it is MAE;
* the released code resizes the position table in pre-training, by a factor slightly above 1, and not when the
  backbone is used; `shifted_positions=True` does the same.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.decoders import PyramidDecoder, ViTDecoder
from unmask.encoders.base import Encoder, Features
from unmask.encoders.hivit_encoder import require_units
from unmask.encoders.itpn import Pyramid
from unmask.masking import Mask, RandomMask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.average import MovingAverage
from unmask.targets.patches import PatchPixels


class ITPN(Method):
    """Tian et al. 2023.

    Args:
        encoder: a HiViT or Fast-iTPN; `itpn_base_patch16_224` is the paper's.
        mask_ratio: share of units to remove.
        norm_target: predict each unit's pixels normalised by their own mean and variance.
        neck: what the pyramid is made of; "none" leaves it out.
        pyramid_dim: width of the pyramid.
        pyramid_depth: channel MLPs, or convolutions, of its two finer levels.
        decoder_dim: width of the decoder, divisible by 16.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        feature_weight: of masked feature modelling; 0 leaves it out.
        momentum: of the teacher, a moving average of the backbone.
        rounding: how many units a ratio is; "mae_official" is the official code's floating-point floor.
        shifted_positions: resize the position table as the official code does.
    """

    card = Card(
        title="iTPN",
        target="pixels, and features of an EMA of the backbone at three scales",
        normalisation="mean and deviation of each patch; of each feature",
        student="visible patches only (HiViT)",
        head="feature pyramid, then a Transformer, 8 blocks of width 512",
        loss="L2 + 0.3 x L2 of the features, hidden patches",
        masking="random patches, 75 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.75,  # official code
        norm_target: bool = True,  # official code
        neck: Literal["mlp", "convolution", "none"] = "mlp",  # paper
        pyramid_dim: int = 256,  # official code
        pyramid_depth: int = 2,  # official code
        decoder_dim: int = 512,  # official code
        decoder_depth: int = 8,  # official code
        decoder_heads: int = 16,  # official code
        feature_weight: float = 0.3,  # paper
        momentum: float = 0.996,  # paper
        rounding: Literal["nearest", "mae_official"] = "nearest",
        shifted_positions: bool = False,
    ) -> None:
        super().__init__()
        if feature_weight < 0:
            raise ValueError(f"feature_weight must not be negative, not {feature_weight}")
        self.encoder = require_units(encoder, by="iTPN")
        self.shifted_positions = shifted_positions
        self.masking = RandomMask(ratio=mask_ratio, rounding=rounding)
        self.masking.check(encoder.grid)
        self.pixels = PatchPixels.of(encoder, normalised=norm_target)
        self.feature_weight = feature_weight
        sizes: dict[str, Any] = {"dim": decoder_dim, "depth": decoder_depth, "heads": decoder_heads}
        self.pyramid: Pyramid | None = None
        self.decoder: PyramidDecoder | ViTDecoder
        if neck == "none":
            self.decoder = ViTDecoder.of(encoder, **sizes)
        else:
            self.pyramid = Pyramid(encoder.dim, width=pyramid_dim, depth=pyramid_depth, block=neck)
            self.decoder = PyramidDecoder(pyramid_dim, encoder.grid, **sizes)
        self.head = nn.Linear(decoder_dim, self.pixels.outputs)
        shares = (4, 2, 1) if feature_weight else ()  # 16 x 1/4, 4 x 1/2, 1 x 1
        self.feature_heads = nn.ModuleList(nn.Linear(decoder_dim, encoder.dim * share) for share in shares)
        self.teacher = MovingAverage(encoder, momentum=momentum) if feature_weight else None

    def forward(self, images: Float[Tensor, "B C H W"], *, mask: Mask | None = None) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encoder.visible(images, mask, shifted_positions=self.shifted_positions)
        # predict
        decoded = self.decode(seen, mask, hidden_only=True)
        pixels, scales = self.head(decoded), [head(decoded) for head in self.feature_heads]
        # target
        target, scale_targets = mask.masked(self.pixels.encode(images)), self.feature_targets(images, mask)
        # compare
        loss = (pixels.float() - target).square().mean()
        if self.teacher is None:
            return {"loss": loss}
        pairs = zip(scales, scale_targets, strict=True)
        features = torch.stack([F.mse_loss(scale.float(), wanted) for scale, wanted in pairs]).mean()
        return {"loss": loss + self.feature_weight * features, "pixels": loss, "features": features}

    def decode(
        self, seen: Features, mask: Mask, *, hidden_only: bool = False
    ) -> Float[Tensor, "B N D"] | Float[Tensor, "B M D"]:
        """States of all units, or of the hidden ones, from the scales of the visible ones."""
        if self.pyramid is None:
            return self.decoder(seen, mask, hidden_only=hidden_only)
        return self.decoder(self.pyramid(seen.pyramid, mask), mask, hidden_only=hidden_only)

    @torch.no_grad()
    def feature_targets(self, images: Float[Tensor, "B C H W"], mask: Mask) -> list[Float[Tensor, "B M E"]]:
        """The teacher's scales of the hidden units, of which it sees no others; every position normalised.
        Nothing without a teacher."""
        if self.teacher is None:
            return []
        shown = mask.inverse()
        seen = self.teacher.module.visible(images, shown, shifted_positions=self.shifted_positions)
        return [F.layer_norm(scale.float(), scale.shape[-1:]).flatten(2) for scale in seen.pyramid]

    def after_step(self, step: int, total: int) -> None:
        if self.teacher is not None:
            self.teacher.follow(self.encoder)

    def predict_features(
        self, images: Float[Tensor, "B C H W"], *, mask: Mask
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]] | None:
        """Of the coarsest scale."""
        if self.teacher is None:
            return None
        seen = self.encoder.visible(images, mask, shifted_positions=self.shifted_positions)
        prediction = self.feature_heads[-1](self.decode(seen, mask)).float()
        target = self.feature_targets(images, mask)[-1]
        unknown = torch.full_like(prediction, torch.nan)
        return prediction, mask.restore(mask.visible(unknown), target)

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"]:
        seen = self.encoder.visible(images, mask, shifted_positions=self.shifted_positions)
        return self.pixels.picture(self.head(self.decode(seen, mask)).float(), images, mask)

    @property
    def feature_pyramid(self) -> Pyramid | None:
        return self.pyramid
