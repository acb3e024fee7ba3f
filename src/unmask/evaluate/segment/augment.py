"""A random crop of a picture and its mask, as runs on ADE20K take it; and the steady size for tests.

Scale, crop, flip, colours, in this order: the recipe of BEiT, MAE and iTPN on ADE20K (UPerNet).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from unmask.data.arrays import resize_box
from unmask.data.colour import ColourChange
from unmask.data.native import Pixels
from unmask.evaluate.segment.scenes import Mask, Scene
from unmask.evaluate.segment.score import IGNORED

LONGEST = 4  # a scaled picture's long side, at most so many times the side that was asked for
TRIES = 10  # crops, until one has a class, and none that fills too much of it
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class CropRecipe:
    """How a scene becomes a training sample.

    Args:
        size: height and width of the crop in pixels.
        short_side: that pictures are scaled to before `scale` changes it; None leaves them as large as they
            are.
        scale: range of a factor, drawn evenly.
        largest_class: a crop of which one class fills a larger share of the pixels that have one, or none of
            whose pixels has one, is drawn again, up to ten times.
        flip: mirror every second sample, left to right.
        colour: of RGB pictures with 8 bits; None leaves colours alone.
    """

    size: tuple[int, int]
    short_side: int | None
    scale: tuple[float, float] = (0.5, 2.0)
    largest_class: float = 0.75
    flip: bool = True
    colour: ColourChange | None = None


def scaled_size(height: int, width: int, short_side: int | None, factor: float = 1.0) -> tuple[int, int]:
    """(height, width) of a picture whose shorter side is to have so many pixels, times a factor; the longer
    side gets four times as many at most."""
    if short_side is not None:
        limit = LONGEST * short_side / max(height, width)
        factor *= min(short_side / min(height, width), limit)
    return max(1, round(height * factor)), max(1, round(width * factor))


def random_sample(
    scene: Scene, recipe: CropRecipe, fill: Sequence[float], generator: np.random.Generator
) -> tuple[Shaped[Tensor, "C h w"], UInt8[Tensor, "h w"]]:
    """(picture, mask) of the recipe's size; all randomness comes from the generator.

    Args:
        fill: a channel's value where a scaled picture is smaller than the crop; masks are `IGNORED` there.
    """
    size = scene.mask.shape
    scaled = scaled_size(size[0], size[1], recipe.short_side, generator.uniform(*recipe.scale))
    part = tuple(min(wanted, there) for wanted, there in zip(recipe.size, scaled, strict=True))
    kept: tuple[Box, Mask] | None = None
    for _ in range(TRIES):
        # The picture is never scaled as a whole: what the crop shows is, from where it lies in the original.
        row, column = (
            int(generator.integers(0, there - cut, endpoint=True))
            for there, cut in zip(scaled, part, strict=True)
        )
        down, right = size[0] / scaled[0], size[1] / scaled[1]
        box = (
            column * right,
            row * down,
            min((column + part[1]) * right, size[1]),
            min((row + part[0]) * down, size[0]),
        )
        mask = resized_mask(scene.mask, box, (part[0], part[1]))
        counts = np.bincount(mask.ravel(), minlength=256)[:IGNORED]
        if kept is None or counts.any():  # there is nothing to learn from a crop without any class
            kept = box, mask
        if 0 < counts.max() <= recipe.largest_class * counts.sum():
            break
    assert kept is not None
    box, mask = kept
    picture = resized(scene.pixels, box, (part[0], part[1]))
    if recipe.flip and generator.random() < 0.5:
        picture, mask = picture.flip(-1), np.ascontiguousarray(mask[:, ::-1])
    if recipe.colour is not None:
        picture = recipe.colour.draw(generator)(picture)
    whole = torch.empty((picture.shape[0], *recipe.size), dtype=picture.dtype)
    whole[:] = torch.tensor(fill)[:, None, None].to(picture.dtype)
    whole[:, : part[0], : part[1]] = picture
    target = torch.full(recipe.size, IGNORED, dtype=torch.uint8)
    target[: part[0], : part[1]] = torch.from_numpy(mask)
    return whole, target


def resized(pixels: Pixels, box: Box, size: tuple[int, int]) -> Shaped[Tensor, "C h w"]:
    """A part of a picture to (height, width), bilinear and antialiased."""
    height, width = pixels.shape[:2]
    if box == (0, 0, width, height) and size == (height, width):
        return rearrange(torch.from_numpy(np.array(pixels)), "h w c -> c h w").contiguous()
    return resize_box(pixels, box, size, "bilinear", reducing_gap=None)


def resized_mask(mask: Mask, box: Box, size: tuple[int, int]) -> Mask:
    """The nearest pixel's class for every pixel."""
    image = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST, box=box)
    return np.array(image)
