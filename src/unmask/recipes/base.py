"""A recipe: everything that can change the result of one run, as plain frozen data."""

import json
import math
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Choice(BaseModel):
    """A method or an encoder by name, with its options; these are checked where it is built."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Data(Section):
    """How an image becomes an input."""

    image_size: tuple[PositiveInt, PositiveInt] = (224, 224)  # height, width
    channels: PositiveInt = 3  # 1 (grey), 3 (RGB), 4 (RGBA), or as many as the pictures have
    bits: Literal[8, 16, 32] | None = None  # of a channel, 32: floating point; None is what the pictures have
    crop_scale: tuple[Fraction, Fraction] = (0.2, 1.0)  # share of the picture's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: bool = True
    crops: PositiveInt | None = None  # of an image, one after the other, an epoch each; None is a new one
    # every epoch. Few let what a teacher or tokenizer says be kept (--cache)
    jitter: tuple[Strength, Strength, Strength, Strength] = (0.0, 0.0, 0.0, 0.0)
    # of brightness, contrast, saturation and hue, the same for all views; needs RGB of 8 bits
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    normalisation: Literal["imagenet", "measure"] | None = None
    # where mean and std come from if they are not given; None: ImageNet's for RGB of 8 bits, else measured
    mean: tuple[float, ...] | None = None  # a channel, of pixels in [0, 1] unless bits is 32
    std: tuple[float, ...] | None = None
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01  # share of unreadable images that ends the run

    @property
    def depth(self) -> Literal[8, 16, 32]:
        """Bits of a channel; of recipes that say nothing, 8."""
        return self.bits or 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        for low, high in (self.crop_scale, self.crop_ratio):
            if not 0 < low <= high:
                raise ValueError(
                    f"a range must run from a positive low to a high value, not from {low} to {high}"
                )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for images of {self.channels} channels")
        return self


class Optim(Section):
    """AdamW, one group with weight decay and one without."""

    batch_size: PositiveInt = 256  # images a step, over all devices and accumulated parts
    accumulate: PositiveInt = 1  # forward passes a step
    base_lr: Annotated[float, Field(gt=0)] = 1.5e-4
    lr_per: PositiveInt = 256  # batch size that base_lr is meant for
    lr: Annotated[float, Field(gt=0)] | None = None  # peak learning rate; None scales base_lr to the batch
    max_lr: Annotated[float, Field(gt=0)] | None = None  # bound on what base_lr is scaled to
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    no_decay: tuple[str, ...] = ("token", "pos_embed", "position_bias", "cpb_mlp", "logit_scale", "gamma")
    # parts of names that are never decayed, beside biases and all one-dimensional tensors
    clip: Annotated[float, Field(gt=0)] | None = None  # largest gradient norm
    ema: Momentum | None = None  # decay of a moving average of the weights

    @property
    def peak_lr(self) -> float:
        if self.lr is not None:
            return self.lr
        return min(scaled_lr(self.base_lr, self.batch_size, self.lr_per), self.max_lr or math.inf)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into {self.accumulate} equal parts"
            )
        return self


class Schedule(Section):
    """Learning rate over the run, set at every step."""

    epochs: PositiveInt | None = 800  # of the data set; or
    steps: PositiveInt | None = None  # optimiser steps
    kind: Literal["cosine", "poly", "multistep", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 40  # of `epochs`; if `steps` is set the same share of it
    warmup_steps: Annotated[int, Field(ge=0)] | None = None  # in the place of warmup_epochs
    warmup_lr: Annotated[float, Field(ge=0)] = 0.0  # learning rate of step 0, as a share of the peak
    final_lr: Annotated[float, Field(ge=0)] = (
        0.0  # learning rate at the end, as a share of the peak (cosine, poly)
    )
    power: Annotated[float, Field(gt=0)] = 1.0  # of the polynomial (poly)
    milestones: tuple[
        float, ...
    ] = ()  # epochs at which the learning rate is multiplied by `decay` (multistep)
    decay: Fraction = 0.1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is None and self.steps is None:
            raise ValueError("a schedule needs epochs or steps")
        return self


class Checkpoint(Section):
    """What is kept of a run; does not change its result."""

    every: PositiveInt | None = None  # steps; None is once an epoch, but every 100 to 1000 steps
    keep: PositiveInt = 2  # newest ones that are kept
    pictures: PositiveInt | None = None  # steps between reconstruction strips; None is ten over the run


class Probe(Section):
    """How the features are measured while a run goes on; does not change its result."""

    every: Annotated[int, Field(ge=0)] | None = None  # epochs; None is up to five times a run; 0 is never
    data: str | None = None  # labelled folder or archive; None is the run's own images
    images: PositiveInt | None = None  # that are looked at; None keeps the cost to about 3 % of the run


class Plan(BaseModel):
    """One run, whatever it trains: data, optimiser, schedule; what is trained is said by the two classes
    below."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    data: Data = Data()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    probe: Probe = Probe()
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    @abstractmethod
    def learner(self) -> Choice:
        """What is trained, with its options."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What is trained, for people."""

    @model_serializer(mode="wrap")
    def _what_is_trained_first(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain = handler(self)
        first = ("name", *(key for key in plain if key not in Plan.model_fields))
        return {key: plain[key] for key in (*first, *plain)}

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> Self:
        return cls.model_validate_json(path.read_text())


AnyPlan = TypeVar("AnyPlan", bound=Plan)


class Recipe(Plan):
    """A method and the encoder that it trains."""

    method: Choice
    encoder: Choice

    @property
    def learner(self) -> Choice:
        return self.method

    @property
    def title(self) -> str:
        return f"{self.name}, {self.encoder.name}"


class TokenizerRecipe(Plan):
    """A tokenizer."""

    tokenizer: Choice

    @property
    def learner(self) -> Choice:
        return self.tokenizer

    @property
    def title(self) -> str:
        return f"{self.name}, a tokenizer"


def read_plan(path: Path) -> Plan:
    """What a recipe.json says.

    Raises:
        ValidationError: it is no recipe.
    """
    text = path.read_text()
    kind = TokenizerRecipe if "tokenizer" in _keys(text) else Recipe
    return kind.model_validate_json(text)


def _keys(text: str) -> set[str]:
    """Of a JSON object; none of what is no such."""
    try:
        content = json.loads(text)
    except ValueError:
        return set()
    return set(content) if isinstance(content, dict) else set()


def scaled_lr(base: float, batch_size: int, per: int) -> float:
    """The linear scaling rule (Goyal et al. 2017): `base` is meant for `per` images a step."""
    return base * batch_size / per


def explain(error: ValidationError) -> str:
    """The first problems of a recipe that is none, for people."""
    problems = []
    for problem in error.errors()[:3]:
        place = ".".join(str(part) for part in problem["loc"]) or "recipe"
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if isinstance(problem["input"], dict) else f"={problem['input']!r}"
        problems.append(f"{place}{given}: {message[:1].lower()}{message[1:]}")
    return "; ".join(problems)
