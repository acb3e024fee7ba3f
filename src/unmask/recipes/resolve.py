"""From what a person typed to a complete recipe."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from unmask.encoders.base import ImageSize, height_and_width
from unmask.errors import UserError
from unmask.methods import METHODS
from unmask.recipes import DEFAULTS, RECIPES, SMALL
from unmask.recipes.base import Choice, Recipe, explain
from unmask.recipes.build import options_of, with_defaults

SECTIONS = ("method", "encoder", "data", "optim", "schedule", "checkpoint", "probe")
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
    if epochs is not None and steps is not None:
        raise UserError("--epochs and --steps are two ways to say the same: give one of them")
    is_default = isinstance(method_or_recipe, str) and method_or_recipe in DEFAULTS
    few = images is not None and images < FEW_IMAGES
    small = is_default and few and not _geometry_chosen(encoder, image_size, overrides or {})
    recipe = _find(method_or_recipe, encoder, small=small)
    changes: dict[str, Any] = {}
    if is_default and images is not None:
        changes |= _fit_to(images, recipe, epochs, SMALL_RUN if small else DEFAULT_RUN)
    explicit = {
        "data.image_size": None if image_size is None else height_and_width(image_size),
        "optim.batch_size": batch_size,
        "optim.lr": lr,
        "schedule.epochs": epochs,
        "schedule.steps": steps,
    }
    changes |= {key: value for key, value in explicit.items() if value is not None}
    changes |= {key: parse_value(value) for key, value in (overrides or {}).items()}
    data = recipe.model_dump()
    if epochs is not None and not is_default:
        # The same share of the run is warm-up; milestones move along.
        before = recipe.schedule.epochs or epochs
        scale = epochs / before
        data["schedule"]["warmup_epochs"] = recipe.schedule.warmup_epochs * scale
        data["schedule"]["milestones"] = [m * scale for m in recipe.schedule.milestones]
    if epochs is not None:
        data["schedule"]["steps"] = None
    if encoder is not None and not is_default:
        # What the method wants of an encoder stays; options of the recipe's own encoder do not fit another.
        own = DEFAULTS[recipe.method.name](encoder).encoder.model_dump()
        kept = {key: recipe.encoder.options[key] for key in KEPT if key in recipe.encoder.options}
        data["encoder"] = own | kept
    if seed is not None:
        data["seed"] = seed
    if "data.normalisation" in changes:
        data["data"] |= {"mean": None, "std": None}  # of other data: what was measured or given before
    for key, value in changes.items():
        _set(data, key, value)
    if data["encoder"].get("pretrained") and data["data"]["mean"] is data["data"]["std"] is None:
        data["data"] |= _published_statistics(data["encoder"]["name"], data["data"]["channels"])
    try:
        return with_defaults(Recipe.model_validate(data))
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
    path = Path(name)
    if (path / "recipe.json").is_file():  # a run folder
        path = path / "recipe.json"
    if path.suffix == ".json" or path.is_file():
        if not path.is_file():
            raise UserError(
                f"there is no file {name}; give a recipe.json, or a name that `unmask list recipes` shows"
            )
        try:
            return Recipe.from_json(path)
        except ValidationError as error:
            raise UserError(f"{name} is no recipe: {explain(error)}") from error
    names = [*DEFAULTS, *RECIPES]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "."
    raise UserError(
        f"no method or recipe is called {name!r}{hint} Methods: {', '.join(DEFAULTS)}; "
        "`unmask list recipes` shows the published runs."
    )


def _published_statistics(encoder: str, channels: int) -> dict[str, Any]:
    """What the images of published weights were normalised with."""
    from timm import get_pretrained_cfg

    published = get_pretrained_cfg(encoder)
    return {} if published is None or channels != 3 else {"mean": published.mean, "std": published.std}


def _fit_to(images: int, recipe: Recipe, epochs: int | None, run: Length) -> dict[str, Any]:
    """Epochs for a number of images, a twentieth of them warm-up, and a batch that the images fill."""
    epochs = run.epochs(images) if epochs is None else epochs
    changes: dict[str, Any] = {"schedule.epochs": epochs, "schedule.warmup_epochs": epochs / 20}
    if 0 < images < recipe.optim.batch_size:
        changes["optim.batch_size"] = 2 ** (
            images.bit_length() - 1
        )  # the largest power of two that is filled
    return changes


def parse_value(value: Any) -> Any:
    """A value from the command line: JSON where it is, None for "none", otherwise the text itself."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null"):
        return None
    if value in ("True", "False"):
        return value == "True"
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    """Change one dotted key of a dumped recipe, in place."""
    section, _, name = key.partition(".")
    if section not in SECTIONS or not name:
        meant = _near(key)
        hint = f" Did you mean {meant}?" if meant else ""
        raise UserError(
            f"there is no setting {key!r}.{hint} Settings are {', '.join(f'{s}.NAME' for s in SECTIONS)}."
        )
    field = Recipe.model_fields[section].annotation
    assert isinstance(field, type) and issubclass(field, BaseModel)
    if field is not Choice and name not in field.model_fields:
        near = difflib.get_close_matches(name, field.model_fields, n=1, cutoff=0.5)
        hint = f" Did you mean {section}.{near[0]}?" if near else ""
        raise UserError(f"{section} has no setting {name!r}.{hint} It has {', '.join(field.model_fields)}.")
    data[section][name] = value


def _near(key: str) -> str | None:
    """The setting that a person may have meant, by the name of its section or by its own."""
    section, _, name = key.partition(".")
    sections = difflib.get_close_matches(section, SECTIONS, n=1, cutoff=0.6) if name else []
    if sections:
        return f"{sections[0]}.{name}"
    known = {option: f"method.{option}" for method in METHODS.values() for option in options_of(method)}
    for part in ("probe", "checkpoint", "schedule", "optim", "data"):
        field = Recipe.model_fields[part].annotation
        assert isinstance(field, type) and issubclass(field, BaseModel)
        known |= {option: f"{part}.{option}" for option in field.model_fields}
    close = difflib.get_close_matches(section, known, n=1, cutoff=0.6)
    return known[close[0]] if close else None
