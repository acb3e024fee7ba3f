"""What the engine trains: methods, which keep an encoder, and tokenizers, which keep codes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unmask.data.views import View
from unmask.masking import Mask
from unmask.targets.answers import Question


class Learner(nn.Module, ABC):
    """A module whose forward takes views of images and returns its losses.

    It holds no optimiser, logging or distributed code.

    Attributes:
        views: the image views that the loader builds; the keys are the parameter names of `forward`. The
            first is the one that masks and pictures are made for.
    """

    views: Mapping[str, View] = MappingProxyType({"images": View()})

    @abstractmethod
    def forward(self, *views: Any) -> dict[str, Tensor]:
        """Losses of one batch; "loss" is minimised, the others are logged.

        Args:
            views: batches [B, C, H, W], by keyword, one for every entry of `views`; or, in the place of one
                that is among `questions`, the answer.
        """

    @property
    def questions(self) -> Mapping[str, Question]:
        """What is asked of frozen networks, by the name of the view that they are asked about; nothing by
        default."""
        return {}

    def draws(
        self, images: Float[Tensor, "B C H W"], *, first: int = 0, batch: int | None = None
    ) -> dict[str, Mask]:
        """What `forward` takes beside the views, drawn for images as `Method.draw` says: a method's masks;
        nothing (the default) where nothing is hidden."""
        return {}

    def after_step(self, step: int, total: int) -> None:
        """Called after every optimiser step, `step` in [1, total]: momentum teachers and the like."""

    @property
    def chance_loss(self) -> float | None:
        """The loss of guessing evenly among K classes, log K, where classes are predicted; None (the default)
        otherwise.
        """
        return None
