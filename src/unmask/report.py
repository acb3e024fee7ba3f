"""One self-contained HTML page about a run: figures, curves, pictures, scores, how to use the result."""

import base64
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from unmask import __version__
from unmask.charts import line_chart
from unmask.engine.files import write_text
from unmask.evaluate.table import LAST, by_layer
from unmask.runs import Line, Log, number, read_json, read_log, read_recipe
from unmask.summary import data_name, header, kind_title, score, tiles, warnings

MAX_STRIPS = 5  # reconstruction strips in the page: the last large, the others small


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, at any stage of the run, and return its path.

    The page needs no network and no other file. It replaces an older one in one step: no reader sees half.
    """
    recipe = read_recipe(run).model_dump(mode="json")
    log = read_log(run / "log.jsonl")
    environment = read_json(run / "environment.json")
    page = _template().render(
        header(recipe, log, environment)
        | {
            "warnings": list(warnings(log)),
            "tiles": list(tiles(recipe, log)),
            "charts": _charts(log),
            "strips": _strips(run / "images"),
            "scores": _scores(log),
            "evaluations": [_evaluation_row(event) for event in log.all("evaluation")],
            "snippet": _snippet(run),
            "commands": _commands(run, recipe, log),
            "recipe": _recipe_tables(recipe),
            "recipe_json": json.dumps(recipe, indent=2),
            "environment": list(_flat(environment)),
            "run": shlex.quote(str(run.resolve())),
            "folder": run.resolve(),
            "version": __version__,
            "written": datetime.now().strftime("%d %B %Y, %H:%M").lstrip("0"),
        }
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("unmask"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html")


def _charts(log: Log) -> list[dict[str, Any]]:
    steps = [line["step"] for line in log.steps]
    charts = []
    if log.numbers("loss"):
        losses = [number(line, "loss") for line in log.steps]
        note = "Faint: as logged. Strong: running mean."
        svg = Markup(line_chart(steps, losses, name="Loss over steps", smooth=True))
        charts.append({"title": "Loss", "note": note, "svg": svg})
    if log.numbers("lr"):
        rates = [number(line, "lr") for line in log.steps]
        note = f"Highest {max(log.numbers('lr')):.1e}.".replace("e-0", "e-")
        svg = Markup(line_chart(steps, rates, name="Learning rate over steps"))
        charts.append({"title": "Learning rate", "note": note, "svg": svg})
    return charts


def _strips(folder: Path) -> list[dict[str, Any]]:
    """The newest reconstruction strip, then the first and some between, ascending."""
    paths = sorted(folder.glob("step_*.png")) if folder.is_dir() else []
    if len(paths) > MAX_STRIPS:
        paths = [paths[round(index * (len(paths) - 1) / (MAX_STRIPS - 1))] for index in range(MAX_STRIPS)]
    ordered = paths[-1:] + paths[:-1]
    return [strip for path in ordered if (strip := _strip(path)) is not None]


def _strip(path: Path) -> dict[str, Any] | None:
    """A strip as a WebP data URL, far smaller than the PNG; None if it is broken (or still being written)."""
    buffer = BytesIO()
    try:
        with Image.open(path) as image:
            size = image.size
            image.save(buffer, "WEBP", quality=90)
    except OSError:
        return None
    step = int(path.stem.removeprefix("step_"))
    return {
        "source": "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "width": size[0],
        "height": size[1],
        "step": f"{step:,}",
        "caption": f"Step {step:,}",
    }


def _scores(log: Log) -> list[dict[str, Any]]:
    """The newest evaluation of every kind, data set and choice of features, as bars beside its baselines."""
    newest: dict[tuple[str, ...], dict[str, Any]] = {}
    for event in log.all("evaluation"):
        if number(event, "score") is None:
            continue
        choice = () if "trials" in event else ("pool", "layer")  # a sweep finds another place each time
        key = tuple(str(event.get(name)) for name in ("kind", "data", *choice))
        # Baselines do not depend on the training: one measurement serves all later evaluations.
        earlier = newest.pop(key, {}).get("baselines")
        newest[key] = {**event, "baselines": event.get("baselines") or earlier or {}}
    return [_score_bars(event) for event in newest.values()]


def _score_bars(event: Line) -> dict[str, Any]:
    baselines = {name: number(event["baselines"], name) for name in event["baselines"]}
    error = number(event, "standard_error")
    bars = [_bar("this encoder", score(event), own=True)]
    bars += [_bar(name, value, own=False) for name, value in baselines.items() if value is not None]
    facts = [data_name(event)] if event.get("data") else []
    facts += [f"step {event['step']:,}"] if isinstance(event.get("step"), int) else []
    facts += [f"pool {event['pool']}"] if event.get("pool", "mean") != "mean" else []
    facts += [f"layer {event['layer']}"] if event.get("layer") is not None else []
    facts += [f"standard error {error:.1%}"] if error is not None else []
    grid = _sweep_grid(event) if event.get("trials") else None
    return {"title": kind_title(event), "note": " · ".join(facts), "bars": bars, "grid": grid}


def _sweep_grid(event: Line) -> dict[str, Any]:
    """Accuracies of a sweep, a row a layer and a column a pooling, the chosen one marked."""
    pools, layers = by_layer(event["trials"])
    chosen = event["layer"], event["pool"]
    rows = [
        {
            "layer": LAST if layer is None else f"block {layer}",
            "cells": [
                {"value": f"{trials[pool]['top1']:.1%}", "own": (layer, pool) == chosen} for pool in pools
            ],
        }
        for layer, trials in layers.items()
    ]
    return {"pools": pools, "rows": rows}


def _bar(name: str, value: float, *, own: bool) -> dict[str, Any]:
    label = name.replace("_", " ")
    return {"label": label, "value": f"{value:.1%}", "width": f"{100 * value:.1f}", "own": own}


def _evaluation_row(event: Line) -> dict[str, str]:
    row = {"kind": kind_title(event), "data": data_name(event), "step": str(event.get("step", "–"))}
    return row | {"score": f"{score(event):.1%}"}


def _snippet(run: Path) -> str | None:
    """Python that loads the encoder, from where it lies; None before the first export."""
    code = read_json(run / "encoder.json").get("load")
    return code and code.replace("encoder.safetensors", str(run.resolve() / "encoder.safetensors"))


def _commands(run: Path, recipe: Line, log: Log) -> list[dict[str, str]]:
    folder = shlex.quote(str(run.resolve()))
    data = shlex.quote(str(log.last("start", "resume").get("data", "photos/")))
    lines = {}
    if log.status != "finished":
        resume = f"unmask pretrain {recipe['method']['name']} --data {data} --out {folder} --resume"
        lines["Continue the training"] = resume
    if (run / "encoder.json").is_file():
        lines["Measure it on labelled pictures"] = f"unmask evaluate linear {folder} --data labelled/"
        lines["Try it on a picture of your own"] = f"unmask reconstruct {folder} picture.jpg"
        lines["Take it home"] = f"unmask export {folder} --to timm"
    return [{"title": title, "line": line} for title, line in lines.items()]


def _recipe_tables(recipe: Line) -> list[dict[str, Any]]:
    single = [(key, _text(value)) for key, value in recipe.items() if not isinstance(value, Mapping)]
    sections = {key: value for key, value in recipe.items() if isinstance(value, Mapping)}
    return [{"title": "run", "rows": single}] * bool(single) + [
        {"title": title, "rows": list(_flat(section))} for title, section in sections.items()
    ]


def _flat(values: Line, prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted key, text) of nested plain data."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
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
