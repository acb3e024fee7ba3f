"""A detector's figures for the terminal."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from unmask.evaluate.detect.score import FIGURES, PREFIX
from unmask.evaluate.detect.task import METRICS, PICTURES
from unmask.runs import read_json

KINDS = {"": "boxes", "mask_": "masks"}


def summary(folder: Path) -> Iterator[Table | str]:
    """What `unmask evaluate detect` prints when a run has ended.

    Args:
        folder: of the run.
    """
    metrics = read_json(folder / METRICS)
    prefixes = [prefix for prefix in PREFIX.values() if f"{prefix}AP" in metrics]
    yield _figures(metrics, prefixes)
    yield _classes(metrics, prefixes)
    if (folder / PICTURES).is_file():  # or none of its pictures could be read
        yield str(folder / PICTURES)


def _figures(metrics: Mapping[str, Any], prefixes: list[str]) -> Table:
    count = metrics["validation"]
    table = Table(title=f"{count['objects']:,} objects on {count['pictures']:,} pictures, per cent")
    table.add_column("")
    for name in FIGURES:
        table.add_column(name.replace("_", " "), justify="right")
    for prefix in prefixes:
        table.add_row(KINDS[prefix], *(_per_cent(metrics.get(prefix + name)) for name in FIGURES))
    return table


def _classes(metrics: Mapping[str, Any], prefixes: list[str]) -> Table:
    table = Table(caption="found, missed, false alarms: score 0.5 or more, boxes that overlap by 0.5 or more")
    table.add_column("class", no_wrap=True)
    columns = ["objects", *(f"{prefix}AP" for prefix in prefixes), "found", "missed", "false_alarms"]
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for line in metrics["classes"]:
        cells = (_per_cent(line[name]) if name.endswith("AP") else f"{line[name]:,}" for name in columns)
        table.add_row(line["class"], *cells)
    return table


def _per_cent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
