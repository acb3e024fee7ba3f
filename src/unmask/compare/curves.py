"""Curves of several runs in one chart, over the images that each has seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from unmask.charts import GRID, MUTED, SIZE, Values, running_mean, spans_decades, style, thin, to_svg
from unmask.compare.runs import Entry
from unmask.health import probes_of, score_of
from unmask.runs import number

# Told apart by people who see few colours, on light and on dark pages.
COLOURS = ("#2f6fde", "#d9622b", "#2a9d6f", "#b04fc4", "#b8901a", "#d2456f", "#3aa3b8", "#8a8f98")
DASHES: tuple[str | tuple[float, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))


@dataclass(frozen=True)
class Chart:
    """Curves to be drawn together.

    Attributes:
        title: what is drawn.
        note: what one must know to read it.
        curves: (images seen, values) by the number of the run.
        reference: a level to compare with, by its name.
        percent: the values are shares.
        marked: few points, each to be seen.
        logarithmic: if the values span a wide range.
    """

    title: str
    note: str
    curves: Mapping[int, tuple[Values, Values]]
    reference: Mapping[str, float] = field(default_factory=dict)
    percent: bool = False
    marked: bool = False
    logarithmic: bool = False


def charts(entries: Sequence[Entry]) -> list[Chart]:
    """All that the logs have something for; losses of different units are never drawn on one axis."""
    found = [_relative_loss(entries), *_own_losses(entries), _rates(entries), _accuracies(entries)]
    return [chart for chart in found if chart is not None and chart.curves]


def _relative_loss(entries: Sequence[Entry]) -> Chart | None:
    """Losses as a share of what needs no learning: the only scale that methods have in common."""
    curves, without = {}, []
    for index, entry in enumerate(entries):
        images, losses = _logged(entry, "loss")
        if entry.guess:
            curves[index] = images, running_mean(losses) / entry.guess
        else:
            without.append(entry.name)
    missing = f" Without such a guess, and so not here: {', '.join(without)}." if without else ""
    note = "Running mean, as a share of the best guess that needs no learning; less is better." + missing
    return Chart("Loss against guessing", note, curves, {"the best guess": 1.0}, logarithmic=True)


def _own_losses(entries: Sequence[Entry]) -> list[Chart]:
    """The loss of every run in its own units."""
    result = []
    for index, entry in enumerate(entries):
        images, losses = _logged(entry, "loss")
        if np.isfinite(losses).any():
            reference = {"the best guess": entry.guess} if entry.guess else {}
            curves = {index: (images, running_mean(losses))}
            title, note = f"Loss of {entry.name}", "Running mean, in the method's own units."
            result.append(Chart(title, note, curves, reference, logarithmic=True))
    return result


def _rates(entries: Sequence[Entry]) -> Chart:
    curves = {index: _logged(entry, "lr") for index, entry in enumerate(entries)}
    curves = {index: pair for index, pair in curves.items() if np.isfinite(pair[1]).any()}
    return Chart("Learning rate", "As scheduled.", curves)


def _accuracies(entries: Sequence[Entry]) -> Chart:
    curves = {}
    for index, entry in enumerate(entries):
        probes = [probe for probe in probes_of(entry.log) if score_of(probe) is not None]
        if probes:
            images = np.asarray([entry.seen_at(probe["step"]) for probe in probes], dtype=float)
            curves[index] = images, np.asarray([score_of(probe) for probe in probes], dtype=float)
    note = "Of held-out images, by the probes on the way (linear; of few images k-NN). At 0: random weights."
    return Chart("Accuracy", note, curves, percent=True, marked=True)


def _logged(entry: Entry, key: str) -> tuple[Values, Values]:
    """(images seen, value) of the training lines; values that are missing or not finite are not numbers."""
    images = np.asarray([entry.seen_at(line["step"]) for line in entry.log.steps], dtype=float)
    values = [number(line, key) for line in entry.log.steps]
    return images, np.asarray([np.nan if value is None else value for value in values], dtype=float)


def draw(axes: Axes, chart: Chart, *, muted: str = MUTED, grid: str = GRID) -> None:
    """A chart on axes.

    Args:
        muted: colour of text and references, `grid` of lines: placeholders of an SVG if not given.
    """
    for index, (images, values) in chart.curves.items():
        x, y = (images, values) if chart.marked else thin(images, values)
        marker = "o" if chart.marked else None
        axes.plot(x, y, marker=marker, markersize=5, linewidth=1.8, **line_style(index))
        if np.isfinite(y).sum() == 1:
            axes.plot(x, y, "o", markersize=6, color=line_style(index)["color"])
    values = np.concatenate([values for _, values in chart.curves.values()])
    logarithmic = chart.logarithmic and spans_decades(values)
    style(axes, values, logarithmic=logarithmic, label="images seen", muted=muted, grid=grid)
    for name, level in chart.reference.items():
        axes.axhline(level, color=muted, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            name,
            (0.0, level),  # at the left, where losses are still high
            (4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=muted,
            ha="left",
            va="bottom",
        )
    if chart.marked:
        axes.margins(y=0.15)
        axes.autoscale(axis="y")
        axes.set_ylim(bottom=0)
    if chart.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def line_style(index: int) -> dict[str, Any]:
    """Colour, and from the ninth run on dashes, of the run with this number."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def as_svg(chart: Chart) -> str:
    """An inline <svg> element for a page that sets text colours."""
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot(), chart)
    return to_svg(figure, f"{chart.title} over images seen")
