"""A comparison as one PNG: pictures, curves, table."""

from collections.abc import Sequence
from io import BytesIO
from math import ceil
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from unmask.compare.curves import Chart, draw, line_style
from unmask.compare.table import COLUMNS, cells

MUTED, GRID = "#5d626b", "#e3e4e1"
WIDTH = 13.0  # inches
COLUMNS_OF_CHARTS = 3
MARGIN = 24  # pixels
DPI = 100


def sheet(
    names: Sequence[str],
    charts: Sequence[Chart],
    rows: Sequence[dict[str, Any]],
    pictures: Image.Image | None,
) -> Image.Image:
    """All parts below each other on white.

    Args:
        names: of the runs, in the order of their numbers in the charts.
    """
    parts = [pictures] if pictures is not None else []
    parts += [_curves(names, charts)] if charts else []
    parts += [_table(rows)]
    width = max(part.width for part in parts) + 2 * MARGIN
    height = sum(part.height + MARGIN for part in parts) + MARGIN
    page, top = Image.new("RGB", (width, height), "white"), MARGIN
    for part in parts:
        page.paste(part, (MARGIN, top), part if part.mode == "RGBA" else None)
        top += part.height + MARGIN
    return page


def _curves(names: Sequence[str], charts: Sequence[Chart]) -> Image.Image:
    columns = min(COLUMNS_OF_CHARTS, len(charts))
    rows = ceil(len(charts) / columns)
    figure = _figure(WIDTH * columns / COLUMNS_OF_CHARTS, 3.0 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(charts):
            axes.set_axis_off()
            continue
        draw(axes, charts[place], muted=MUTED, grid=GRID)
        axes.set_title(charts[place].title, loc="left", fontsize=11, fontweight="bold")
    lines = [Line2D([], [], linewidth=2.5, **line_style(index)) for index in range(len(names))]
    figure.legend(lines, names, loc="outside upper left", ncols=min(len(names), 4), frameon=False)
    return _drawn(figure)


def _table(rows: Sequence[dict[str, Any]]) -> Image.Image:
    figure = _figure(WIDTH, 0.3 * (len(rows) + 1) + 0.1)
    axes = figure.add_subplot()
    axes.set_axis_off()
    table = axes.table(
        [cells(row) for row in rows], colLabels=COLUMNS, loc="center", cellLoc="left", edges="horizontal"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(list(range(len(COLUMNS))))
    for cell in table.get_celld().values():
        cell.set_edgecolor(GRID)
        cell.set_height(1 / (len(rows) + 1))
    return _drawn(figure)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawn(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")
