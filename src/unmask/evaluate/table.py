"""Results side by side, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

NAMES = {"knn": "k-NN", "linear": "linear probe", "sweep": "best linear probe"}
LAST = "last, after the norm"


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


def sweep_table(result: Mapping[str, Any]) -> Table:
    """Top-1 accuracy of every place: a row a layer, a column a pooling; the place that was chosen is bold.

    Args:
        result: what `evaluate("sweep", ...)` returned of an encoder.
    """
    pools, rows = by_layer(result["trials"])
    table = Table(caption="bold: chosen on held-out training images; behind each: its learning rate")
    table.add_column("block")
    for pool in pools:
        table.add_column(pool, justify="right")
    for layer, trials in rows.items():
        cells = []
        for pool in pools:
            trial = trials[pool]
            chosen = (layer, pool) == (result["layer"], result["pool"])
            style = "bold" if chosen else ""
            cells.append(Text(f"{trial['top1']:.1%}", style).append(f"  {trial['lr']:g}", "dim"))
        table.add_row(LAST if layer is None else str(layer), *cells)
    return table


def by_layer(
    trials: Sequence[Mapping[str, Any]],
) -> tuple[list[str], dict[int | None, dict[str, Mapping[str, Any]]]]:
    """(poolings, layer -> pooling -> trial) of a sweep, layers from the first to the last."""
    layers = sorted({trial["layer"] for trial in trials}, key=lambda layer: (layer is None, layer))
    order = sorted({trial["pool"] for trial in trials}, key=lambda pool: (pool.count("+"), pool))
    return order, {
        layer: {trial["pool"]: trial for trial in trials if trial["layer"] == layer} for layer in layers
    }


def _score(figures: Mapping[str, float]) -> str:
    error = figures.get("standard_error")
    return f"{figures['top1']:.1%}" + ("" if error is None else f" ± {error:.1%}")
