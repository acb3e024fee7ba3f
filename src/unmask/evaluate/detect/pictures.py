"""Pictures with what was found, missed, and found where nothing is."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unmask.drawing import TITLE, Font
from unmask.evaluate.detect.coco import Annotations, Photo
from unmask.evaluate.detect.found import Found, hits
from unmask.evaluate.detect.samples import read_picture
from unmask.evaluate.detect.score import NOTHING, SURE

SIDE = 560  # pixels of the longer side
GAP, TOP, COLUMNS = 10, 34, 3
FOUND, MISSED, ALARM = (0, 190, 220), (255, 190, 0), (235, 40, 150)  # told apart by the colour-blind too
LABELLED = 14  # boxes of a picture, above which their names would hide it
DASH = 6


def sheet(
    photos: Sequence[Photo],
    found: Mapping[int | str, Found],
    annotations: Annotations,
    *,
    channels: int = 3,
) -> Image.Image:
    """The pictures in rows, with a line above that says what the colours mean."""
    panels = [panel(photo, found.get(photo.id, NOTHING), annotations.names, channels) for photo in photos]
    columns = min(COLUMNS, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(one.height for one in row) for row in rows]
    width = max(max(sum(one.width + GAP for one in row) - GAP for row in rows), 460)
    canvas = Image.new("RGBA", (width, TOP + sum(heights) + GAP * (len(rows) - 1)), (255, 255, 255, 0))
    _legend(ImageDraw.Draw(canvas))
    top = TOP
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for one in row:
            canvas.paste(one, (left, top))
            left += one.width + GAP
        top += height + GAP
    return canvas


def panel(photo: Photo, found: Found, names: Sequence[str], channels: int = 3) -> Image.Image:
    """One picture with its boxes and masks."""
    picture = read_picture(photo, channels).convert("RGB")
    factor = SIDE / max(picture.size)
    size = round(picture.width * factor), round(picture.height * factor)
    sure = found.surest(SURE)
    owner, excused = hits(sure, photo)
    colours = [FOUND if own >= 0 or free else ALARM for own, free in zip(owner, excused, strict=True)]
    missed = [one for index, one in enumerate(photo.instances) if index not in owner and not one.crowd]
    if sure.runs:
        picture = _tinted(picture, sure.masks(), colours)
    image = picture.resize(size, Image.Resampling.BICUBIC)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    few = len(sure) + len(missed) <= LABELLED
    for one in missed:
        box = _scaled(one.box, factor)
        _dashed(draw, box, MISSED)
        if few:
            _label(draw, box, names[one.category], MISSED, font)
    for index in np.argsort(sure.scores):  # the surest on top
        box = _scaled(tuple(sure.boxes[index]), factor)
        draw.rectangle(box, outline=colours[index], width=2)
        # Who finds a crowded picture's names in the way still wants to know what a false alarm was taken for.
        if few or colours[index] == ALARM:
            text = f"{names[int(sure.categories[index])]} {sure.scores[index]:.2f}"
            _label(draw, box, text, colours[index], font)
    return image


def _tinted(
    picture: Image.Image, masks: NDArray[np.bool_], colours: Sequence[tuple[int, int, int]]
) -> Image.Image:
    pixels = np.asarray(picture).astype(np.float32)
    for mask, colour in zip(masks, colours, strict=True):
        pixels[mask] = 0.55 * pixels[mask] + 0.45 * np.asarray(colour, dtype=np.float32)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _scaled(box: tuple[float, ...], factor: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * factor) for edge in box)
    return left, top, max(left, right - 1), max(top, bottom - 1)


def _dashed(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    for start in range(left, right, 2 * DASH):
        for edge in (top, bottom):
            draw.line((start, edge, min(start + DASH, right), edge), fill=colour, width=2)
    for start in range(top, bottom, 2 * DASH):
        for edge in (left, right):
            draw.line((edge, start, edge, min(start + DASH, bottom)), fill=colour, width=2)


def _label(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    text: str,
    colour: tuple[int, int, int],
    font: Font,
) -> None:
    width, height = round(font.getlength(text)) + 6, 15
    top = box[1] - height if box[1] >= height else box[1]
    draw.rectangle((box[0], top, box[0] + width, top + height), fill=colour)
    draw.text((box[0] + 3, top + 1), text, fill=(0, 0, 0), font=font)


def _legend(draw: ImageDraw.ImageDraw) -> None:
    font, left = ImageFont.load_default(size=15), 0
    for text, colour in (("found", FOUND), ("missed", MISSED), ("false alarm", ALARM)):
        box = (left, 6, left + 26, 22)
        if colour == MISSED:
            _dashed(draw, box, colour)
        else:
            draw.rectangle(box, outline=colour, width=2)
        draw.text((left + 34, 5), text, fill=TITLE, font=font)
        left += 34 + round(font.getlength(text)) + 28
