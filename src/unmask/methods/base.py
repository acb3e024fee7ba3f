"""What the engine knows of a method."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.data.views import View
from unmask.encoders.base import Encoder
from unmask.masking import Grid, Mask

Masking = Callable[[int, Grid, torch.device], Mask]


class Method(nn.Module, ABC):
    """One paper's objective: a module whose forward takes views of images and returns its losses.

    A method is final: write a new one by subclassing this class only. Its forward has five commented steps in
    the same order in every file: mask, encode, predict, target, compare. It holds no optimiser, logging or
    distributed code.

    Attributes:
        views: the image views that the loader builds; the keys are the parameter names of `forward`.
        encoder: the backbone that is exported.
        masking: draws the hidden patches.
    """

    views: ClassVar[Mapping[str, View]] = MappingProxyType({"images": View()})
    encoder: Encoder
    masking: Masking

    def draw(self, images: Float[Tensor, "B C H W"]) -> Mask:
        """Fresh masks for a batch, on its device, from the device's default generator."""
        return self.masking(len(images), self.encoder.grid, images.device)

    @abstractmethod
    def forward(self, *views: Any, mask: Mask | None = None) -> dict[str, Tensor]:
        """Losses of one batch; "loss" is minimised, the others are logged.

        Args:
            views: batches [B, C, H, W], normalised by the data set's mean and standard deviation; by keyword,
                one for every entry of `views`.
            mask: hidden patches; drawn if None.
        """

    def after_step(self, step: int, total: int) -> None:
        """Called after every optimiser step, `step` in [1, total]: momentum teachers and the like."""

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        """The images as the method believes them to be, for pictures, in the normalised units of `images`.

        None (the default) says that nothing of what it predicts can be shown as an image.

        Nothing of the hidden pixels may be used: where a target is normalised by its own statistics, those of
        the visible surroundings stand in.
        """
        return None

    def loss_of(
        self, picture: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, ""] | None:
        """The loss if `picture` were what the method predicts: tells what a loss is worth, by that of simple
        guesses.

        None (the default) says that its target is not made of pixels.

        Args:
            picture: a guess at `images`, normalised likewise.
            images: the first of the method's views.
        """
        return None

    @property
    def chance_loss(self) -> float | None:
        """The loss of guessing evenly among K classes, log K, of a method that predicts classes; None (the
        default) for all others.
        """
        return None
