"""What a segmentation looks like: picture, truth and prediction side by side, and what the colours mean."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from unmask.drawing import TITLE
from unmask.evaluate.segment.score import IGNORED

TILE = 220  # pixels of a picture's longer side
GAP, ROW_GAP, TOP = 6, 12, 26
OPACITY = 0.62  # of a class's colour over the picture
LEGEND_CLASSES = 24  # most classes that the legend names
SWATCH, LINE = 14, 22
GREY = (128, 128, 128)  # what has no class
TAB10_GREY = 7  # place of the grey in matplotlib's ten colours
TITLES = ("picture", "truth", "prediction", "mistakes")
WRONG, RIGHT = (220, 50, 47), (38, 139, 110)

Picture = UInt8[np.ndarray, "H W 3"]


def palette(classes: int) -> UInt8[np.ndarray, "256 3"]:
    """A colour for every class, far apart for neighbours; `IGNORED` is grey."""
    colours = np.full((256, 3), GREY, dtype=np.uint8)
    usual = [colormaps["tab10"](place)[:3] for place in range(10) if place != TAB10_GREY]
    for number in range(min(classes, IGNORED)):
        if number < len(usual):
            red, green, blue = usual[number]
        else:  # steps by the golden ratio never come back to a hue; brightness changes in turns
            hue, lightness = (0.58 + number * 0.618034) % 1, (0.52, 0.68, 0.40)[number % 3]
            red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.75)
        colours[number] = [round(255 * part) for part in (red, green, blue)]
    return colours


def overlay(picture: Picture, mask: UInt8[np.ndarray, "H W"], colours: UInt8[np.ndarray, "256 3"]) -> Picture:
    """The colours of the classes over the picture in grey."""
    grey = np.asarray(Image.fromarray(picture).convert("L"))[..., None].astype(np.float32)
    return np.rint((1 - OPACITY) * grey + OPACITY * colours[mask]).astype(np.uint8)


def mistakes(picture: Picture, truth: np.ndarray, prediction: np.ndarray) -> Picture:
    """Right pixels green, wrong ones red, those without a class in grey."""
    colours = np.full((256, 3), GREY, dtype=np.uint8)
    colours[0], colours[1] = WRONG, RIGHT
    right = np.where(truth == IGNORED, IGNORED, truth == prediction).astype(np.uint8)
    return overlay(picture, right, colours)


def sheet(rows: Sequence[tuple[Picture, np.ndarray, np.ndarray]], classes: Sequence[str]) -> Image.Image:
    """Scenes below each other: picture, truth, prediction and mistakes, with a legend of the classes in them.

    Args:
        rows: of each scene picture, truth and prediction, [H, W]; truth may be `IGNORED`.
    """
    colours = palette(len(classes))
    lines = [
        [
            _tile(one)
            for one in (
                picture,
                overlay(picture, truth.astype(np.uint8), colours),
                overlay(picture, prediction.astype(np.uint8), colours),
                mistakes(picture, truth, prediction),
            )
        ]
        for picture, truth, prediction in rows
    ]
    seen = {int(number) for _, truth, prediction in rows for number in np.union1d(truth, prediction)}
    legend = _legend(sorted(seen), classes, colours, len(TITLES) * (TILE + GAP) - GAP)
    height = TOP + sum(line[0].height + ROW_GAP for line in lines)
    canvas = Image.new("RGBA", (legend.width, height + legend.height), (255, 255, 255, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for column, title in enumerate(TITLES):
        draw.text((column * (TILE + GAP), 2), title, fill=TITLE, font=font)
    top = TOP
    for line in lines:
        for column, tile in enumerate(line):
            canvas.paste(tile, (column * (TILE + GAP), top))
        top += line[0].height + ROW_GAP
    canvas.paste(legend, (0, top))
    return canvas


def as_picture(pixels: Shaped[np.ndarray, "H W C"]) -> Picture:
    """Pixels of any depth and channels for a screen; deeper ones are stretched to their range."""
    shown = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    low, high = float(shown.min()), float(shown.max())
    return np.rint((shown - low) / max(high - low, 1e-9) * 255).astype(np.uint8)


def _tile(picture: Picture) -> Image.Image:
    scale = TILE / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)


def _legend(seen: Sequence[int], classes: Sequence[str], colours: np.ndarray, width: int) -> Image.Image:
    named = [(classes[number] if number != IGNORED else "no class", colours[number]) for number in seen]
    if len(named) > LEGEND_CLASSES:
        named = [
            *named[: LEGEND_CLASSES - 1],
            (f"and {len(named) - LEGEND_CLASSES + 1} more", np.array(GREY)),
        ]
    font = ImageFont.load_default(size=14)
    places, left, top = [], 0, 0
    for name, colour in named:
        needed = SWATCH + 6 + int(font.getlength(name)) + 18
        if left and left + needed > width:
            left, top = 0, top + LINE
        places.append((left, top, name, colour))
        left += needed
    canvas = Image.new("RGBA", (width, top + LINE), (255, 255, 255, 0))
    draw = ImageDraw.Draw(canvas)
    for left, top, name, colour in places:
        draw.rectangle((left, top + 3, left + SWATCH, top + 3 + SWATCH), fill=tuple(int(c) for c in colour))
        draw.text((left + SWATCH + 6, top + 2), name, fill=TITLE, font=font)
    return canvas
