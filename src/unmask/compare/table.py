"""What runs were and reached, a row each, for the terminal, a page and a picture."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from unmask.compare.runs import Entry

BEST = "accuracy", "measured_by", "measured_at"
COLUMNS = (
    "run",
    "recipe",
    "encoder",
    "images seen",
    "minutes",
    "last loss",
    "of a guess",
    "best accuracy",
    "by",
)
WORDS = ("run", "recipe", "encoder", "by")


def facts(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Plain data: numbers as they are, None where there is none."""
    return [
        {
            "run": entry.name,
            "folder": str(entry.folder),
            "status": entry.log.status,
            "recipe": entry.recipe.name,
            "method": entry.method,
            "encoder": entry.recipe.encoder.name,
            "images": entry.images,
            "minutes": entry.minutes,
            "loss": entry.loss,
            "guess": entry.guess,
            **dict(zip(BEST, entry.best or (None, None, None), strict=True)),
        }
        for entry in entries
    ]


def cells(fact: dict[str, Any]) -> list[str]:
    """A row of `COLUMNS` in words; a dash where nothing is known."""
    loss, guess, accuracy = fact["loss"], fact["guess"], fact["accuracy"]
    unfinished = "" if fact["status"] == "finished" else f" ({fact['status']})"
    step = f"step {fact['measured_at']:,}" if fact["measured_at"] else "random weights"
    return [
        fact["run"] + unfinished,
        fact["recipe"],
        fact["encoder"],
        f"{fact['images']:,}",
        f"{fact['minutes']:.1f}",
        "–" if loss is None else f"{loss:.4g}",
        "–" if loss is None or not guess else f"{loss / guess:.0%}",
        "–" if accuracy is None else f"{accuracy:.1%}",
        "–" if accuracy is None else f"{fact['measured_by']}, {step}",
    ]


def summary(rows: Sequence[dict[str, Any]]) -> Table:
    """For the terminal, where a line is short: what a run is called tells its recipe."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [column for column in COLUMNS if column not in ("recipe", "encoder")]
    for column in shown:
        table.add_column(column, justify="left" if column in WORDS else "right", no_wrap=column == "run")
    for fact in rows:
        words = dict(zip(COLUMNS, cells(fact), strict=True))
        table.add_row(*(words[column] for column in shown))
    return table
