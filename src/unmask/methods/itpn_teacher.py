"""iTPN with a teacher: backbone and feature pyramid learn the features of a frozen network.

Integrally Pre-Trained Transformer Pyramid Networks. Yunjie Tian, Lingxi Xie, Zhaozhi Wang, Longhui Wei,
Xiaopeng Zhang, Jianbin Jiao, Yaowei Wang, Qi Tian, Qixiang Ye. CVPR 2023, arXiv 2211.12735.

The second form of iTPN's masked feature modelling: the teacher (CLIP in the paper) sees the whole image, the
student an image with blocks of units replaced by a token. The three levels of the pyramid are added up, unit
by unit, and predict the teacher's features; there is no decoder and no pixel is predicted. An auxiliary
branch of two blocks predicts the same from three quarters of the way through the backbone.

Loss, over all N units of the batch, visible ones too, with features of width D::

    L = 1 / N  sum_i  1 / D  ( h(prediction_i - target_i) + a h(auxiliary_i - target_i) )
    h(e) = e^2 / 2 where |e| < 1, |e| - 1/2 elsewhere      (smooth L1)
    target_i = (teacher_i - mean(teacher_i)) / sqrt(var(teacher_i) + 1e-5)

Differences from the official code:

* a unit is hidden by a token at stride 16, but the pyramid also takes the two finer scales, where the
  official code shows it the hidden pixels. Here they are hidden there too, each scale by a token of its own;
  `leaking_laterals=True` leaves them as they are;
* the official teacher gets images squeezed into [0.5, 1], by a scaling meant for [-1, 1];
  `squeezed_range=True` does the same;
* the number of hidden units is exact; `official_masks=True` draws BEiT's inexact ones;
* any teacher whose features lie on the backbone's grid.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn, where, zeros

from unmask.data.views import View
from unmask.decoders import LevelSum
from unmask.encoders.base import Encoder, Features
from unmask.encoders.hivit_encoder import require_units
from unmask.encoders.initialise import initialise_token, normal_linear
from unmask.encoders.itpn import Pyramid
from unmask.encoders.units import SCALES
from unmask.masking import BlockMask, Mask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.targets.answers import Question, Taught
from unmask.targets.teacher import Teacher, require_grid


class ITPNTeacher(Method):
    """Tian et al. 2023, with a teacher.

    Args:
        encoder: a HiViT or Fast-iTPN; `itpn_base_patch16_224` with relative positions and factors on the
            residual branches is the paper's.
        teacher: whose features are predicted; its grid must be the encoder's.
        mask_ratio: share of units to hide, 75 of 14 x 14.
        pyramid_dim: width of the pyramid.
        pyramid_depth: channel MLPs of its two finer levels.
        auxiliary_weight: of the loss of the auxiliary branch; 0 leaves it out.
        auxiliary_depth: its blocks.
        auxiliary_start: how far into the backbone's blocks of attention it starts.
        official_masks: blocks that hide a little less than asked for, as in BEiT.
        leaking_laterals: let the pyramid see hidden pixels, as the official code does.
        squeezed_range: show the teacher images in [0.5, 1], as the official code does.
    """

    card = Card(
        title="iTPN with a teacher",
        target="features of CLIP, or of another teacher",
        normalisation="mean and deviation of each feature",
        student="a token for each hidden patch (HiViT)",
        head="feature pyramid, one matrix; another behind 2 blocks of an early branch",
        loss="smooth L1, all patches",
        masking="blocks of patches, 38 %",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        teacher: Teacher,
        mask_ratio: float = 75 / 196,  # official code
        pyramid_dim: int = 256,  # official code
        pyramid_depth: int = 1,  # official code
        auxiliary_weight: float = 1.0,  # official code
        auxiliary_depth: int = 2,  # official code
        auxiliary_start: float = 0.75,  # official code
        official_masks: bool = False,
        leaking_laterals: bool = False,
        squeezed_range: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = require_units(encoder, by="iTPN")
        if auxiliary_weight < 0 or not 0 <= auxiliary_start < 1:
            raise ValueError(
                "auxiliary_weight must not be negative, and auxiliary_start lie in [0, 1), not "
                f"{auxiliary_weight} and {auxiliary_start}"
            )
        self.teacher = require_grid(teacher, encoder, by="iTPN")
        # The official code enlarges or shrinks the teacher's view by another filter than the student's.
        second = replace(teacher.view(encoder), interpolation="lanczos")
        self.views = {"images": View(), "teacher_images": second}
        self.masking = BlockMask(ratio=mask_ratio, official=official_masks)
        self.masking.check(encoder.grid)
        self.squeezed_range = squeezed_range
        self.token = nn.Parameter(zeros(1, 1, encoder.token_dim))
        widths = () if leaking_laterals else (encoder.dim // 4, encoder.dim // 2)
        self.lateral_tokens = nn.ParameterList(zeros(1, width, 1, 1) for width in widths)
        for token in (self.token, *self.lateral_tokens):
            initialise_token(token, encoder)
        self.pyramid = Pyramid(encoder.dim, width=pyramid_dim, depth=pyramid_depth)
        self.embed = LevelSum(pyramid_dim, encoder.dim)
        self.head = _head(encoder.dim, teacher.dim)
        self.auxiliary_weight = auxiliary_weight
        self.branch = int(auxiliary_start * encoder.depth)
        rates = self.encoder.model.drop_path_rates[self.branch :]
        self.auxiliary = nn.ModuleList(
            self.encoder.model.new_block(drop_path=rates[min(index, len(rates) - 1)])
            for index in range(auxiliary_depth if auxiliary_weight else 0)
        )
        self.auxiliary_head = _head(encoder.dim, teacher.dim) if auxiliary_weight else None
        for part in (self.embed, self.auxiliary, self.head, self.auxiliary_head):
            if part is not None:
                part.apply(normal_linear)
        for module in self.auxiliary.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5  # official code; elsewhere 1e-6

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        teacher_images: Float[Tensor, "B C h w"] | Taught,
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        # mask
        mask = self.draw(images) if mask is None else mask
        # encode
        seen = self.encoder(images, mask, self.token, take=(self.branch,))
        # predict
        prediction, auxiliary = self.predict(seen, mask), self.predict_early(seen.taps[0])
        # target
        target = self.target(teacher_images)
        # compare
        loss = F.smooth_l1_loss(prediction.float(), target)
        if auxiliary is None:
            return {"loss": loss}
        early = F.smooth_l1_loss(auxiliary.float(), target)
        return {"loss": loss + self.auxiliary_weight * early, "main": loss, "auxiliary": early}

    def predict(self, seen: Features, mask: Mask) -> Float[Tensor, "B N E"]:
        """The teacher's features of every unit, from the sum of the pyramid's levels."""
        return self.head(self.embed(self.pyramid.whole(self.hide_laterals(seen.pyramid, mask))))

    def hide_laterals(
        self, scales: tuple[Float[Tensor, "B _ _ _"], ...], mask: Mask
    ) -> list[Float[Tensor, "B _ _ _"]]:
        """The backbone's maps, hidden units replaced in the finer two as well."""
        *fine, coarse = scales
        pairs = zip(fine, self.lateral_tokens or (None, None), SCALES[:2], strict=True)
        hidden = [
            scale if token is None else where(mask.pixels(side), token.to(scale.dtype), scale)
            for scale, token, side in pairs
        ]
        return [*hidden, coarse]

    def predict_early(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N E"] | None:
        """The teacher's features of every unit, from tokens on their way; None without auxiliary branch."""
        if self.auxiliary_head is None:
            return None
        for block in self.auxiliary:
            tokens = block(tokens, self.encoder.model.positions)
        return self.auxiliary_head(tokens)

    def target(self, teacher_images: Float[Tensor, "B C h w"] | Taught) -> Float[Tensor, "B N E"]:
        """The teacher's features of every unit, each with mean 0 and variance 1."""
        taught = teacher_images if isinstance(teacher_images, Taught) else self.taught(teacher_images)
        return F.layer_norm(taught.patches, (self.teacher.dim,))

    def taught(self, teacher_images: Float[Tensor, "B C h w"]) -> Taught:
        """What the teacher says, of images in the range that it is shown."""
        return self.teacher((teacher_images + 1) / 2 if self.squeezed_range else teacher_images)

    @property
    def questions(self) -> Mapping[str, Question]:
        network = {**self.teacher.description, "squeezed_range": self.squeezed_range}
        return {"teacher_images": Question(network=network, ask=self.taught)}

    def predict_features(
        self, images: Float[Tensor, "B C H W"], teacher_images: Float[Tensor, "B C h w"], *, mask: Mask
    ) -> tuple[Float[Tensor, "B N E"], Float[Tensor, "B N E"]]:
        prediction = self.predict(self.encoder(images, mask, self.token), mask)
        return prediction.float(), self.target(teacher_images)

    @property
    def feature_pyramid(self) -> Pyramid:
        return self.pyramid


def _head(dim: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, outputs))
