"""MILAN: predict a language-assisted teacher's tokens from the quarter of an image that it looks at most.

MILAN: Masked Image Pretraining on Language Assisted Representation. Zejiang Hou, Fei Sun, Yen-Kuang Chen,
Yuan Xie, Sun-Yuan Kung. 2022, arXiv 2208.06049.

As in MAE, an encoder sees a quarter of the patches and a decoder predicts the rest, but as the image tokens
of CLIP instead of pixels. In the prompting decoder only mask tokens are computed: they look at the encoder's
tokens, which stay as they are and so must themselves lie close to what is predicted. A patch is the likelier
to stay visible the more CLIP's class token looks at it.

Loss, over all T tokens of an image: class token, visible and hidden patches::

    L = 1 / (B T)  sum_{i <= B T}  || p_i / |p_i| - t_i / |t_i| ||^2  =  mean (2 - 2 cos(p_i, t_i))

Differences from the official code:

* visible patches are drawn by Gumbel top-k (largest log importance + Gumbel noise) in float32: the same
  distribution as its successive sampling, without failing on attention that half precision rounds to 0;
* visible patches enter the encoder in raster order, not shuffled; `rounding` as in MAE;
* the teacher normalises images in its own way; there CLIP gets what the encoder gets, normalised by
  ImageNet's statistics;
* a teacher without class token (a convolutional network) pays no such attention: patches are then hidden
  evenly, as in the paper's ablation, and no class token is scored. Nor is it if the encoder has none.
"""

import logging
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.data.views import View
from unmask.encoders.base import Encoder, require_dropping
from unmask.encoders.initialise import xavier_linear
from unmask.masking import ImportanceMask, Mask, RandomMask, WeighableMask
from unmask.methods.base import Method
from unmask.methods.card import Card
from unmask.prompting import PromptingDecoder
from unmask.targets.answers import Question, Taught
from unmask.targets.teacher import Teacher, require_grid

log = logging.getLogger(__name__)


class MILAN(Method):
    """Hou et al. 2022.

    Args:
        encoder: a ViT or HiViT: one that can leave patches out.
        teacher: the frozen network whose tokens are predicted; the paper's is CLIP's ViT-B/16.
        mask_ratio: share of patches to remove.
        sampling: "attention": the more the teacher's class token looks at a patch, the likelier it stays
            visible; "random": all alike. None is attention where the teacher has a class token.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        rounding: how many patches a ratio is; "mae_official" is the official code's floating-point floor.
    """

    card = Card(
        title="MILAN",
        target="tokens of CLIP, or of another teacher",
        normalisation="length 1",
        student="visible patches only (ViT, HiViT)",
        head="prompting decoder: hidden patches only, 8 blocks of width 512",
        loss="2 - 2 cosine, all tokens",
        masking="75 %, the less the teacher looks at a patch the likelier",
    )

    def __init__(
        self,
        encoder: Encoder,
        *,
        teacher: Teacher,
        mask_ratio: float = 0.75,  # official code
        sampling: Literal["attention", "random"] | None = None,  # paper: attention
        decoder_dim: int = 512,  # official code
        decoder_depth: int = 8,  # official code
        decoder_heads: int = 16,  # official code
        rounding: Literal["nearest", "mae_official"] = "nearest",
    ) -> None:
        super().__init__()
        self.encoder = require_dropping(encoder, by="MILAN")
        self.teacher = require_grid(teacher, encoder, by="MILAN")
        self.by_attention = _by_attention(sampling, teacher)
        sampler = ImportanceMask if self.by_attention else RandomMask
        self.masking = sampler(ratio=mask_ratio, rounding=rounding)
        self.masking.check(encoder.grid)
        self.scores_cls = encoder.has_cls and teacher.has_cls
        self.decoder = PromptingDecoder(
            encoder.visible_dim,
            encoder.grid,
            cls=encoder.has_cls,
            norm_input=encoder.visible_dim != encoder.dim,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
        )
        self.head = nn.Linear(decoder_dim, teacher.dim)
        self.head.apply(xavier_linear)
        self.views = {"images": View(), "teacher_images": teacher.view(encoder)}

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        teacher_images: Float[Tensor, "B C h w"] | Taught,
        *,
        mask: Mask | None = None,
    ) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            mask: hidden patches; one from `draw` is still to be weighed by the teacher's attention, any other
                is taken as it is.
        """
        # mask
        taught = self.teacher.about(teacher_images, importance=self.by_attention)
        mask = self.weighed(self.draw(images) if mask is None else mask, taught)
        # encode
        seen = self.encoder.visible(images, mask)
        # predict
        prediction = self.head(self.scored(self.decoder(seen, mask)))
        # target
        target = self.target(taught)
        # compare
        cosine = F.cosine_similarity(prediction.float(), target, dim=-1)
        return {"loss": (2 - 2 * cosine).mean()}

    @property
    def questions(self) -> Mapping[str, Question]:
        return {"teacher_images": self.teacher.question(importance=self.by_attention)}

    def predict_features(
        self, images: Float[Tensor, "B C H W"], teacher_images: Float[Tensor, "B C h w"], *, mask: Mask
    ) -> tuple[Float[Tensor, "B N E"], Float[Tensor, "B N E"]]:
        """Of the patches; both have length 1. The mask is used as it is shown, not weighed."""
        decoded = self.decoder(self.encoder.visible(images, mask), mask)
        prediction = self.head(decoded[:, self.decoder.prefix :]).float()
        return F.normalize(prediction, dim=-1), F.normalize(self.teacher(teacher_images).patches, dim=-1)

    def weighed(self, mask: Mask, taught: Taught) -> Mask:
        """The mask that the step uses."""
        if isinstance(mask, WeighableMask) and taught.importance is not None:
            return mask.weighed(taught.importance)
        return mask

    def scored(self, tokens: Float[Tensor, "B P D"]) -> Float[Tensor, "B T D"]:
        """Those of the decoder's tokens that have a target: not the class token if the teacher has none."""
        return tokens if self.scores_cls else tokens[:, self.decoder.prefix :]

    def target(self, taught: Taught) -> Float[Tensor, "B T E"]:
        """The teacher's tokens, the class token first, if it is scored."""
        if not self.scores_cls:
            return taught.patches
        assert taught.cls is not None
        return torch.cat([taught.cls[:, None], taught.patches], dim=1)


def _by_attention(sampling: Literal["attention", "random"] | None, teacher: Teacher) -> bool:
    """Whether the teacher's attention decides what stays visible."""
    if sampling is None and not teacher.has_cls:
        log.warning(
            "The teacher has no class token: patches are hidden evenly, and no class token is scored."
        )
    if sampling == "attention" and not teacher.has_cls:
        raise ValueError(
            "sampling=attention asks a class token what matters, but the teacher has none; use a ViT as "
            "teacher, or method.sampling=random"
        )
    return teacher.has_cls if sampling is None else sampling == "attention"
