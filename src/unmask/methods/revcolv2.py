"""RevColV2: pre-train encoder and decoder as one network of reversible columns, and keep both.

RevColV2: Exploring Disentangled Representations in Masked Image Modeling. Qi Han, Yuxuan Cai, Xiangyu Zhang.
NeurIPS 2023, arXiv 2309.01005.

MAE throws its decoder away, and fine-tuning begins with a network that pre-training never used on its own.
Here columns of the encoder go up from the visible patches, each of their levels gets its own token where
patches are hidden, and columns of the decoder go down over all patches; what is low-level stays in the
bottom level, from which pixels are predicted, and what is semantic in the top level, which classifies
afterwards. Joint pre-training also predicts a teacher's features from the top level.

Loss, over the set M of hidden patches of the batch, with d pixel values in a patch and D teacher channels::

    L = L_pixels + w L_features
    L_pixels   = 1 / |M|  sum_{i in M}  1 / d  || pixel_head(level_0)_i - target_i ||^2      (MAE's)
    L_features = 1 / |M|  sum_{i in M}  1 / D  smooth_l1(feature_head(level_3)_i, norm(teacher_i))

Neither code nor weights were ever published, so this is our reconstruction: the idea follows the paper, the
equations of the columns are RevCol's, and the rest is decided in docs/methods/revcolv2.md, choice by choice.
Of the method those are:

* a token a level (`shared_token` for one), added between the columns, with positions added again;
* norm and matrix as heads; MAE's target and ratio for pixels; for features the teacher's, every patch
  normalised, smooth L1 with beta 1, hidden patches only, weight 1;
* pixels and features are always predicted from the last column, whose shape is the encoder's choice.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.data.views import View
from unmask.encoders.base import Encoder
from unmask.encoders.initialise import xavier_linear
from unmask.encoders.revcolv2_encoder import RevColViTEncoder
from unmask.masking import Mask, RandomMask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.answers import Question, Taught
from unmask.targets.patches import PatchPixels
from unmask.targets.teacher import Teacher, require_grid


class RevColV2(Method):
    """Han et al. 2023, reconstructed.

    Args:
        encoder: a `RevColViT` with decoder columns, for instance `revcolv2_base_patch16_224`.
        teacher: whose features the top level predicts too; None pre-trains on pixels alone.
        mask_ratio: share of patches to hide.
        norm_target: predict each patch normalised by its own mean and variance.
        shared_token: one token for hidden patches at all levels, in place of one each.
        feature_weight: of the loss of the teacher's features.
        feature_scope: score features of hidden patches, or of all.
        rounding: how many patches a ratio is; "mae_official" is MAE's floating-point floor.
    """

    card = Card(
        title="RevColV2 (our reconstruction)",
        target="pixels at the bottom; with a teacher its features at the top",
        normalisation="mean and deviation of each patch; of each feature",
        student="visible patches only, in the columns that go up (RevColV2)",
        head="columns that go down, kept afterwards; one matrix",
        loss="L2 + smooth L1 of the features, hidden patches",
        masking="random patches, 75 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        teacher: Teacher | None = None,
        mask_ratio: float = 0.75,  # MAE's
        norm_target: bool = True,  # MAE's
        shared_token: bool = False,
        feature_weight: float = 1.0,
        feature_scope: Literal["hidden", "all"] = "hidden",
        rounding: Literal["nearest", "mae_official"] = "nearest",
    ) -> None:
        super().__init__()
        self.encoder: RevColViTEncoder = _require_columns(encoder, teacher)
        if feature_weight <= 0:
            raise ValueError(f"feature_weight must be positive, not {feature_weight}")
        if teacher is None and (feature_weight != 1.0 or feature_scope != "hidden"):
            raise ValueError(
                "method.feature_weight and method.feature_scope belong to a method.teacher; give one too"
            )
        if teacher is not None:
            self.views = {"images": View(), "teacher_images": teacher.view(encoder)}
        self.masking = RandomMask(ratio=mask_ratio, rounding=rounding)
        self.masking.check(encoder.grid)
        self.pixels = PatchPixels.of(encoder, normalised=norm_target)
        self.teacher = None if teacher is None else require_grid(teacher, encoder, by="RevColV2")
        self.feature_weight, self.feature_scope = feature_weight, feature_scope
        width, levels = encoder.token_dim, self.encoder.model.num_levels
        self.mask_tokens = nn.Parameter(torch.zeros(1 if shared_token else levels, 1, 1, width))
        nn.init.normal_(self.mask_tokens, std=0.02)
        self.pixel_head = _head(width, self.pixels.outputs)
        self.feature_head = None if teacher is None else _head(width, teacher.dim)

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        teacher_images: Float[Tensor, "B C h w"] | Taught | None = None,
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        levels = self.encoder.complete(images, mask, self.tokens)
        # predict
        pixels = self.pixel_head(mask.masked(levels[0]))
        features = None if self.feature_head is None else self.feature_head(self._scored(levels[-1], mask))
        # target
        target = mask.masked(self.pixels.encode(images))
        wanted = None if teacher_images is None else self._scored(self.feature_targets(teacher_images), mask)
        # compare
        loss = (pixels.float() - target).square().mean()
        if features is None or wanted is None:
            return {"loss": loss}
        of_features = F.smooth_l1_loss(features.float(), wanted)
        return {"loss": loss + self.feature_weight * of_features, "pixels": loss, "features": of_features}

    @property
    def tokens(self) -> list[Float[Tensor, "1 1 D"]]:
        """What stands for a hidden patch at every level."""
        return list(self.mask_tokens.expand(self.encoder.model.num_levels, -1, -1, -1))

    @property
    def questions(self) -> Mapping[str, Question]:
        return {} if self.teacher is None else {"teacher_images": self.teacher.question()}

    def feature_targets(self, teacher_images: Float[Tensor, "B C h w"] | Taught) -> Float[Tensor, "B N E"]:
        """The teacher's features of all patches, each with mean 0 and variance 1."""
        assert self.teacher is not None
        patches = self.teacher.about(teacher_images).patches
        return F.layer_norm(patches.float(), patches.shape[-1:])

    def _scored(self, patches: Float[Tensor, "B N _"], mask: Mask) -> Tensor:
        return mask.masked(patches) if self.feature_scope == "hidden" else patches

    def predict_features(
        self,
        images: Float[Tensor, "B C H W"],
        teacher_images: Float[Tensor, "B C h w"] | None = None,
        *,
        mask: Mask,
    ) -> tuple[Float[Tensor, "B N E"], Float[Tensor, "B N E"]] | None:
        """Of the top level; None without a teacher."""
        if self.feature_head is None or teacher_images is None:
            return None
        top = self.encoder.complete(images, mask, self.tokens)[-1]
        return self.feature_head(top).float(), self.feature_targets(teacher_images)

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"]:
        prediction = self.pixel_head(self.encoder.complete(images, mask, self.tokens)[0]).float()
        return self.pixels.picture(prediction, images, mask)

    def loss_of(
        self, picture: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, ""] | None:
        if self.teacher is not None:
            return None  # a picture says nothing about features
        return mask.masked(self.pixels.encode(picture) - self.pixels.encode(images)).square().mean()


def _head(width: int, outputs: int) -> nn.Sequential:
    """Levels leave the columns without a norm."""
    head = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, outputs))
    return head.apply(xavier_linear)


def _require_columns(encoder: Encoder, teacher: Teacher | None) -> RevColViTEncoder:
    """The encoder, checked to have columns all of which would learn."""
    if not isinstance(encoder, RevColViTEncoder):
        raise ValueError(
            f"RevColV2 pre-trains columns that go up and down, but got a {type(encoder.model).__name__}; use "
            "for instance revcolv2_base_patch16_224"
        )
    if not len(encoder.model.down):
        raise ValueError("RevColV2 predicts hidden patches by decoder columns; give encoder.down_columns=2")
    if teacher is None and encoder.model.decoder_order == "up":
        raise ValueError(
            "with encoder.decoder_order=up the bottom level comes first in its column, and decoder blocks "
            "that do not lead to it would never learn from pixels; use encoder.decoder_order=down, or a "
            "method.teacher, whose features are predicted from the top level"
        )
    return encoder
