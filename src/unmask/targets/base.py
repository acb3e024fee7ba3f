"""What a method that predicts colours knows of its target."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Shaped
from torch import Tensor, nn


class Target(nn.Module, ABC):
    """A way to say the colour of a place, and to score what is said.

    Colours are normalised, as an encoder sees them, whatever they are predicted as.

    Attributes:
        outputs: numbers predicted for a place.
        chance_loss: the error of guessing evenly among classes; None if it has no classes.
    """

    outputs: int
    chance_loss: float | None = None

    @abstractmethod
    def encode(self, colours: Float[Tensor, "B C h w"]) -> Shaped[Tensor, "B c h w"]:
        """What should be predicted."""

    @abstractmethod
    def error(
        self, prediction: Float[Tensor, "B E h w"], target: Shaped[Tensor, "B c h w"]
    ) -> Float[Tensor, "B c h w"]:
        """How wrong a prediction is, at every place."""

    @abstractmethod
    def decode(self, prediction: Float[Tensor, "B E h w"]) -> Float[Tensor, "B C h w"]:
        """The colours that are predicted."""
