"""What a fine-tuning run leaves in its folder when it ends."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unmask import __version__
from unmask.data.parts import Parts
from unmask.data.views import imagenet_statistics
from unmask.encoders import Encoder
from unmask.engine.checkpoint import State
from unmask.engine.files import put, write_text
from unmask.evaluate.finetune.classifier import bare_encoder
from unmask.evaluate.finetune.judge import Judged, per_class
from unmask.evaluate.finetune.pictures import confusion_picture, mistakes_sheet
from unmask.evaluate.finetune.recipe import FinetuneRecipe
from unmask.export.classifier import FILES, About, write_classifier
from unmask.export.saved import save_encoder
from unmask.load import PYRAMID, WEIGHTS, load_pyramid
from unmask.runs import read_json

METRICS, CLASSES, PREDICTIONS = "metrics.json", "classes.csv", "predictions.csv"
CONFUSION, MISTAKES = "images/confusion.png", "images/mistakes.png"
MADE = (
    METRICS,
    CLASSES,
    PREDICTIONS,
    "images",
    *FILES,
    WEIGHTS,
    "encoder.json",
    PYRAMID,
    "report.html",
    "export",
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A trained classifier and what it answered.

    Attributes:
        model: with the best weights.
        architecture: what rebuilds it.
        encoder: that training started from.
        trained: training images of each class.
        judged: the answers to "validation", and to "test" if there is one.
        about: of the start: "run" (folder or None), "made_by".
    """

    recipe: FinetuneRecipe
    model: nn.Module
    architecture: dict[str, Any]
    encoder: Encoder
    parts: Parts
    trained: Sequence[int]
    judged: Mapping[str, Judged]
    state: State
    about: Mapping[str, Any]

    @property
    def final(self) -> str:
        """The part that says how good the classifier is: its weights were chosen by the validation."""
        return "test" if "test" in self.judged else "validation"


def write_results(result: Result, folder: Path) -> None:
    """Figures, tables, pictures, the model, the encoder inside it, and a report that shows all of it."""
    recipe, classes = result.recipe, result.recipe.classes
    mean, std = imagenet_statistics(recipe.data.channels, recipe.data.mean, recipe.data.std)
    final = result.judged[result.final]
    source = result.parts.test if result.final == "test" else result.parts.validation
    assert source is not None
    rows = per_class(final, classes, result.trained)
    write_text(folder / METRICS, json.dumps(_metrics(result), indent=2, allow_nan=False) + "\n")
    write_text(folder / CLASSES, _table(rows))
    write_text(folder / PREDICTIONS, _table(list(_answers(result))))
    (folder / "images").mkdir(exist_ok=True)
    picture = confusion_picture(final.confusion(len(classes)), classes)
    put(folder / CONFUSION, lambda path: picture.save(path, "PNG"))
    sheet = mistakes_sheet(final, source, classes, recipe.data)
    if sheet is None:
        (folder / MISTAKES).unlink(missing_ok=True)
    else:
        put(folder / MISTAKES, lambda path: sheet.save(path, "PNG"))
    about = About(
        architecture=result.architecture,
        classes=classes,
        image_size=recipe.data.image_size,
        channels=recipe.data.channels,
        mean=mean,
        std=std,
        bits=recipe.data.bits,
        crop_fraction=recipe.data.judged_fraction,
        interpolation=recipe.data.interpolation,
        start=recipe.start.name,
    )
    write_classifier(result.model, about, folder)
    run = result.about.get("run")
    save_encoder(
        bare_encoder(result.model, result.architecture, result.encoder),
        folder,
        mean=mean,
        std=std,
        bits=recipe.data.bits,
        made_by=_made_by(result),
        # A neck of pre-training stays with its backbone: segmentation starts from both (iTPN).
        pyramid=None if run is None or recipe.start.random else load_pyramid(run),
    )
    # Imported late: matplotlib's charts are only needed here.
    from unmask.evaluate.finetune.report import write_report

    write_report(folder)


def summary(run: Path) -> str:
    """How good the classifier of a finished run is, in a few lines."""
    metrics = read_json(run / METRICS)
    final = metrics[metrics["judged_by"]]
    lines = [
        f"top-1 {final['top1']:.1%} ± {final['standard_error']:.1%}, mean over classes "
        f"{final['mean_class_accuracy']:.1%}, on {final['images']:,} {metrics['judged_by']} images",
        f"Report: {run / 'report.html'}",
    ]
    return "\n".join(lines)


def _made_by(result: Result) -> dict[str, Any]:
    before = dict(result.about.get("made_by") or {})
    tuned = {"from": result.recipe.start.name, "recipe": result.recipe.name, "step": result.state.best}
    return {**before, "unmask": __version__, "fine_tuned": tuned}


def _metrics(result: Result) -> dict[str, Any]:
    recipe, state = result.recipe, result.state
    figures = {
        name: {
            **found.figures(len(recipe.classes)),
            "images": len(found.labels),
            "unreadable": len(found.bad),
        }
        for name, found in result.judged.items()
    }
    return {
        "kind": recipe.kind,
        "recipe": recipe.name,
        "start": recipe.start.model_dump(),
        "classes": list(recipe.classes),
        "train": {"images": len(result.parts.train), "unreadable": len(state.bad)},
        **figures,
        "judged_by": result.final,
        "score": figures[result.final]["top1"],
        "steps": state.step,
        "best_step": state.best,
        "seconds": round(state.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in result.model.parameters()),
        "trained_parameters": sum(
            parameter.numel() for parameter in result.model.parameters() if parameter.requires_grad
        ),
        "seed": recipe.seed,
        "notes": list(result.parts.notes),
    }


def _answers(result: Result) -> Sequence[dict[str, Any]]:
    """A row an image: what it is, what it was taken for, how surely."""
    classes, rows = result.recipe.classes, []
    for name, found in result.judged.items():
        source = result.parts.test if name == "test" else result.parts.validation
        assert source is not None
        for place, index in enumerate(found.indices):
            rows.append(
                {
                    "part": name,
                    "file": source.name(int(index)),
                    "class": classes[found.labels[place]],
                    "prediction": classes[found.predictions[place]],
                    "confidence": round(float(found.confidences[place]), 4),
                    "right": int(found.labels[place] == found.predictions[place]),
                }
            )
    return rows


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; numbers with four digits, nothing where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
        )
    return text.getvalue()
