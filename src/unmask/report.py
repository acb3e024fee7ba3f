"""One self-contained HTML page about a run: figures, curves, pictures, scores, how to use the result."""

import json
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from unmask import __version__
from unmask.charts import curves_chart, line_chart
from unmask.engine.files import write_text
from unmask.evaluate.table import LAST, by_layer
from unmask.health import guesses_of, probes_of, verdict
from unmask.page import as_webp, flat, recipe_tables, template
from unmask.runs import Line, Log, number, read_json, read_log, read_plan
from unmask.summary import (
    data_name,
    header,
    is_tokenizer,
    kind_title,
    probes_in_words,
    score,
    tiles,
    warnings,
)
from unmask.trivial import COPYING

CARDS = "encoder.json", "encoder_best.json"
SHORT = {
    "predicting one grey": "one grey",
    "predicting the mean colour": "mean colour",
    COPYING: "nearest pixel",
}
MAX_STRIPS = 5  # reconstruction strips in the page: the last large, the others small


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, at any stage of the run, and return its path.

    The page needs no network and no other file. It replaces an older one in one step: no reader sees half.
    """
    recipe = read_plan(run).model_dump(mode="json")
    log = read_log(run / "log.jsonl")
    environment = read_json(run / "environment.json")
    page = template("report.html").render(
        header(recipe, log, environment)
        | {
            "verdict": verdict(log),
            "warnings": list(warnings(log)),
            "tiles": list(tiles(recipe, log)),
            "charts": _charts(log),
            "probes": _probe_charts(log),
            "probes_note": probes_in_words(log),
            "neighbours": _newest(run / "images", "neighbours"),
            "codes": _newest(run / "images", "codes"),
            "strips": _strips(run / "images"),
            "scores": _scores(log),
            "evaluations": [_evaluation_row(event) for event in log.all("evaluation")],
            "snippet": _snippet(run),
            "best": _best(run),
            "commands": _commands(run, recipe, log),
            "recipe": recipe_tables(recipe),
            "recipe_json": json.dumps(recipe, indent=2),
            "environment": list(flat(environment)),
            "run": shlex.quote(str(run.resolve())),
            "folder": run.resolve(),
            "version": __version__,
            "written": datetime.now().strftime("%d %B %Y, %H:%M").lstrip("0"),
        }
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _charts(log: Log) -> list[dict[str, Any]]:
    steps = [line["step"] for line in log.steps]
    charts = []

    def add(title: str, key: str, note: str, **style: Any) -> None:
        values = [number(line, key) for line in log.steps]
        svg = line_chart(steps, values, name=f"{title} over steps", **style)
        charts.append({"title": title, "note": note, "svg": Markup(svg)})

    if log.numbers("loss"):
        references = _references(log)
        note = "Faint: as logged. Strong: running mean." + (
            " Dashed: guesses that need no learning." if references else ""
        )
        add("Loss", "loss", note, smooth=True, references=references)
    if log.numbers("lr"):
        note = f"Highest {max(log.numbers('lr')):.1e}.".replace("e-0", "e-")
        add("Learning rate", "lr", note)
    if log.numbers("grad_norm"):
        add("Gradient norm", "grad_norm", "Over all weights, before clipping.", smooth=True)
    if log.numbers("images_per_s"):
        add("Images a second", "images_per_s", "Everything counted: loading, probes, saving.")
    return charts


def _references(log: Log) -> dict[str, float]:
    """Losses that need no learning, as the newest probe found them: the best flat guess, and copying."""
    guesses = next((found for probe in reversed(probes_of(log)) if (found := guesses_of(probe))), {})
    flat = {name: loss for name, loss in guesses.items() if name != COPYING}
    shown = {name: loss for name, loss in guesses.items() if name == COPYING}
    if flat:
        name = min(flat, key=lambda guess: flat[guess])
        shown[name] = flat[name]
    return {SHORT.get(name, name): loss for name, loss in shown.items()}


def _probe_charts(log: Log) -> list[dict[str, Any]]:
    """Figures of the probes over the run, where there are two or more."""
    found = probes_of(log)

    def curve(key: str, part: str = "") -> list[tuple[float, float]]:
        figures = ((probe["step"], probe.get(part, {}) if part else probe) for probe in found)
        return [(step, value) for step, line in figures if (value := number(line, key)) is not None]

    accuracies = {name: curve(key) for name, key in (("linear probe", "linear"), ("k-NN", "knn"))}
    accuracies = {name: points for name, points in accuracies.items() if len(points) > 1}
    charts = []
    if accuracies:
        note = "Of held-out images, by simple classifiers on the features. At step 0: random weights."
        svg = curves_chart(accuracies, name="Accuracy over steps", percent=True)
        charts.append({"title": "Accuracy", "note": note, "svg": Markup(svg)})
    if len(curve("effective_rank")) > 1:
        note = "How many directions the features of different images use."
        svg = curves_chart({"effective rank": curve("effective_rank")}, name="Rank over steps", percent=False)
        charts.append({"title": "Effective rank", "note": note, "svg": Markup(svg)})
    used = {"in use": curve("used", "codes"), "perplexity": curve("perplexity", "codes")}
    if len(used["in use"]) > 1:
        codes = next(probe["codes"] for probe in reversed(found) if "codes" in probe)
        note = f"Of {codes['vocabulary']:,}, at {codes['places']:,} places."
        svg = curves_chart(used, name="Codes over steps", percent=False)
        charts.append({"title": "Codes", "note": note, "svg": Markup(svg)})
    return charts


def _newest(folder: Path, kind: str) -> dict[str, Any] | None:
    """The newest picture of a kind: nearest neighbours, or what codes stand for."""
    paths = sorted(folder.glob(f"{kind}_*.png"))
    return _picture(paths[-1]) if paths else None


def _strips(folder: Path) -> list[dict[str, Any]]:
    """The newest reconstruction strip, then the first and some between, ascending."""
    paths = sorted(folder.glob("step_*.png")) if folder.is_dir() else []
    if len(paths) > MAX_STRIPS:
        paths = [paths[round(index * (len(paths) - 1) / (MAX_STRIPS - 1))] for index in range(MAX_STRIPS)]
    ordered = paths[-1:] + paths[:-1]
    return [strip for path in ordered if (strip := _picture(path)) is not None]


def _picture(path: Path) -> dict[str, Any] | None:
    """A picture of a step; None if it is broken (or still being written)."""
    try:
        with Image.open(path) as image:
            picture = as_webp(image)
    except OSError:
        return None
    step = int(path.stem.rpartition("_")[2])
    return {**picture, "step": f"{step:,}", "caption": f"Step {step:,}"}


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
    """Python that loads the encoder or the tokenizer, from where it lies; None before the first export."""
    for name in ("encoder", "tokenizer"):
        if code := read_json(run / f"{name}.json").get("load"):
            return str(code).replace(f"{name}.safetensors", str(run.resolve() / f"{name}.safetensors"))
    return None


def _best(run: Path) -> int | None:
    """Step of the encoder that scored best in a probe, if it is another one than the newest."""
    newest, best = (read_json(run / card).get("made_by", {}).get("step") for card in CARDS)
    return best if best != newest else None


def _commands(run: Path, recipe: Line, log: Log) -> list[dict[str, str]]:
    folder = shlex.quote(str(run.resolve()))
    data = shlex.quote(str(log.last("start", "resume").get("data", "photos/")))
    lines = {}
    command, section = ("tokenizer", "tokenizer") if is_tokenizer(recipe) else ("pretrain", "method")
    if log.status != "finished":
        resume = f"unmask {command} {recipe[section]['name']} --data {data} --out {folder} --resume"
        lines["Continue the training"] = resume
    if (run / "tokenizer.json").is_file():
        pretrain = f"unmask pretrain beit --data {data} --out runs/beit method.tokenizer={folder}"
        lines["Pre-train an encoder on its codes"] = pretrain
        lines["See what each code stands for"] = f"unmask codes {folder} --data {data} --out codes.png"
    if (run / "encoder.json").is_file():
        lines["Measure it on labelled pictures"] = f"unmask evaluate linear {folder} --data labelled/"
        lines["Try it on a picture of your own"] = f"unmask reconstruct {folder} picture.jpg"
        lines["Take it home"] = f"unmask export {folder} --to timm"
    return [{"title": title, "line": line} for title, line in lines.items()]
