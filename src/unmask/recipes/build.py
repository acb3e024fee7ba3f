"""From a recipe to modules: the constructor signature is the schema of a method's options."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from unmask.encoders import Encoder, create_encoder
from unmask.errors import UserError
from unmask.masking import Grid
from unmask.methods import METHODS, Method
from unmask.recipes.base import AnyPlan, Choice, Recipe, TokenizerRecipe
from unmask.recipes.trained import fingerprint, load_tokenizer
from unmask.targets import Teacher, create_teacher
from unmask.tokenizers import TOKENIZERS, Tokenizer

# Encoder options that follow from something else.
DECIDED = {
    "image_size": "data.image_size",
    "img_size": "data.image_size",
    "channels": "data.channels",
    "in_chans": "data.channels",
    "num_classes": "the method, which needs features",
    "global_pool": "the method, which needs all features",
    "fc_norm": "the method, which needs the final norm on all features",
    "use_fc_norm": "the method, which needs the final norm on all features",
    "dynamic_img_size": "data.image_size, which is the same for all images",
    "patch_drop_rate": "method.mask_ratio",
}
CODE_STRIDE = 16  # pixels of a hierarchical encoder's images for a code: BEiT's
SIZES = {"image_size", "channels"}  # options of tokenizers that follow from the data
REQUIRED = inspect.Parameter.empty  # in the place of the default of an option that has none
# Method options that are what data.mean and data.std say, of methods that know pixels from normalised images.
STATISTICS = ("mean", "std")


def build_encoder(recipe: Recipe) -> Encoder:
    """The recipe's encoder, with fresh weights from the global random generator."""
    options = recipe.encoder.options
    for taken in sorted(options.keys() & DECIDED.keys()):
        raise UserError(f"encoder.{taken} is decided by {DECIDED[taken]}; leave it out")
    known = [name for name in options if name in inspect.signature(create_encoder).parameters]
    checked = check_options(create_encoder, recipe.encoder.name, {name: options[name] for name in known})
    return create_encoder(
        recipe.encoder.name,
        image_size=recipe.data.image_size,
        channels=recipe.data.channels,
        **{**options, **checked},
    )


def build_method(
    recipe: Recipe, *, folder: Path | None = None, parts: Mapping[str, object] | None = None
) -> Method:
    """The recipe's method around its encoder.

    Args:
        folder: of the run, from which the paths of tokenizers count; None is the working directory.
        parts: objects for options that a recipe can only name (a tokenizer), in the place of what it names.

    Raises:
        UserError: unknown method, option or encoder, a value of the wrong type, parts that do not fit
            together.
    """
    name = recipe.method.name
    if name not in METHODS:
        raise UserError(f"no method is called {name!r}. Methods: {', '.join(METHODS)}.")
    method, parts = METHODS[name], parts or {}
    given = {key: value for key, value in recipe.method.options.items() if key not in parts}
    options = check_options(method, method.__name__, given)
    _require_all(method, "method", options.keys() | parts.keys())
    if set(STATISTICS) <= inspect.signature(method).parameters.keys():
        options |= {"mean": recipe.data.mean, "std": recipe.data.std}
    encoder = build_encoder(recipe)
    place = Place(encoder.feature_grid, code_grid(encoder), encoder.channels, folder)
    options = _objects(method, options, place)
    try:
        return method(encoder, **options, **parts)
    except ValueError as error:
        raise UserError(str(error)) from error


def build_tokenizer(recipe: TokenizerRecipe) -> Tokenizer:
    """The recipe's tokenizer, with fresh weights from the global random generator.

    Raises:
        UserError: unknown tokenizer or option, a value of the wrong type, a size that does not fit.
    """
    kind = _tokenizer(recipe)
    options = check_options(kind, kind.__name__, recipe.tokenizer.options)
    _require_all(kind, "tokenizer", options.keys() | SIZES)
    if set(objects_of(kind, Teacher)) & options.keys():
        grid = usable_tokenizer(recipe).grid
        options = _objects(kind, options, Place(grid, grid, recipe.data.channels))
    return _sized(kind, recipe, options)


def usable_tokenizer(recipe: TokenizerRecipe) -> Tokenizer:
    """The recipe's tokenizer without what only its training needs, to know its grid, or to stand in for the
    trained one; the global random generator stays as it is.

    Raises:
        UserError: as `build_tokenizer`, but not of teachers.
    """
    kind = _tokenizer(recipe)
    given = {**recipe.tokenizer.options, **dict.fromkeys(objects_of(kind, Teacher))}
    with torch.random.fork_rng(devices=[]):
        return _sized(kind, recipe, check_options(kind, kind.__name__, given))


def _tokenizer(recipe: TokenizerRecipe) -> type[Tokenizer]:
    name = recipe.tokenizer.name
    if name not in TOKENIZERS:
        raise UserError(f"no tokenizer is called {name!r}. Tokenizers: {', '.join(TOKENIZERS)}.")
    for taken in sorted(recipe.tokenizer.options.keys() & SIZES):
        raise UserError(f"tokenizer.{taken} is decided by {DECIDED[taken]}; leave it out")
    return TOKENIZERS[name]


def _sized(kind: type[Tokenizer], recipe: TokenizerRecipe, options: Mapping[str, Any]) -> Tokenizer:
    try:
        return kind(image_size=recipe.data.image_size, channels=recipe.data.channels, **options)
    except ValueError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class Place:
    """Where an object is to be used.

    Attributes:
        grid: rows and columns of features.
        codes: rows and columns of codes.
        channels: of the images.
        folder: of the run, from which paths count; None is the working directory.
    """

    grid: Grid
    codes: Grid
    channels: int
    folder: Path | None = None


