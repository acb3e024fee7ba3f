"""Many pictures on one sheet: a batch, images and their nearest neighbours."""

from math import ceil, sqrt

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from unmask.drawing import as_pictures

TILE = 96  # pixels of the longer side
GAP = 4
QUERY_GAP = 16  # between an image and its neighbours
TITLE, TITLE_HEIGHT = (122, 122, 122, 255), 22
QUERIES, NEIGHBOURS = 8, 7


def contact_sheet(pixels: Shaped[Tensor, "B C H W"]) -> Image.Image:
    """All images, in rows from left to right, about as wide as high."""
    columns = ceil(sqrt(len(pixels)))
    tiles = screen_tiles(pixels)
    width, height = tiles[0].size
    sheet = _blank(columns * (width + GAP) - GAP, ceil(len(tiles) / columns) * (height + GAP) - GAP)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (column * (width + GAP), row * (height + GAP)))
    return sheet


def nearest(
    queries: Int64[Tensor, " q"], features: Float[Tensor, "n D"], count: int
) -> Int64[Tensor, "q count"]:
    """Indices of the images most like each query by the cosine of their features, itself left out."""
    unit = F.normalize(features, dim=1)
    similarity = unit[queries] @ unit.T
    similarity[torch.arange(len(queries)), queries] = -torch.inf
    return similarity.topk(count, dim=1).indices


def neighbour_sheet(pixels: Shaped[Tensor, "n C H W"], features: Float[Tensor, "n D"]) -> Image.Image:
    """Some images, evenly spread, each with its nearest neighbours among all, the nearest first.

    Args:
        pixels: two images or more.
    """
    count = min(NEIGHBOURS, len(pixels) - 1)
    queries = torch.arange(min(QUERIES, len(pixels))) * len(pixels) // min(QUERIES, len(pixels))
    rows = torch.cat([queries[:, None], nearest(queries, features, count)], dim=1)
    tiles = [screen_tiles(pixels[row]) for row in rows]
    width, height = tiles[0][0].size
    sheet = _blank(
        (count + 1) * (width + GAP) + QUERY_GAP - GAP, TITLE_HEIGHT + len(tiles) * (height + GAP) - GAP
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    draw.text((0, 0), "image", fill=TITLE, font=font)
    draw.text((width + GAP + QUERY_GAP, 0), "nearest by its features", fill=TITLE, font=font)
    for row, line in enumerate(tiles):
        for column, tile in enumerate(line):
            left = column * (width + GAP) + (QUERY_GAP if column else 0)
            sheet.paste(tile, (left, TITLE_HEIGHT + row * (height + GAP)))
    return sheet


def _eight_bits(pixels: Shaped[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
    """Images of any depth for a screen: of deeper ones, each is stretched from its smallest to its largest
    value."""
    if pixels.dtype == torch.uint8:
        return pixels
    exact = pixels.float().nan_to_num()
    low, high = exact.amin((1, 2, 3), keepdim=True), exact.amax((1, 2, 3), keepdim=True)
    return ((exact - low) / (high - low).clamp(min=1e-9) * 255).round().byte()


def screen_tiles(pixels: Shaped[Tensor, "B C H W"], longest: int = TILE) -> list[Image.Image]:
    """Images of any depth and channels as small pictures, the longer side of so many pixels."""
    scale = longest / max(pixels.shape[2:])
    size = max(1, round(pixels.shape[3] * scale)), max(1, round(pixels.shape[2] * scale))
    return [
        Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BICUBIC)
        for picture in as_pictures(_eight_bits(pixels.cpu()))
    ]


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGBA", (width, height), (255, 255, 255, 0))
