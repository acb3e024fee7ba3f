"""From what a person typed to a complete recipe."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unmask.encoders.base import ImageSize, height_and_width
from unmask.errors import UserError
from unmask.recipes import (
    DEFAULTS,
    RECIPES,
    SMALL,
    TOKENIZER_DEFAULTS,
    TOKENIZER_RECIPES,
    TOKENIZER_SMALL,
)
from unmask.recipes.base import AnyPlan, Plan, Recipe, Schedule, TokenizerRecipe, explain, read_plan
from unmask.recipes.build import with_defaults
from unmask.recipes.settings import parse_value, set_value

FEW_IMAGES = 20_000  # fewer of them get the method's recipe for small data
CHOSEN = ("data.image_size", "encoder.name")  # --image-size and --encoder as settings
KEPT = ("drop_path_rate", "pretrained")  # encoder options that any encoder understands


@dataclass(frozen=True)
class Length:
    """Of a run on one's own data: as many epochs as it takes to see `images`, within bounds."""

    images: int
    fewest_epochs: int
    most_epochs: int

    def epochs(self, images: int) -> int:
        """For a data set of so many images."""
        return min(self.most_epochs, max(self.fewest_epochs, round(self.images / max(images, 1))))


DEFAULT_RUN = Length(images=4_000_000, fewest_epochs=100, most_epochs=800)
SMALL_RUN = Length(images=300_000, fewest_epochs=20, most_epochs=800)


