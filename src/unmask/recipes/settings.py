"""Single settings of a recipe, as a person types them: KEY=VALUE."""

import difflib
import json
from typing import Any

from pydantic import BaseModel

from unmask.errors import UserError
from unmask.methods import METHODS
from unmask.recipes.base import Choice
from unmask.recipes.build import options_of
from unmask.tokenizers import TOKENIZERS


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


def set_value(data: dict[str, Any], key: str, value: Any, kind: type[BaseModel]) -> None:
    """Change one dotted key of a dumped recipe, in place."""
    sections = _sections(kind)
    section, _, name = key.partition(".")
    if section not in sections or not name:
        meant = _near(key, kind)
        hint = f" Did you mean {meant}?" if meant else ""
        raise UserError(
            f"there is no setting {key!r}.{hint} Settings are {', '.join(f'{s}.NAME' for s in sections)}."
        )
    field = sections[section]
    if field is not Choice and name not in field.model_fields:
        near = difflib.get_close_matches(name, field.model_fields, n=1, cutoff=0.5)
        hint = f" Did you mean {section}.{near[0]}?" if near else ""
        raise UserError(f"{section} has no setting {name!r}.{hint} It has {', '.join(field.model_fields)}.")
    data[section][name] = value


def _sections(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The parts of a recipe that have settings, what is trained first."""
    fields = {name: field.annotation for name, field in kind.model_fields.items()}
    parts = {
        name: part for name, part in fields.items() if isinstance(part, type) and issubclass(part, BaseModel)
    }
    return dict(sorted(parts.items(), key=lambda item: item[1] is not Choice))


def _near(key: str, kind: type[BaseModel]) -> str | None:
    """The setting that a person may have meant, by the name of its section or by its own."""
    sections = _sections(kind)
    section, _, name = key.partition(".")
    near = difflib.get_close_matches(section, sections, n=1, cutoff=0.6) if name else []
    if near:
        return f"{near[0]}.{name}"
    learners: dict[str, Any] = {"method": METHODS, "tokenizer": TOKENIZERS}
    known = {
        option: f"{part}.{option}"
        for part, table in learners.items()
        if part in sections
        for learner in table.values()
        for option in options_of(learner)
    }
    for part in reversed([part for part, field in sections.items() if field is not Choice]):
        known |= {option: f"{part}.{option}" for option in sections[part].model_fields}
    close = difflib.get_close_matches(section, known, n=1, cutoff=0.6)
    return known[close[0]] if close else None
