"""One self-contained HTML page about a fine-tuning run."""

import csv
import json
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from unmask import __version__
from unmask.charts import curves_chart, line_chart
from unmask.engine.files import write_text
from unmask.errors import UserError
from unmask.page import as_webp, flat, recipe_tables, template
from unmask.runs import Log, number, read_json, read_log
from unmask.summary import as_duration, data_name, warnings

SHOWN_CLASSES = 200  # rows; a table of more is in classes.csv


def write_report(run: Path) -> Path:
    """Write `report.html` into the folder of a finished fine-tuning run, and return its path.

    Raises:
        UserError: the run has not finished.
    """
    recipe, metrics = read_json(run / "recipe.json"), read_json(run / "metrics.json")
    if not metrics:
        raise UserError(f"{run} has no result yet (metrics.json): finish it with --resume")
    environment, log = read_json(run / "environment.json"), read_log(run / "log.jsonl")
    shown = {key: value for key, value in recipe.items() if key != "classes"}
    page = template("finetune.html").render(
        title=Path(recipe["start"]["name"]).name or recipe["encoder"]["name"],
        subtitle=f"fine-tuned to {len(metrics['classes'])} classes"
        + (f" of {name}" if (name := data_name(log.last("start"))) else ""),
        summary=" ".join(_sentences(recipe, metrics, log)),
        warnings=[*metrics["notes"], *warnings(log)],
        tiles=list(_tiles(metrics)),
        charts=_charts(log),
        judged=metrics["judged_by"],
        confusion=_picture(run / "images" / "confusion.png"),
        mistakes=_picture(run / "images" / "mistakes.png"),
        classes=_classes(run / "classes.csv"),
        pairs=_pairs(run / "classes.csv"),
        snippet=_snippet(run),
        commands=list(_commands(run)),
        recipe=recipe_tables(shown),
        recipe_json=json.dumps(recipe, indent=2),
        environment=list(flat(environment)),
        folder=run.resolve(),
        version=__version__,
        written=datetime.now().strftime("%d %B %Y, %H:%M").lstrip("0"),
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _sentences(recipe: Mapping[str, Any], metrics: Mapping[str, Any], log: Log) -> Iterable[str]:
    start, (height, width) = recipe["start"], recipe["data"]["image_size"]
    weights = "the weights that its training began with" if start["random"] else "its weights"
    share = recipe["data"]["fraction"]
    of_all = f", {share:.3g} of those there are" if share < 1 else ""
    yield (
        f"A {recipe['encoder']['name']} was fine-tuned from {start['name']} ({weights}) on "
        f"{metrics['train']['images']:,} labelled images{of_all}, at {height} × {width} pixels, by the "
        f"recipe {recipe['name']}."
    )
    best, total = metrics["best_step"], metrics["steps"]
    seconds = f" in {as_duration(log.seconds)}" if log.seconds else ""
    yield f"It took {total:,} steps{seconds}; the weights of step {best or total:,} were best and are kept."
    if metrics["judged_by"] == "test":
        yield "They were chosen on the validation images, and judged once on the test images."
    else:
        yield "They were chosen on the images that they are judged by here: others may be a little harder."


def _tiles(metrics: Mapping[str, Any]) -> Iterable[dict[str, str]]:
    final = metrics[metrics["judged_by"]]
    part = metrics["judged_by"]
    note = f"± {final['standard_error']:.1%} on {final['images']:,} {part} images"
    yield {"label": "Top-1 accuracy", "value": f"{final['top1']:.1%}", "note": note}
    if "top5" in final:
        yield {"label": "Top-5 accuracy", "value": f"{final['top5']:.1%}", "note": "the class is among five"}
    mean = f"{final['mean_class_accuracy']:.1%}"
    yield {"label": "Mean over classes", "value": mean, "note": "every class counts the same"}
    if part == "test":
        other = metrics["validation"]
        note = f"{other['images']:,} images, by which weights were chosen"
        yield {"label": "Validation", "value": f"{other['top1']:.1%}", "note": note}
    else:
        parameters = metrics["parameters"] / 1e6
        yield {"label": "Parameters", "value": f"{parameters:,.1f} M", "note": "with the classifier"}


def _charts(log: Log) -> list[dict[str, Any]]:
    found = log.all("validation")
    accuracy = {
        name: [(line["step"], value) for line in found if (value := number(line, key)) is not None]
        for name, key in (("top-1", "top1"), ("mean over classes", "mean_class_accuracy"))
    }
    charts = []
    if len(accuracy["top-1"]) > 1:
        svg = curves_chart(accuracy, name="Accuracy over steps", percent=True)
        note = "Of the validation images."
        charts.append({"title": "Accuracy", "note": note, "svg": Markup(svg)})
    steps = [line["step"] for line in log.steps]
    for title, key, note, smooth in (
        ("Loss", "loss", "Of mixed and smoothed labels, if these are on: it does not reach 0.", True),
        ("Learning rate", "lr", "Of the classifier; deeper layers have less.", False),
        ("Gradient norm", "grad_norm", "Over all weights, before clipping.", True),
    ):
        if log.numbers(key):
            values = [number(line, key) for line in log.steps]
            svg = line_chart(steps, values, name=f"{title} over steps", smooth=smooth)
            charts.append({"title": title, "note": note, "svg": Markup(svg)})
    return charts


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _classes(path: Path) -> list[dict[str, str]]:
    """The table of classes in words."""
    rows = _rows(path)[:SHOWN_CLASSES]
    for row in rows:
        for key in ("accuracy", "precision", "f1"):
            row[key] = f"{float(row[key]):.1%}" if row[key] else "–"
        row["taken_for"] = f"{row['taken_for']} ({row['times']})" if row["taken_for"] else "–"
    return rows


def _pairs(path: Path) -> list[str]:
    """The three most frequent mistakes in words."""
    rows = sorted((row for row in _rows(path) if row["taken_for"]), key=lambda row: -int(row["times"]))
    return [f"{row['class']} for {row['taken_for']} ({row['times']} images)" for row in rows[:3]]


def _picture(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return as_webp(image)


def _snippet(run: Path) -> str:
    """The Python of the model card, from where the model lies."""
    text = (run / "README.md").read_text(encoding="utf-8")
    return text.split("```python\n", 1)[1].split("```", 1)[0].replace("FOLDER", str(run.resolve())).strip()


def _commands(run: Path) -> Iterable[dict[str, str]]:
    folder = shlex.quote(str(run.resolve()))
    yield {"title": "Take it home", "line": f"unmask export {folder} --to onnx"}
    yield {
        "title": "Fine-tune it further, to other classes",
        "line": f"unmask evaluate finetune {folder} --data other/ --out runs/other",
    }