def resolve_recipe(
    method_or_recipe: str | Recipe,
    *,
    images: int | None = None,
    encoder: str | None = None,
    image_size: ImageSize | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """A method's default, a published run or a recipe.json, with changes.

    Args:
        method_or_recipe: name of a method ("mae") or of a published run ("mae_vit_base_800ep"), path of a
            recipe.json, or a recipe.
        images: in the data set; a method's default adapts epochs and batch size to it, and of fewer than
            `FEW_IMAGES` is the recipe for small data, unless encoder, its weights or image size are chosen.
        overrides: dotted key -> value: "method.mask_ratio", "optim.clip", "encoder.drop_path_rate", ...
            Strings are read as JSON where possible, "none" as None.

    Raises:
        UserError: unknown name or key, a value of the wrong type, contradictory lengths.
    """
    require_one_length(epochs, steps)
    is_default = isinstance(method_or_recipe, str) and method_or_recipe in DEFAULTS
    few = images is not None and images < FEW_IMAGES
    small = is_default and few and not _geometry_chosen(encoder, image_size, overrides or {})
    recipe = _find(method_or_recipe, encoder, small=small)
    changes: dict[str, Any] = {}
    if is_default and images is not None:
        changes |= _fit_to(images, recipe, epochs, SMALL_RUN if small else DEFAULT_RUN)
    changes |= chosen_settings(image_size, epochs, steps, batch_size, lr, overrides)
    data = recipe.model_dump()
    if epochs is not None and not is_default:
        stretch(data, recipe.schedule, epochs)
    if encoder is not None and not is_default:
        # What the method wants of an encoder stays; options of the recipe's own encoder do not fit another.
        own = DEFAULTS[recipe.method.name](encoder).encoder.model_dump()
        kept = {key: recipe.encoder.options[key] for key in KEPT if key in recipe.encoder.options}
        data["encoder"] = own | kept
    return _changed(recipe, data, changes, epochs=epochs, seed=seed)


def resolve_tokenizer(
    tokenizer_or_recipe: str | TokenizerRecipe,
    *,
    images: int | None = None,
    image_size: ImageSize | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TokenizerRecipe:
    """A tokenizer's default ("dvae"), a published run or a recipe.json, with changes, as `resolve_recipe`.

    Raises:
        UserError: likewise.
    """
    require_one_length(epochs, steps)
    is_default = isinstance(tokenizer_or_recipe, str) and tokenizer_or_recipe in TOKENIZER_DEFAULTS
    few = images is not None and images < FEW_IMAGES
    recipe = _find_tokenizer(tokenizer_or_recipe, small=is_default and few)
    changes: dict[str, Any] = {}
    if is_default and images is not None:
        changes |= _fit_to(images, recipe, epochs, SMALL_RUN if few else DEFAULT_RUN)
    changes |= chosen_settings(image_size, epochs, steps, batch_size, lr, overrides)
    data = recipe.model_dump()
    if epochs is not None and not is_default:
        stretch(data, recipe.schedule, epochs)
    return _changed(recipe, data, changes, epochs=epochs, seed=seed)


def require_one_length(epochs: int | None, steps: int | None) -> None:
    """
    Raises:
        UserError: both are given.
    """
    if epochs is not None and steps is not None:
        raise UserError("--epochs and --steps are two ways to say the same: give one of them")


def chosen_settings(
    image_size: ImageSize | None,
    epochs: int | None,
    steps: int | None,
    batch_size: int | None,
    lr: float | None,
    overrides: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What a person chose, by dotted keys."""
    explicit = {
        "data.image_size": None if image_size is None else height_and_width(image_size),
        "optim.batch_size": batch_size,
        "optim.lr": lr,
        "schedule.epochs": epochs,
        "schedule.steps": steps,
    }
    chosen = {key: value for key, value in explicit.items() if value is not None}
    return chosen | {key: parse_value(value) for key, value in (overrides or {}).items()}


def stretch(data: dict[str, Any], schedule: Schedule, epochs: int) -> None:
    """Of a recipe's dump that is to be of another length: the same share of the run is warm-up; milestones
    move along.
    """
    scale = epochs / (schedule.epochs or epochs)
    data["schedule"]["warmup_epochs"] = schedule.warmup_epochs * scale
    data["schedule"]["milestones"] = [m * scale for m in schedule.milestones]


def _changed(
    recipe: AnyPlan, data: dict[str, Any], changes: Mapping[str, Any], *, epochs: int | None, seed: int | None
) -> AnyPlan:
    """The recipe that `data`, its dump, is with these changes.

    Raises:
        UserError: an unknown setting, or a value of the wrong type.
    """
    if epochs is not None:
        data["schedule"]["steps"] = None
    if seed is not None:
        data["seed"] = seed
    if "data.normalisation" in changes:
        data["data"] |= {"mean": None, "std": None}  # of other data: what was measured or given before
    for key, value in changes.items():
        set_value(data, key, value, type(recipe))
    encoder = data.get("encoder", {})
    if encoder.get("pretrained") and data["data"]["mean"] is data["data"]["std"] is None:
        data["data"] |= _published_statistics(encoder["name"], data["data"]["channels"])
    try:
        return with_defaults(type(recipe).model_validate(data))
    except ValidationError as error:
        raise UserError(explain(error)) from error


def _geometry_chosen(encoder: str | None, image_size: ImageSize | None, overrides: Mapping[str, Any]) -> bool:
    """Whether a person chose the encoder, its weights or the image size, for which the encoder of the recipe
    for small data is not made."""
    weights = parse_value(overrides.get("encoder.pretrained", False))
    return bool(encoder or image_size or weights) or not overrides.keys().isdisjoint(CHOSEN)


def _find(name: str | Recipe, encoder: str | None, *, small: bool) -> Recipe:
    """The recipe before changes."""
    if isinstance(name, Recipe):
        return name
    if small:
        return SMALL[name]()
    if name in DEFAULTS:
        return DEFAULTS[name](encoder) if encoder else DEFAULTS[name]()
    if name in RECIPES:
        return RECIPES[name]()
    found = _in_file(name)
    if isinstance(found, Recipe):
        return found
    if found is not None:
        raise UserError(f"{name} trains a tokenizer: give it to `unmask tokenizer`")
    names = [*DEFAULTS, *RECIPES]
    if name in TOKENIZER_DEFAULTS or name in TOKENIZER_RECIPES:
        raise UserError(f"{name} is a tokenizer: `unmask tokenizer {name}` trains it")
    raise UserError(
        f"no method or recipe is called {name!r}{_near_name(name, names)} Methods: {', '.join(DEFAULTS)}; "
        "`unmask list recipes` shows the published runs."
    )


def _find_tokenizer(name: str | TokenizerRecipe, *, small: bool) -> TokenizerRecipe:
    """The recipe before changes."""
    if isinstance(name, TokenizerRecipe):
        return name
    if small:
        return TOKENIZER_SMALL[name]()
    if name in TOKENIZER_DEFAULTS:
        return TOKENIZER_DEFAULTS[name]()
    if name in TOKENIZER_RECIPES:
        return TOKENIZER_RECIPES[name]()
    found = _in_file(name)
    if isinstance(found, TokenizerRecipe):
        return found
    names = [*TOKENIZER_DEFAULTS, *TOKENIZER_RECIPES]
    if found is not None or name in DEFAULTS or name in RECIPES:
        raise UserError(f"{name} trains an encoder, no tokenizer: give it to `unmask pretrain`")
    raise UserError(
        f"no tokenizer or recipe is called {name!r}{_near_name(name, names)} There are {', '.join(names)}."
    )


def _near_name(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else "."


def trains_tokenizer(name: str) -> bool:
    """Whether the recipe of this file is one of a tokenizer."""
    return isinstance(_in_file(name), TokenizerRecipe)


def _in_file(name: str) -> Plan | None:
    """The recipe in a file or a run folder; None if this is neither."""
    path = Path(name)
    if (path / "recipe.json").is_file():  # a run folder
        path = path / "recipe.json"
    if path.suffix != ".json" and not path.is_file():
        return None
    if not path.is_file():
        raise UserError(
            f"there is no file {name}; give a recipe.json, or a name that `unmask list recipes` shows"
        )
    try:
        return read_plan(path)
    except ValidationError as error:
        raise UserError(f"{name} is no recipe: {explain(error)}") from error


def _published_statistics(encoder: str, channels: int) -> dict[str, Any]:
    """What the images of published weights were normalised with."""
    from timm import get_pretrained_cfg

    published = get_pretrained_cfg(encoder)
    return {} if published is None or channels != 3 else {"mean": published.mean, "std": published.std}


def _fit_to(images: int, recipe: Plan, epochs: int | None, run: Length) -> dict[str, Any]:
    """Epochs for a number of images, a twentieth of them warm-up, and a batch that the images fill."""
    epochs = run.epochs(images) if epochs is None else epochs
    changes: dict[str, Any] = {"schedule.epochs": epochs, "schedule.warmup_epochs": epochs / 20}
    if 0 < images < recipe.optim.batch_size:
        changes["optim.batch_size"] = 2 ** (
            images.bit_length() - 1
        )  # the largest power of two that is filled
    return changes
