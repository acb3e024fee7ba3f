"""Line charts as SVG for an HTML page, which sets their colours (CSS variables) and font (class `chart`)."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import floor, log10

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from numpy.typing import NDArray

# Placeholder colours that matplotlib draws with, and the CSS variables that take their place.
INK, MUTED, GRID, ACCENT, SOFT = "#010101", "#010102", "#010103", "#010104", "#010105"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", ACCENT: "--accent", SOFT: "--accent-soft"}
SIZE = 4.6, 2.7  # inches of 72 points: text stays readable when a phone shows the chart at 340 pixels
POINTS = 500  # of a line; more are not seen and make the page heavy
LOG_RANGE = 8.0  # a loss that falls by more than this factor is drawn on a logarithmic axis

Values = Float[NDArray, " n"]


def line_chart(
    steps: Sequence[float],
    values: Sequence[float | None],
    *,
    name: str,
    smooth: bool = False,
    logarithmic: bool = False,
    references: Mapping[str, float] | None = None,
) -> str:
    """One curve over steps as an inline <svg> element; missing and non-finite values are gaps.

    Args:
        name: the element's title for screen readers; also keeps its ids apart from other charts'.
        smooth: draw the values faintly and their running mean over them, on a logarithmic axis if they span
            a wide range.
        logarithmic: draw on a logarithmic axis if they span a wide range.
        references: values to compare with, drawn as dashed lines, by what they are called.
    """
    x = np.asarray(steps, dtype=float)
    y = np.asarray([np.nan if value is None else value for value in values], dtype=float)
    y[~np.isfinite(y)] = np.nan
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if smooth:
        axes.plot(*thin(x, y), color=SOFT, linewidth=1.1)
        axes.plot(*thin(x, running_mean(y)), color=ACCENT, linewidth=2, solid_capstyle="round")
    else:
        axes.plot(*thin(x, y), color=ACCENT, linewidth=2, solid_capstyle="round")
    if np.isfinite(y).sum() == 1:
        axes.plot(x, y, "o", color=ACCENT, markersize=6)
    style(axes, y, logarithmic=(smooth or logarithmic) and spans_decades(y))
    _draw_references(axes, references or {})
    return to_svg(figure, name)


def curves_chart(curves: Mapping[str, Sequence[tuple[float, float]]], *, name: str, percent: bool) -> str:
    """A few curves of a few points each, marked, several with their names at their ends, as an inline <svg>
    element.

    Args:
        curves: (step, value) by name; the first is drawn strongest.
        percent: the values are shares.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest = min(reversed(list(curves)), key=lambda title: curves[title][-1][1])
    for colour, (title, points) in zip((ACCENT, MUTED, SOFT), curves.items(), strict=False):
        x, y = np.asarray(points, dtype=float).T
        axes.plot(x, y, "o-", color=colour, linewidth=2, markersize=5, solid_capstyle="round")
        if len(curves) > 1:
            below = title == lowest
            axes.annotate(
                title,
                (x[-1], y[-1]),
                (0, -8 if below else 8),
                textcoords="offset points",
                color=colour,
                ha="right",
                va="top" if below else "bottom",
            )
    values = np.asarray([value for points in curves.values() for _, value in points], dtype=float)
    style(axes, values, logarithmic=False)
    axes.margins(y=0.15)
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return to_svg(figure, name)


def running_mean(values: Values) -> Values:
    """Mean over about a thirtieth of the values, centred, geometric if all are positive; gaps (NaN) stay."""
    known = np.isfinite(values)
    geometric = bool((values[known] > 0).all())
    source = np.where(
        known, np.log(values, where=known, out=np.zeros_like(values)) if geometric else values, 0.0
    )
    reach = len(values) // 60
    window = np.hanning(2 * reach + 3)
    weight = np.convolve(known.astype(float), window)[reach + 1 : -reach - 1]
    total = np.convolve(source, window)[reach + 1 : -reach - 1]
    smooth = np.divide(total, weight, where=known, out=np.full_like(values, np.nan))
    return np.exp(smooth) if geometric else smooth


def thin(x: Values, y: Values, points: int = POINTS) -> tuple[Values, Values]:
    """At most about `points` of the points: the smallest and largest of every stretch: no spike is lost."""
    if len(x) <= points:
        return x, y
    keep = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(len(x)), points // 2):
        if np.isfinite(y[stretch]).any():
            keep |= {int(stretch[np.nanargmin(y[stretch])]), int(stretch[np.nanargmax(y[stretch])])}
        else:
            keep.add(int(stretch[0]))
    index = sorted(keep)
    return x[index], y[index]


def spans_decades(values: Values) -> bool:
    """Whether values are better drawn on a logarithmic axis."""
    finite = values[np.isfinite(values)]
    return len(finite) > 1 and bool(finite.min() > 0) and bool(finite.max() / finite.min() > LOG_RANGE)


def _draw_references(axes: Axes, references: Mapping[str, float]) -> None:
    """Dashed lines with their names at the right end, above the line, or below where two lie close."""
    before = None
    low, high = axes.get_ylim()
    scale = log10 if axes.get_yscale() == "log" else float
    for title, value in sorted(references.items(), key=lambda pair: -pair[1]):
        axes.axhline(value, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        close = before is not None and scale(before) - scale(value) < 0.09 * (scale(high) - scale(low))
        axes.annotate(
            title,
            (1.0, value),
            (-2, -3 if close else 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=MUTED,
            ha="right",
            va="top" if close else "bottom",
        )
        before = value


def style(
    axes: Axes,
    values: Values,
    *,
    logarithmic: bool,
    label: str = "step",
    muted: str = MUTED,
    grid: str = GRID,
) -> None:
    """The looks that all charts share.

    Args:
        values: that are drawn; they decide the ticks.
        label: of the horizontal axis.
        muted: colour of text; so is `grid` of lines. The defaults are placeholders of `to_svg`.
    """
    axes.set_xlabel(label, color=muted)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(_plain(values)))
        if (
            np.isfinite(values).any()
            and np.nanmin(values) >= 0
            and np.nanmin(values) < 0.3 * np.nanmax(values)
        ):
            axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(0, axes.dataLim.x1 * 1.01)
    axes.tick_params(colors=muted, length=0, pad=5)
    axes.tick_params(which="minor", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(grid)


def _plain(values: Values) -> Callable[[float, int], str]:
    """Tick labels; numbers below a thousandth share one power of ten ("1.2e-4", "0.8e-4")."""
    largest = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 1.0
    exponent = floor(log10(largest)) if 0 < largest < 1e-3 else 0
    suffix = f"e{exponent}" if exponent else ""
    return lambda value, _: f"{value / 10.0**exponent:.4g}{suffix}" if value else "0"


def to_svg(figure: Figure, name: str) -> str:
    """A figure as an <svg> element without prologue, metadata, fixed size or fixed colours."""
    identifier = re.sub(r"\W+", "-", name)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": identifier, "font.size": 10}):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\1{identifier}-", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # a style element would rule the whole page
    svg = re.sub(r'font[a-z-]*: [^;"]*; ?', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{escape(name)}"', 1)