# Options that are modules: what makes them of the strings that recipes have for them.
OBJECTS: dict[type, Callable[[str, Place], Any]] = {
    Teacher: lambda name, place: create_teacher(name, grid=place.grid, channels=place.channels),
    Tokenizer: lambda name, place: load_tokenizer(located(name, place.folder), grid=place.codes),
}


def _objects(target: Callable[..., Any], options: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The options, strings turned into modules where modules are asked for."""
    hints = _hints(target)
    kinds = {name: _kind(hints[name]) for name, value in options.items() if isinstance(value, str)}
    made = {name: OBJECTS[kind](options[name], place) for name, kind in kinds.items() if kind is not None}
    return {**options, **made}


def _kind(hint: Any) -> type | None:
    """Which of `OBJECTS` an annotation asks for: the class itself, or "that or None"."""
    return next((kind for kind in OBJECTS if kind is hint or kind in get_args(hint)), None)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(target.__init__ if inspect.isclass(target) else target)


def code_grid(encoder: Encoder) -> Grid:
    """A code for every patch; for every 16 pixels of encoders that merge patches."""
    if encoder.stride == encoder.patch_size:
        return encoder.grid
    height, width = encoder.image_size
    return height // CODE_STRIDE, width // CODE_STRIDE


def objects_of(target: Callable[..., Any], kind: type) -> tuple[str, ...]:
    """The options that are objects of a kind (or that or None), which a recipe names."""
    hints = _hints(target)
    return tuple(name for name in options_of(target) if _kind(hints[name]) is kind)


def _require_all(target: type, section: str, options: Collection[str]) -> None:
    """
    Raises:
        UserError: an option that has no default is missing.
    """
    for option, default in options_of(target).items():
        if default is REQUIRED and option not in options:
            raise UserError(f"{target.__name__} cannot do without {section}.{option}; name one")


def located(tokenizer: str, folder: Path | None) -> str:
    """What a recipe calls a tokenizer, as the path that it is from here: relative paths count from the run's
    folder, so that it can be moved with the tokenizer that it holds."""
    inside = Path(tokenizer) if folder is None else folder / tokenizer
    return str(inside) if inside.exists() else tokenizer


def fingerprints(recipe: Recipe, folder: Path) -> dict[str, str]:
    """What tells the trained files that a recipe names from others, by the setting that names them.

    Raises:
        UserError: one of them is not there.
    """
    method = METHODS.get(recipe.method.name)
    named = (
        {}
        if method is None
        else {key: recipe.method.options.get(key) for key in objects_of(method, Tokenizer)}
    )
    return {
        f"method.{key}": fingerprint(located(str(value), folder))
        for key, value in named.items()
        if value is not None
    }


def with_paths_from(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the paths of its tokenizers as they are to be kept: relative to the run's folder where
    they lie inside it, otherwise from the root, whatever folder a person gave them from."""
    method = METHODS.get(recipe.method.name)
    options = recipe.method.options
    root = folder.resolve()
    for key in () if method is None else objects_of(method, Tokenizer):
        path = Path(located(str(options.get(key)), folder)).expanduser()
        if options.get(key) is not None and path.exists():  # else it is named when it is built
            whole = path.resolve()
            options[key] = str(whole.relative_to(root) if whole.is_relative_to(root) else whole)
    return recipe.model_copy(update={"method": Choice(name=recipe.method.name, **options)})


def lacking(recipe: Recipe) -> str | None:
    """The setting that must name a tokenizer but names none; None if all is there."""
    method = METHODS.get(recipe.method.name)
    if method is None:
        return None
    known = options_of(method)
    needed = (key for key in objects_of(method, Tokenizer) if known[key] is REQUIRED)
    return next((key for key in needed if recipe.method.options.get(key) is None), None)


def options_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The options of a method: the keyword-only parameters of its constructor, with their defaults (or
    `REQUIRED`); without those that are decided elsewhere.
    """
    parameters = inspect.signature(target).parameters.values()
    return {
        one.name: one.default
        for one in parameters
        if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name not in STATISTICS
    }


def with_defaults(recipe: AnyPlan) -> AnyPlan:
    """The recipe with every option of its method or tokenizer written out, so that it says all that decides
    the result."""
    known: Mapping[str, Callable[..., Any]] = METHODS if isinstance(recipe, Recipe) else TOKENIZERS
    section = "method" if isinstance(recipe, Recipe) else "tokenizer"
    name = recipe.learner.name
    if name not in known:
        return recipe  # named when it is built
    options = {key: value for key, value in options_of(known[name]).items() if value is not REQUIRED}
    written = {key: value for key, value in options.items() if key not in SIZES}
    return recipe.model_copy(update={section: Choice(name=name, **(written | recipe.learner.options))})


def check_options(target: Callable[..., Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options checked against the keyword parameters of `target`, values converted to their types.

    Raises:
        UserError: an unknown option (with the nearest known one) or a value of the wrong type.
    """
    known = options_of(target)
    hints = _hints(target)
    checked = {}
    for key, value in options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UserError(f"{name} has no option {key!r}{hint} Options: {', '.join(sorted(known))}.")
        if isinstance(value, str) and _kind(hints[key]):
            checked[key] = value  # a name, of which the module is made where all is built
            continue
        try:
            adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            checked[key] = adapter.validate_python(value)
        except ValidationError as error:
            if value is None and _kind(hints[key]):
                raise UserError(f"{name} cannot do without a {key}; name one") from error
            raise UserError(
                f"{name}: {key}={value!r} is not valid: {error.errors()[0]['msg'].lower()}"
            ) from error
    return checked
