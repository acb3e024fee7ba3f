"""From a recipe to modules: the constructor signature is the schema of a method's options."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unmask.encoders import Encoder, create_encoder
from unmask.errors import UserError
from unmask.methods import METHODS, Method
from unmask.recipes.base import Choice, Recipe
from unmask.targets import Teacher, create_teacher

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


def build_method(recipe: Recipe) -> Method:
    """The recipe's method around its encoder.

    Raises:
        UserError: unknown method, option or encoder, a value of the wrong type, parts that do not fit
            together.
    """
    name = recipe.method.name
    if name not in METHODS:
        raise UserError(f"no method is called {name!r}. Methods: {', '.join(METHODS)}.")
    method = METHODS[name]
    options = check_options(method, method.__name__, recipe.method.options)
    for option, default in options_of(method).items():
        if default is inspect.Parameter.empty and option not in options:
            raise UserError(f"{method.__name__} cannot do without method.{option}; name one")
    if set(STATISTICS) <= inspect.signature(method).parameters.keys():
        options |= {"mean": recipe.data.mean, "std": recipe.data.std}
    encoder = build_encoder(recipe)
    options = _objects(method, options, encoder)
    try:
        return method(encoder, **options)
    except ValueError as error:
        raise UserError(str(error)) from error


# Options that are modules: what makes them of the strings that recipes have for them.
OBJECTS: dict[type, Callable[[str, Encoder], Any]] = {
    Teacher: lambda name, encoder: create_teacher(name, grid=encoder.feature_grid, channels=encoder.channels),
}


def _objects(method: type[Method], options: Mapping[str, Any], encoder: Encoder) -> dict[str, Any]:
    """The options, strings turned into modules where modules are asked for."""
    hints = get_type_hints(method.__init__)
    kinds = {name: _kind(hints[name]) for name, value in options.items() if isinstance(value, str)}
    made = {name: OBJECTS[kind](options[name], encoder) for name, kind in kinds.items() if kind is not None}
    return {**options, **made}


def _kind(hint: Any) -> type | None:
    """Which of `OBJECTS` an annotation asks for: the class itself, or "that or None"."""
    return next((kind for kind in OBJECTS if kind is hint or kind in get_args(hint)), None)


def options_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The options of a method: the keyword-only parameters of its constructor, with their defaults
    (`inspect.Parameter.empty` where there is none); without those that are decided elsewhere.
    """
    parameters = inspect.signature(target).parameters.values()
    return {
        one.name: one.default
        for one in parameters
        if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name not in STATISTICS
    }


def with_defaults(recipe: Recipe) -> Recipe:
    """The recipe with every option of its method written out, so that it says all that decides the result."""
    method = METHODS.get(recipe.method.name)
    if method is None:
        return recipe  # named when it is built
    known = {
        name: value for name, value in options_of(method).items() if value is not inspect.Parameter.empty
    }
    options = known | recipe.method.options
    return recipe.model_copy(update={"method": Choice(name=recipe.method.name, **options)})


def check_options(target: Callable[..., Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options checked against the keyword parameters of `target`, values converted to their types.

    Raises:
        UserError: an unknown option (with the nearest known one) or a value of the wrong type.
    """
    known = options_of(target)
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    checked = {}
    for key, value in options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UserError(f"{name} has no option {key!r}{hint} Options: {', '.join(sorted(known))}.")
        if isinstance(value, str) and _kind(hints[key]):
            checked[key] = value  # a name, of which `build_method` makes the module
            continue
        try:
            adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            checked[key] = adapter.validate_python(value)
        except ValidationError as error:
            raise UserError(
                f"{name}: {key}={value!r} is not valid: {error.errors()[0]['msg'].lower()}"
            ) from error
    return checked
