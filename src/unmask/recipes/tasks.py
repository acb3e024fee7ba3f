"""Recipes of what is learned from labels: fine-tuning, segmentation, detection."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unmask.encoders.base import ImageSize
from unmask.errors import UserError
from unmask.recipes.base import (
    Checkpoint,
    Fraction,
    Momentum,
    Optim,
    PositiveInt,
    Schedule,
    Section,
    explain,
)
from unmask.recipes.resolve import chosen_settings, require_one_length, stretch
from unmask.recipes.settings import set_value

LayerDecayConvention = Literal["per_layer", "equivalent_12_layers"]


class TaskOptim(Optim):
    """AdamW whose learning rate falls from the head down to the stem."""

    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    layer_decay: Fraction = 1.0  # factor of the learning rate from one layer to the one below it; 1 is none
    layer_decay_convention: LayerDecayConvention = "per_layer"
    # what `layer_decay` means: see `engine.layer_decay.layer_scales`


class Validation(Section):
    """When a network is judged while it is trained."""

    every: PositiveInt | None = None  # epochs; None is every epoch, but at most twenty times a run
    batch_size: PositiveInt = 64  # images at a time; does not change the result


class TaskRecipe(BaseModel):
    """One run with labels. A subclass says which, by `kind`, and adds sections of its own.

    Attributes:
        kind: what `unmask evaluate` calls it; tells such a recipe.json from others.
        name: of the recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str
    name: str
    optim: TaskOptim = TaskOptim()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint(keep=1)
    validation: Validation = Validation()
    seed: Annotated[int, Field(ge=0)] = 0

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


AnyTaskRecipe = TypeVar("AnyTaskRecipe", bound=TaskRecipe)


def read_task_recipe(kind: type[AnyTaskRecipe], run: Path) -> AnyTaskRecipe:
    """The recipe of a run folder.

    Raises:
        UserError: it holds something else, or is damaged.
    """
    path = run / "recipe.json"
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UserError(f"{path} is no recipe that this version can read: {explain(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def with_settings(
    recipe: AnyTaskRecipe,
    *,
    image_size: ImageSize | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> AnyTaskRecipe:
    """A recipe with what a person chose. Of another length, warm-up and milestones keep their share.

    Args:
        image_size: as data.image_size.
        overrides: dotted key -> value: "optim.layer_decay", "task.label_smoothing", ... Strings are read as
            JSON where possible, "none" as None.

    Raises:
        UserError: an unknown setting, a value of the wrong type, contradictory lengths.
    """
    require_one_length(epochs, steps)
    plain = recipe.model_dump()
    if epochs is not None:
        stretch(plain, recipe.schedule, epochs)
        plain["schedule"]["steps"] = None
    if seed is not None:
        plain["seed"] = seed
    changes = chosen_settings(image_size, epochs, steps, batch_size, lr, overrides)
    for key, value in changes.items():
        set_value(plain, key, value, type(recipe))
    try:
        return type(recipe).model_validate(plain)
    except ValidationError as error:
        raise UserError(explain(error)) from error
