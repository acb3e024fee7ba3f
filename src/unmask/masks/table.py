"""Average distances side by side, for the terminal."""

from collections.abc import Iterator
from itertools import groupby

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from unmask.masks.compare import Compared
from unmask.masks.strategies import BEST, RATIOS

NEAR = 0.09  # a share further from the one asked for is left out: large units have few


def summary(compared: Compared) -> Iterator[RenderableType]:
    """A row for every strategy, a column for every ratio; then the method's own masks and the files."""
    height, width = compared.image_size
    yield (
        f"Pixels from a hidden pixel to the nearest visible one, in images of {height} x {width}, mean of "
        f"{compared.masks} masks:\n"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("hidden", no_wrap=True)
    for ratio in RATIOS:
        table.add_column(f"{ratio:.0%}", justify="right", no_wrap=True)
    for strategy, group in groupby(compared.distances, key=lambda one: one.strategy):
        by_ratio = {one.ratio: one.mean for one in group if abs(one.hidden - one.ratio) < NEAR}
        table.add_row(strategy.name, *(_cell(by_ratio.get(ratio)) for ratio in RATIOS))
    yield table
    low, high = BEST
    yield f"\n[green]Green[/]: {low:.0f} to {high:.0f} pixels, where SimMIM's study has its best results."
    own = compared.own
    if own is not None:
        yield (
            f"[bold]{escape(own.name)}[/] hides {own.hidden:.1%}: "
            f"{_cell(own.mean)} ± {own.deviation:.1f} pixels (standard deviation over masks)."
        )
    for path in compared.pictures:
        yield escape(str(path))


def _cell(mean: float | None) -> str:
    if mean is None:
        return "–"
    text = f"{mean:.1f}"
    return f"[green]{text}[/]" if BEST[0] <= mean <= BEST[1] else text
