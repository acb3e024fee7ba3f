"""Results side by side, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

NAMES = {"knn": "k-NN", "linear": "linear probe"}


def scores_table(subject: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """Top-1 accuracy and its standard error: a row for the encoder and each baseline, a column an evaluation.

    Args:
        subject: what the encoder is called.
        results: what `evaluate` returned, of one encoder and one data set.
    """
    images = results[0]["validation"]["images"]
    table = Table()
    table.add_column(f"top-1 on {images:,} validation images", no_wrap=True)
    rows: dict[str, list[str]] = {}
    for result in results:
        table.add_column(NAMES[result["kind"]], justify="right")
        for name, figures in {subject: result, **result.get("baselines", {})}.items():
            rows.setdefault(name, []).append(_score(figures))
    for name, cells in rows.items():
        table.add_row(name, *cells, style="bold" if name == subject else None)
    return table


def _score(figures: Mapping[str, float]) -> str:
    error = figures.get("standard_error")
    return f"{figures['top1']:.1%}" + ("" if error is None else f" ± {error:.1%}")
