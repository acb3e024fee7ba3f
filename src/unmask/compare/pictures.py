"""The same pictures under the same masks, and what each of several runs makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unmask.compare.runs import Entry
from unmask.data.views import imagenet_statistics
from unmask.drawing import (
    GAP,
    HIDDEN,
    MIN_SIDE,
    TITLE,
    Picture,
    add_caption,
    as_pictures,
    denormalise,
    hidden_ground,
    wrapped,
)
from unmask.errors import UserError
from unmask.feature_pictures import pale, principal_colours
from unmask.masking import Grid, Mask, RandomMask
from unmask.methods import Method
from unmask.runs import load_method
from unmask.visualize import evaluating, first_of, picture_views, read_picture, shown_statistics

LABEL = 190  # pixels for what stands in front of a row
LEAST = 4  # squares along a side; coarser masks would say nothing


@dataclass(frozen=True)
class Row:
    """What one run makes of all pictures.

    Attributes:
        label: what to call the row.
        notes: what one must know of it, in a few words each.
        pictures: None if it predicts nothing that can be shown.
    """

    label: str
    notes: tuple[str, ...]
    pictures: list[Picture] | None


def comparison(
    entries: Sequence[Entry], paths: Sequence[Path], *, seed: int, mask_ratio: float | None
) -> Image.Image:
    """Originals, masked pictures, and a row for every run, on a transparent ground.

    Predictions are shown where patches are hidden; elsewhere each run's row shows what that run was given.

    Args:
        mask_ratio: share to hide; None is what the first run hides in training.

    Raises:
        UserError: a picture that cannot be read, a run without checkpoint, runs that no mask fits.
    """
    _require_one_shape(entries)
    for path in paths:
        read_picture(
            path, entries[0].recipe.data
        )  # one that cannot be read is named before weights are loaded
    methods = [load_method(entry.folder) for entry in entries]
    shares = [_share(method) for method in methods]
    mask = common_mask([method.encoder.grid for method in methods], len(paths), mask_ratio or shares[0], seed)
    side = ceil(MIN_SIDE / min(mask.grid))
    hidden = rearrange(mask.pixels(side).numpy(), "b 1 h w -> b h w")
    shown = [
        _row(entry, method, paths, mask, hidden, share)
        for entry, method, share in zip(entries, methods, shares, strict=True)
    ]
    finest = max(range(len(entries)), key=lambda index: entries[index].recipe.data.image_size)
    originals = shown[finest][1]
    ground = hidden_ground(hidden.shape[1:], side)
    masked = [np.where(where[..., None], ground, one) for where, one in zip(hidden, originals, strict=True)]
    rows = [Row("original", (), originals), Row("masked", (), masked), *(row for row, _ in shown)]
    return add_caption(_table(rows, hidden.shape[1:]), _caption(mask, mask_ratio is None, entries))


def common_mask(grids: Sequence[Grid], count: int, ratio: float, seed: int) -> Mask:
    """Masks on the finest grid of squares that consist of whole patches in every grid.

    Raises:
        UserError: there is none of four squares or more along each side.
    """
    rows, columns = gcd(*(grid[0] for grid in grids)), gcd(*(grid[1] for grid in grids))
    if min(rows, columns) < LEAST:
        found = ", ".join(f"{grid[0]} x {grid[1]}" for grid in dict.fromkeys(grids))
        raise UserError(
            f"no mask fits all of these runs: their patches lie in grids of {found}, which share only "
            f"{rows} x {columns} squares. Compare their pictures in groups, or leave --pictures out."
        )
    try:
        masking = RandomMask(ratio=ratio)
        masking.check((rows, columns))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return masking(count, (rows, columns))
    except ValueError as error:
        raise UserError(str(error)) from error


def finer(mask: Mask, grid: Grid) -> Mask:
    """The same mask on a grid whose sides are multiples of its own."""
    down, across = grid[0] // mask.grid[0], grid[1] // mask.grid[1]
    squares = rearrange(mask.hidden, "b (h w) -> b h w", h=mask.grid[0])
    hidden = repeat(squares, "b h w -> b (h p w q)", p=down, q=across)
    assert mask.count is not None
    return Mask.of(hidden, grid, mask.count * down * across)


def _share(method: Method) -> float:
    """What a method hides of an image in training."""
    with torch.random.fork_rng(devices=[]):
        blank = torch.zeros(1, method.encoder.channels, *method.encoder.image_size)
        return method.draw(blank).hidden.float().mean().item()


def _row(
    entry: Entry,
    method: Method,
    paths: Sequence[Path],
    mask: Mask,
    hidden: Bool[NDArray, "B H W"],
    share: float,
) -> tuple[Row, list[Picture]]:
    """What a run makes of the pictures, and the pictures as it gets them."""
    data = entry.recipe.data

    def read(size: tuple[int, int]) -> Tensor:
        return torch.stack([read_picture(path, data, size) for path in paths])

    mean, std = imagenet_statistics(data.channels, data.mean, data.std)
    views, own = picture_views(method, read, mean, std), finer(mask, method.encoder.grid)
    shown, size = shown_statistics(data, mean, std), (hidden.shape[2], hidden.shape[1])
    notes = [f"{entry.method}, {data.image_size[0]} px"]
    if abs(share - mask.hidden.float().mean().item()) > 0.05:
        notes.append(f"trained with {share:.0%} hidden")
    originals = as_pictures(denormalise(first_of(views), *shown))
    with torch.no_grad(), evaluating(method):
        prediction = method.reconstruct(first_of(views), own)
        pair = None if prediction is not None else method.predict_features(**views, mask=own)
    given = [_resized(one, size) for one in originals]
    pictures: list[Picture] | None = None
    if prediction is not None:
        where = rearrange(own.pixels(method.encoder.patch_size).numpy(), "b 1 h w -> b h w 1")
        predicted = as_pictures(denormalise(prediction, *shown))
        # Enlarged with the original around it, as in a run's own strips.
        filled = [_resized(np.where(*three), size) for three in zip(where, predicted, originals, strict=True)]
        pictures = [np.where(*three) for three in zip(hidden[..., None], filled, given, strict=True)]
    elif pair is not None:
        notes.append("features as colours")
        pictures = _coloured(*pair, own, hidden, given)
    return Row(entry.name, tuple(notes), pictures), given


def _coloured(
    predicted: Tensor, target: Tensor, mask: Mask, hidden: Bool[NDArray, "B H W"], given: Sequence[Picture]
) -> list[Picture]:
    """Predicted features as colours where patches are hidden, a pale picture elsewhere."""
    known = target.float().isfinite().all(-1)
    colours = principal_colours(predicted.float(), target.float()[known])
    squares = rearrange(colours, "b (h w) c -> b h w c", h=mask.grid[0])
    size = hidden.shape[2], hidden.shape[1]
    large = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.NEAREST)) for one in squares]
    three = zip(hidden[..., None], large, map(pale, given), strict=True)
    return [np.where(where, one, photo) for where, one, photo in three]


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _require_one_shape(entries: Sequence[Entry]) -> None:
    sizes = [entry.recipe.data.image_size for entry in entries]
    if len({height / width for height, width in sizes}) > 1:
        found = ", ".join(
            f"{entry.name} {size[0]} x {size[1]}" for entry, size in zip(entries, sizes, strict=True)
        )
        raise UserError(
            f"these runs look at images of different proportions ({found}), so no picture is the same for "
            "all. Compare those of one proportion, or leave --pictures out."
        )


def _table(rows: Sequence[Row], shape: tuple[int, ...]) -> Image.Image:
    """A row a run, with its label in front."""
    height, width = shape
    columns = max(len(row.pictures) for row in rows if row.pictures is not None)
    size = LABEL + columns * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP
    canvas = Image.new("RGBA", size, (255, 255, 255, 0))
    draw = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    for index, row in enumerate(rows):
        top = index * (height + GAP)
        place = top
        for font, texts in ((large, (row.label,)), (small, row.notes)):
            for line in (line for text in texts for line in wrapped(text, font, LABEL - 12)):
                draw.text((0, place), line, fill=TITLE, font=font)
                place += 20 if font is large else 16
        for column in range(columns):
            left = LABEL + column * (width + GAP)
            if row.pictures is not None:
                canvas.paste(Image.fromarray(np.ascontiguousarray(row.pictures[column])), (left, top))
                continue
            draw.rectangle((left, top, left + width - 1, top + height - 1), outline=HIDDEN)
            draw.text((left + 10, top + height // 2 - 8), "predicts no picture", fill=TITLE, font=small)
    return canvas


def _caption(mask: Mask, as_trained: bool, entries: Sequence[Entry]) -> str:
    rows, columns = mask.grid
    share = f", the share that {entries[0].name} is trained with" if as_trained else ""
    return (
        f"The same {mask.count} of {rows} x {columns} squares of each picture are hidden from all "
        f"runs{share}. Predictions are shown there; elsewhere stands what the run was given."
    )
