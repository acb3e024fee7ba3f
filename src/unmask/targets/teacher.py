"""What a method knows of a frozen network whose features are to be predicted."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unmask.data.views import View
from unmask.encoders.base import Encoder
from unmask.errors import UserError
from unmask.masking import Grid
from unmask.targets.answers import Question, Taught


class Teacher(nn.Module, ABC):
    """A frozen network: never trained, always in evaluation mode, without gradients. It normalises images
    itself, and computes in float32 or, under autocast, as that says; what it hands over is float32.

    Checkpoints hold its description, not its weights, where these are `Frozen`.

    Attributes:
        image_size: height and width in pixels of the images that it takes.
        grid: rows and columns of its features for such images.
        dim: width of its features.
        has_cls: whether it has a class token.
        description: what decides its features (name, weights, normalisation, activation, tap, projection,
            grid), as plain data; kept in checkpoints and compared when one is read.
        introduction: what a person should know who trains with it; a sentence or more, may be empty.
    """

    image_size: tuple[int, int]
    grid: Grid
    dim: int
    has_cls: bool
    description: Mapping[str, Any]
    introduction: str = ""

    @abstractmethod
    def forward(self, images: Float[Tensor, "B C H W"], *, importance: bool = False) -> Taught:
        """Features of images.

        Args:
            images: of `image_size`, pixels in [0, 1].
            importance: also say which patches matter.

        Raises:
            ValueError: importance is asked of a network without attention of a class token.
        """

    def about(self, images: Float[Tensor, "B C H W"] | Taught, *, importance: bool = False) -> Taught:
        """What it says of images, as `forward`; what it said of them before is handed through."""
        return images if isinstance(images, Taught) else self(images, importance=importance)

    def question(self, *, importance: bool = False) -> Question:
        """To ask about its images what `forward` says."""
        return Question(
            network={**self.description, "importance": importance},
            ask=partial(self, importance=importance),
        )

    def states(self, images: Float[Tensor, "B C H W"], *, depths: int) -> tuple[Float[Tensor, "B _ _"], ...]:
        """What it computes on the way, places by features; gradients pass through to the images.

        Args:
            images: of `image_size`, pixels in [0, 1].
            depths: how many, evenly spread, the last included; fewer if it has fewer.

        Raises:
            ValueError: it does not show them (the default).
        """
        raise ValueError(f"a {type(self).__name__} does not show what it computes on the way")

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    def view(self, encoder: Encoder) -> View:
        """The images that it is to be given beside those of a student."""
        return View(scale=self.image_size[0] / encoder.image_size[0], normalised=False)

    def get_extra_state(self) -> Tensor:
        """The description, as a tensor of bytes, so that it fits into any file of weights."""
        text = json.dumps(dict(self.description), sort_keys=True)
        return torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is taken over: the teacher must be the one that the weights were trained with.

        Raises:
            UserError: it is another one; with all that differs.
        """
        saved = json.loads(bytes(state.tolist()))
        own = json.loads(json.dumps(dict(self.description)))
        changed = [
            f"{key} was {saved.get(key, 'not known')}, not {own.get(key, 'not known')}"
            for key in {**saved, **own}
            if saved.get(key) != own.get(key)
        ]
        if changed:
            raise UserError(
                f"these weights were trained with another teacher: its {'; its '.join(changed)}. Bring the "
                "former teacher back, or start a new run."
            )


def require_grid(teacher: Teacher, encoder: Encoder, *, by: str) -> Teacher:
    """The teacher, if it has a feature for each of the encoder's.

    Args:
        by: the method that needs it.

    Raises:
        ValueError: its grid is another one.
    """
    if teacher.grid != encoder.feature_grid:
        theirs, ours = (f"{rows} x {columns}" for rows, columns in (teacher.grid, encoder.feature_grid))
        raise ValueError(
            f"{by} predicts a feature of the teacher for each of the encoder's, but the teacher has {theirs} "
            f"features and the encoder {ours}; build it by create_teacher(name, grid={encoder.feature_grid})"
        )
    return teacher


def evenly(depth: int, count: int) -> list[int]:
    """At most `count` indices of `depth` layers, evenly spread, the last included."""
    count = min(count, depth)
    return [-(-depth * number // count) - 1 for number in range(1, count + 1)]
