"""Pictures of what a classifier gets wrong."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Int64, Shaped
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unmask.data import Source, evaluation_view
from unmask.data.arrays import open_picture
from unmask.drawing import Font
from unmask.evaluate.finetune.judge import Judged
from unmask.evaluate.finetune.recipe import FinetuneData
from unmask.sheets import screen_tiles

INK, MUTED, GRID = "#1b1d21", "#5d626b", "#e3e4e1"
NUMBERED = 25  # classes; the cells of more are too small for numbers
NAMED = 60  # classes; of more no name can be read
MISTAKES = 24  # pictures
COLUMNS, TILE = 6, 132  # pixels
GAP, CAPTION = 12, 40  # pixels
DPI = 110


def confusion_picture(confusion: Int64[NDArray, "K K"], classes: Sequence[str]) -> Image.Image:
    """What each class (row) is taken for (column), as shares of the row; with the numbers of images if the
    classes are few."""
    count = len(classes)
    images = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(images, 1)
    side = min(max(0.42 * count, 3.2), 12.0)
    longest = max(map(len, classes)) if count <= NAMED else 0
    figure = Figure(figsize=(side + 1.2 + 0.075 * longest, side + 0.9 + 0.05 * longest), dpi=DPI)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= NAMED:
        size = 9 if count <= NUMBERED else 6
        axes.set_xticks(range(count), classes, rotation=45, ha="right", fontsize=size)
        axes.set_yticks(range(count), [f"{name}" for name in classes], fontsize=size)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if count <= NUMBERED:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.55 else INK
            text = f"{confusion[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("taken for", color=MUTED)
    axes.set_ylabel("is", color=MUTED)
    axes.tick_params(length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def mistakes_sheet(
    judged: Judged, source: Source, classes: Sequence[str], data: FinetuneData
) -> Image.Image | None:
    """The most confident wrong answers, as the classifier saw the pictures, with what they are, what they
    were taken for and how surely; None without any."""
    places = judged.mistakes()[:MISTAKES]
    if not places:
        return None
    views = [_view(source, int(judged.indices[place]), data) for place in places]
    tiles = [tile for view in views for tile in screen_tiles(view[None], TILE)]
    width, height = tiles[0].size
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    size = columns * (width + GAP) + GAP, rows * (height + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, (place, tile) in enumerate(zip(places, tiles, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + CAPTION + GAP)
        sheet.paste(tile, (left, top))
        label, said = classes[judged.labels[place]], classes[judged.predictions[place]]
        sure = f"{judged.confidences[place]:.0%}"
        taken = _fitting(said, font, width - font.getlength(f"not  {sure}"))
        draw.text((left, top + height + 4), _fitting(label, font, width), fill=INK, font=font)
        draw.text((left, top + height + 20), f"not {taken} {sure}", fill="#b3261e", font=font)
    return sheet


def _view(source: Source, index: int, data: FinetuneData) -> Shaped[Tensor, "C H W"]:
    picture = open_picture(source.read(index), data.channels, data.bits)
    return evaluation_view(
        picture,
        data.image_size,
        crop_fraction=data.judged_fraction,
        interpolation=data.interpolation,
        channels=data.channels,
    )


def _fitting(text: str, font: Font, width: float) -> str:
    """A text that is no wider than so many pixels."""
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text
