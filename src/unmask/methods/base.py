"""What the engine knows of a method."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import Encoder
from unmask.encoders.itpn import Pyramid
from unmask.learner import Learner
from unmask.masking import Grid, Mask
from unmask.methods.card import Card

Masking = Callable[[int, Grid, torch.device], Mask]


class Method(Learner):
    """One paper's objective.

    A method is final: write a new one by subclassing this class only. Its forward has five commented steps in
    the same order in every file: mask, encode, predict, target, compare.

    Attributes:
        card: what the method is beside others; every method that is listed has one of its own.
        encoder: the backbone that is exported.
        masking: draws the hidden patches.
    """

    card: ClassVar[Card]
    encoder: Encoder
    masking: Masking

    def draw(self, images: Float[Tensor, "B C H W"], *, first: int = 0, batch: int | None = None) -> Mask:
        """Fresh masks for images, on their device, from the device's default generator.

        Where several processes, or several passes, share a batch, masks are drawn for all of it and those of
        `images` are taken: what an image gets depends on its place in the batch alone.

        Args:
            first: place of the first of `images` in the batch.
            batch: images in the batch; None if `images` are all of them.
        """
        drawn = self.masking(batch or len(images), self.encoder.grid, images.device)
        return drawn if batch is None else drawn.rows(first, first + len(images))

    def draws(
        self, images: Float[Tensor, "B C H W"], *, first: int = 0, batch: int | None = None
    ) -> dict[str, Mask]:
        return {"mask": self.draw(images, first=first, batch=batch)}

    @abstractmethod
    def forward(self, *views: Any, mask: Mask | None = None) -> dict[str, Tensor]:
        """Losses of one batch; "loss" is minimised, the others are logged.

        Args:
            views: batches [B, C, H, W], by keyword, one for every entry of `views`.
            mask: hidden patches; drawn if None.
        """

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Mask) -> Float[Tensor, "B C H W"] | None:
        """The images as the method believes them to be, for pictures, in the normalised units of `images`.

        None (the default) says that nothing of what it predicts can be shown as an image.

        Nothing of the hidden pixels may be used: where a target is normalised by its own statistics, those of
        the visible surroundings stand in.
        """
        return None

    def predict_features(
        self, *, mask: Mask, **views: Float[Tensor, "B C _ _"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]] | None:
        """(prediction, target) of a method that predicts features, for pictures, in the space that its loss
        compares them in; in raster order of the encoder's grid.

        None (the default) says that it predicts none. Of the prediction only hidden patches are shown. A
        target that exists for hidden patches only is not a number (nan) at the others. The hidden part of the
        prediction may depend on nothing hidden; the target may.

        Args:
            views: as in `forward`; methods name theirs.
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
    def feature_pyramid(self) -> Pyramid | None:
        """The pyramid that was pre-trained together with the encoder and is handed over beside it, for
        detection and segmentation; None (the default) if there is none.
        """
        return None
