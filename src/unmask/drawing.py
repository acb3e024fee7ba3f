"""Pieces of pictures: pixels for a screen, hidden patches, panels in rows and columns."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

HIDDEN = (138, 138, 138)  # mid-grey: apart from white and from black pages alike
HIDDEN_EDGE = (148, 148, 148)  # between hidden patches, so that they can be counted
TITLE = (122, 122, 122, 255)  # contrast of at least 4 on white and on near-black

MIN_SIDE = 160  # pixels; smaller images are enlarged by a whole factor
MAX_WIDTH = 1400  # pixels of a strip that puts samples side by side
GAP, BLOCK_GAP = 4, 24  # pixels between the pictures of a sample, and between samples side by side
ROWS = 4  # samples below each other before a second column is opened
MIN_EDGED_PATCH = 12  # pixels; edges between smaller patches would be clutter

Picture = UInt8[NDArray, "H W 3"]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def denormalise(
    images: Float[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[Tensor, "B C H W"]:
    """Pixels 0..255 from images normalised by `mean` and `std` (a value a channel, for pixels in [0, 1])."""
    shape = (1, len(mean), 1, 1)
    scale, offset = torch.tensor(std).view(shape), torch.tensor(mean).view(shape)
    pixels = images.detach().float().cpu() * scale + offset
    return pixels.nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)


def as_pictures(pixels: UInt8[Tensor, "B C H W"]) -> list[Picture]:
    """RGB pictures of grey, RGB or RGBA images, whose transparent parts become white; of other channels the
    first three are shown, of two the first."""
    channels = pixels.shape[1]
    if channels == 2 or channels > 4:
        pixels = pixels[:, : 1 if channels == 2 else 3]
    array = rearrange(pixels, "b c h w -> b h w c").numpy()
    if channels == 4:
        alpha = array[..., 3:].astype(np.float32) / 255
        array = (array[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return list(np.broadcast_to(array, (*array.shape[:3], 3)))


def enlarge(picture: Picture, scale: int) -> Picture:
    """By a whole factor, smoothly."""
    if scale == 1:
        return picture
    height, width = picture.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width * scale, height * scale), Image.Resampling.BICUBIC))


def hidden_ground(shape: tuple[int, ...], patch: int) -> Picture:
    """What is drawn over hidden patches: grey, with a fine lighter edge at the top and left of each."""
    ground = np.full((*shape, 3), HIDDEN, dtype=np.uint8)
    if patch >= MIN_EDGED_PATCH:
        ground[::patch] = HIDDEN_EDGE
        ground[:, ::patch] = HIDDEN_EDGE
    return ground


def arrange(rows: Sequence[Sequence[Picture]], *, titles: Sequence[str]) -> Image.Image:
    """Samples in columns, filled from top to bottom, with titles above each column."""
    height, width = rows[0][0].shape[:2]
    block = len(rows[0]) * (width + GAP) - GAP
    columns = min(ceil(len(rows) / ROWS), max(1, (MAX_WIDTH + BLOCK_GAP) // (block + BLOCK_GAP)))
    down = ceil(len(rows) / columns)
    columns = ceil(len(rows) / down)
    font = ImageFont.load_default(size=15 if width < 200 else 17)
    top = 26 if titles else 0
    size = columns * (block + BLOCK_GAP) - BLOCK_GAP, top + down * (height + GAP) - GAP
    canvas = Image.new("RGBA", size, (255, 255, 255, 0))
    draw = ImageDraw.Draw(canvas)
    for column in range(columns):
        left = column * (block + BLOCK_GAP)
        for index, title in enumerate(titles):
            draw.text((left + index * (width + GAP), 2), title, fill=TITLE, font=font)
        for line, pictures in enumerate(rows[column * down : (column + 1) * down]):
            for index, picture in enumerate(pictures):
                place = left + index * (width + GAP), top + line * (height + GAP)
                canvas.paste(Image.fromarray(np.ascontiguousarray(picture)), place)
    return canvas


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """Lines of words that are no wider than so many pixels, unless a word alone is."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def add_caption(picture: Image.Image, text: str) -> Image.Image:
    """The picture with lines of text below it, as wide as it is."""
    font = ImageFont.load_default(size=13)
    lines = wrapped(text, font, picture.width)
    canvas = Image.new("RGBA", (picture.width, picture.height + 8 + 18 * len(lines)), (255, 255, 255, 0))
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for index, line in enumerate(lines):
        draw.text((0, picture.height + 6 + 18 * index), line, fill=TITLE, font=font)
    return canvas
