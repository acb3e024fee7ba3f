"""What every HTML page is made of: its template, pictures within it, settings as tables."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from unmask.engine.optim import LONGEST_WARMUP, REFERENCE_EPOCHS
from unmask.runs import Line


def template(name: str) -> Any:
    """A page of the folder `templates`, to be rendered; what it is not given is an error."""
    environment = Environment(
        loader=PackageLoader("unmask"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def as_webp(image: Image.Image) -> dict[str, Any]:
    """A picture as a WebP data URL, far smaller than a PNG, and its size in pixels."""
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=90)
    source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"source": source, "width": image.width, "height": image.height}


def recipe_tables(recipe: Line) -> list[dict[str, Any]]:
    """The settings of a recipe, as plain data, a table a section."""
    single = [(key, _text(value)) for key, value in recipe.items() if not isinstance(value, Mapping)]
    sections = {key: value for key, value in recipe.items() if isinstance(value, Mapping)}
    longest = 1.0 if "kind" in recipe else LONGEST_WARMUP  # what is learned from labels warms up as stated
    sections |= {"schedule": _schedule(sections["schedule"], longest)}
    return [{"title": "run", "rows": single}] * bool(single) + [
        {"title": title, "rows": list(flat(section))} for title, section in sections.items()
    ]


def _schedule(schedule: Line, longest: float) -> Line:
    """The schedule with its one length and one warm-up: of a run counted in steps, epochs only say what its
    parts are shares of."""
    counted = schedule.get("warmup_steps")  # recipes of older runs know only epochs
    if schedule["steps"] is None:
        other = "warmup_steps" if counted is None else "warmup_epochs"
        return {key: value for key, value in schedule.items() if key not in ("steps", other)}
    share = schedule["warmup_epochs"] / (schedule["epochs"] or REFERENCE_EPOCHS)
    hidden = ("epochs", "warmup_epochs", "warmup_steps")
    shown = {key: value for key, value in schedule.items() if key not in hidden}
    words = f"{min(share, longest):.3g} of the steps" if counted is None else f"{counted} steps"
    return {**shown, "warm-up": words}


def flat(values: Line, prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted key, text) of nested plain data."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}".replace("_", " "), _text(value)


def _text(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return str(value)
