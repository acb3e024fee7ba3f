"""Masks to look at: a gallery, and the average distance over the mask ratio."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from unmask.masking import Mask
from unmask.masks.strategies import BEST, Distance, Own, Strategy

INK, MUTED, LINE = "#1f2933", "#6b7785", "#d9dee4"
HIDDEN, VISIBLE = (84, 98, 114), (234, 238, 242)  # without a picture
GREY = (138, 138, 138)  # hidden parts of a picture, as in reconstructions
DPI = 110
TILE = 1.16  # inches
LABEL = 0.05  # height of a curve's name, as a share of the axis
RANDOM_BLUES = {4: "#9ecae1", 8: "#6baed6", 16: "#3f8fc9", 32: "#1f66ad", 64: "#0b3c7a"}
STYLES = {  # kind, unit -> colour, dashes, marker
    **{("random", unit): (colour, "-", "o") for unit, colour in RANDOM_BLUES.items()},
    ("square", 32): ("#d9822b", "-", "s"),
    ("block", 16): ("#3d9a63", "-", "^"),
    ("block", 32): ("#1c6b3f", "-", "v"),
    ("official", 16): ("#3d9a63", ":", "x"),
}

Picture = UInt8[NDArray, "H W 3"]


def gallery(found: Sequence[Distance], picture: Picture | None) -> Figure:
    """A row for every strategy, a column for every ratio.

    Args:
        picture: to hide parts of; None shows the masks alone.
    """
    rows = [list(group) for _, group in groupby(found, key=lambda one: one.strategy)]
    ratios = sorted({one.ratio for one in found})
    label, gap = 1.1, 0.06
    figure = _figure(label + len(ratios) * (TILE + gap), 0.32 + len(rows) * (TILE + 0.24))
    grid = figure.add_gridspec(
        len(rows), len(ratios), left=label / figure.get_figwidth(), right=0.998,
        top=1 - 0.3 / figure.get_figheight(), bottom=0.24 / figure.get_figheight(),
        wspace=gap / TILE, hspace=0.24 / TILE,
    )  # fmt: skip
    for line, row in enumerate(rows):
        by_ratio = {one.ratio: one for one in row}
        for column, ratio in enumerate(ratios):
            axes = figure.add_subplot(grid[line, column])
            if line == 0:
                axes.set_title(
                    f"{ratio:.0%} hidden" if column == 0 else f"{ratio:.0%}", fontsize=9, color=INK
                )
            if column == 0:
                _name(axes, row[0].strategy)
            if ratio in by_ratio:
                one = by_ratio[ratio]
                _tile(axes, one.example, one.strategy.unit, picture)
                _caption(axes, f"{one.hidden:.0%} · {one.mean:.1f} px")
            else:
                _empty(axes)
    return figure


def samples(own: Own, picture: Picture | None) -> Figure:
    """Examples of the masks of one method, four in a row."""
    images = len(own.examples.hidden)
    columns = min(4, images)
    lines = -(-images // columns)
    side = 1.7
    figure = _figure(columns * (side + 0.08), 0.42 + lines * (side + 0.26))
    height = figure.get_figheight()
    grid = figure.add_gridspec(
        lines, columns, left=0.01, right=0.99, top=1 - 0.4 / height, bottom=0.24 / height, wspace=0.05,
        hspace=0.24 / side,
    )  # fmt: skip
    figure.suptitle(
        f"{own.name}: {own.hidden:.1%} hidden, average distance {own.mean:.1f} ± {own.deviation:.1f} px",
        fontsize=10, color=INK, y=1 - 0.1 / height, va="top",
    )  # fmt: skip
    for index in range(images):
        axes = figure.add_subplot(grid[divmod(index, columns)])
        one = Mask.ragged(own.examples.hidden[index : index + 1], own.examples.grid)
        _tile(axes, one, own.patch_size, picture)
        _caption(axes, f"{own.each[index]:.1f} px")
    return figure


def curves(found: Sequence[Distance], own: Own | None) -> Figure:
    """Average distance over the share that is hidden, a curve for every strategy (SimMIM, figure 3 left)."""
    figure = _figure(7.2, 4.4)
    axes = figure.add_axes((0.085, 0.115, 0.655, 0.855))
    axes.axhspan(*BEST, color="#f3e9c6", zorder=0, linewidth=0)
    axes.text(0.49, BEST[0] * 1.02, "best in SimMIM's study", fontsize=8, color="#8a7430", va="bottom")
    ends = []
    for strategy, group in groupby(found, key=lambda one: one.strategy):
        points = list(group)
        x, y = [one.hidden for one in points], [one.mean for one in points]
        colour, dashes, marker = STYLES[strategy.kind, strategy.unit]
        axes.plot(x, y, dashes, color=colour, marker=marker, markersize=4, linewidth=1.6)
        ends.append((x[-1], y[-1], strategy.name, colour))
    axes.set_yscale("log")
    axes.set_xlim(0.05, 0.95)
    axes.yaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("share of the image that is hidden", color=MUTED, fontsize=9)
    axes.set_ylabel("average distance to a visible pixel, px", color=MUTED, fontsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    if own is not None:
        axes.errorbar(
            own.hidden, own.mean, yerr=own.deviation, fmt="*", color="#c0392b", markersize=13, capsize=3,
            elinewidth=1.2, zorder=5,
        )  # fmt: skip
        ends.append((own.hidden, own.mean, f"★ {own.name}", "#c0392b"))
    _label(axes, ends)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG."""
    figure.savefig(path, dpi=DPI, facecolor="white")
    return path


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _tile(axes: Axes, mask: Mask, patch_size: int, picture: Picture | None) -> None:
    hidden = mask.pixels(patch_size)[0, 0].numpy()
    axes.imshow(_masked(hidden, picture), interpolation="nearest")
    _empty(axes)
    axes.spines[:].set_visible(picture is not None)  # a picture may be as white as the page
    axes.spines[:].set(color=LINE, linewidth=0.6)


