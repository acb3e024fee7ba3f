"""What the training of a detector depends on, as plain frozen data."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unmask.evaluate.detect.detector import Heads
from unmask.evaluate.detect.geometry import JITTER, Jitter
from unmask.recipes.base import PositiveInt, Section
from unmask.recipes.tasks import TaskRecipe


class Data(Section):
    """How a picture comes to lie on the canvas."""

    image_size: tuple[PositiveInt, PositiveInt] = (1024, 1024)  # height and width of the canvas
    jitter: Jitter = "large_scale"
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    # range of a picture's size as a share of what fits the canvas; None is what `jitter` says
    short_side: tuple[PositiveInt, PositiveInt] | None = None
    # range of a picture's shorter side in pixels, unless its longer one would not fit; judged at the last
    flip: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale is not None and self.scale[0] > self.scale[1]:
            raise ValueError(
                f"scale must run from a low to a high factor, not from {self.scale[0]} to {self.scale[1]}"
            )
        if self.short_side is not None:
            if self.short_side[0] > self.short_side[1]:
                raise ValueError(
                    f"short_side must run from few to many pixels, not from {self.short_side[0]} to "
                    f"{self.short_side[1]}"
                )
            if self.jitter != "none" or self.scale is not None:
                raise ValueError("short_side needs jitter=none and scale=null: it takes their place")
        return self

    @property
    def scales(self) -> tuple[float, float]:
        return self.scale or JITTER[self.jitter]


class Start(Section):
    """What is trained on."""

    subject: str = ""  # the run or encoder that was given
    random: bool = False  # its architecture with random weights
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the last block, rising linearly from 0


class DetectRecipe(TaskRecipe):
    """One training of a detector."""

    kind: Literal["detect"] = "detect"
    start: Start = Start()
    data: Data = Data()
    heads: Heads = Heads()
