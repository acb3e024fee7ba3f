"""What differs between training a method and training a tokenizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from unmask.errors import UserError
from unmask.learner import Learner

if TYPE_CHECKING:
    from unmask.engine.setup import Job

Trained = TypeVar("Trained", bound=Learner)
Read = Callable[[tuple[int, int]], Shaped[Tensor, "n C H W"]]  # height, width


class Kind(ABC, Generic[Trained]):
    """How a learner is built, measured, shown and handed over.

    The learner that is passed is the job's result: with the weights that are exported.

    Attributes:
        weights: the file that is handed over.
        best: the file of the weights that scored best in a probe; None if none are kept.
    """

    weights: str
    best: str | None

    @abstractmethod
    def build(
        self, recipe: Any, folder: Path, *, checkpointing: bool, parts: Mapping[str, object] | None = None
    ) -> Trained:
        """The recipe's learner with fresh weights.

        Args:
            folder: of the run.
            checkpointing: recompute activations.
            parts: objects for options that a recipe can only name, in the place of what it names.

        Raises:
            UserError: something does not fit together, or cannot be had.
        """

    @abstractmethod
    def width(self, learner: Trained) -> int:
        """Of its transformer, 0 without one: narrow ones are slower in bf16 on a CPU."""

    @abstractmethod
    def inputs(self, recipe: Any, folder: Path) -> dict[str, str]:
        """Fingerprints of the trained files that a run stands on, by the option that names them."""

    @abstractmethod
    def losses(self, learner: Trained, views: Mapping[str, Float[Tensor, "B C H W"]]) -> dict[str, Any]:
        """ "probe_loss" of these views, and what it is to be compared with; as plain data."""

    @abstractmethod
    def look(
        self, job: "Job", learner: Trained, pixels: Shaped[Tensor, "n C H W"], *, batch: int
    ) -> tuple[Float[Tensor, "n D"], dict[str, Any]]:
        """A vector for every image, as it was read, and what is found in all of them; as plain data.

        Args:
            batch: images at a time.
        """

    def about(self, features: Float[Tensor, "n D"]) -> dict[str, Any]:
        """What the vectors of two images or more say of the learner, as plain data; nothing by default."""
        return {}

    @abstractmethod
    def picture(self, job: "Job", learner: Trained, read: Read) -> Image.Image | None:
        """A few images and what becomes of them; None if it cannot be shown.

        Args:
            read: the images in a size, on the job's device, as they are stored.
        """

    def conclude(self, job: "Job", learner: Trained, step: int) -> None:
        """What is still to be drawn into `images/` when a run ends; nothing by default."""

    @abstractmethod
    def hand_over(self, job: "Job", learner: Trained, file: str, *, made_by: dict[str, Any]) -> None:
        """Write the result into the run's folder, for use without the run.

        Args:
            file: name of the weights.
            made_by: what trained it, as plain data.
        """


def require_unchanged_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """
    Raises:
        UserError: a run that goes on would be given other trained files than it began with.
    """
    for option, fingerprint in now.items():
        if before.get(option, fingerprint) != fingerprint:
            raise UserError(
                f"the weights that {option} names are not those that the run began with (SHA-256 "
                f"{before[option][:12]} then, {fingerprint[:12]} now), and their codes differ. Put the old "
                "file back, or start a new run."
            )