def _masked(hidden: Bool[NDArray, "H W"], picture: Picture | None) -> Picture:
    ground = np.full((*hidden.shape, 3), VISIBLE, dtype=np.uint8) if picture is None else picture
    cover = np.array(HIDDEN if picture is None else GREY, dtype=np.uint8)
    return np.where(hidden[..., None], cover, ground)


def _empty(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _caption(axes: Axes, text: str) -> None:
    axes.set_xlabel(text, fontsize=7.5, color=MUTED, labelpad=2.5)


def _name(axes: Axes, strategy: Strategy) -> None:
    """The strategy left of its first tile: kind, unit, who uses it."""
    lines = strategy.name.replace(", ", "\n").replace(" (", "\n").rstrip(")")
    axes.text(
        -0.08, 0.5, lines, transform=axes.transAxes, ha="right", va="center", fontsize=9, color=INK,
        linespacing=1.35,
    )  # fmt: skip


def _label(axes: Axes, ends: Iterable[tuple[float, float, str, str]]) -> None:
    """Names beside the ends of the curves, moved apart where they would overlap."""
    low, high = np.log(axes.get_ylim())
    ordered = sorted(ends, key=lambda end: end[1])
    places = [float((np.log(y) - low) / (high - low)) for _, y, _, _ in ordered]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + LABEL)
    places[-1] = min(places[-1], 1.0)
    for index in range(len(places) - 1, 0, -1):
        places[index - 1] = min(places[index - 1], places[index] - LABEL)
    leader = {"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5)}
    for (x, y, name, colour), place in zip(ordered, places, strict=True):
        axes.annotate(
            name, (x, y), (1.035, place), textcoords="axes fraction", va="center", fontsize=8.5,
            color=colour, arrowprops={**leader, "color": colour}, annotation_clip=False,
        )  # fmt: skip
