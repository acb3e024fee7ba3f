"""Objects as COCO's files describe them, polygons or run lengths, made into masks.

Microsoft COCO: Common Objects in Context. Tsung-Yi Lin et al. ECCV 2014, arXiv 1405.0312. A pixel in column c
covers the places from c to c + 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from einops import reduce
from jaxtyping import Bool
from PIL import Image, ImageDraw

FINER = 4  # places along the side of a pixel at which a polygon is asked whether it covers them
LARGEST = 4096  # of them along the side of an object, above which they are made coarser

Mask = Bool[np.ndarray, "height width"]


def object_mask(segmentation: Any, size: tuple[int, int]) -> Mask:
    """What an annotation's "segmentation" covers.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...] in pixels; or run lengths, {"counts", "size"}, as a
            list of numbers or as COCO's text.
        size: height and width of the picture.

    Raises:
        ValueError: it is neither, or for a picture of another size.
    """
    if isinstance(segmentation, Mapping):
        return _from_runs(segmentation, size)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise ValueError(f"a {type(segmentation).__name__} is neither a list of polygons nor run lengths")
    mask = np.zeros(size, dtype=bool)
    for polygon in segmentation:
        _add_polygon(mask, polygon)
    return mask


def _add_polygon(mask: Mask, polygon: Any) -> None:
    """Add the pixels of which a polygon covers at least half."""
    try:
        corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ValueError("a polygon must be a flat list of numbers x, y, x, y, ...") from error
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError(f"a polygon needs three corners or more, all finite; this one has {len(corners)}")
    limits = np.array(mask.shape[::-1])
    first = np.clip(np.floor(corners.min(0)), 0, limits).astype(int)
    last = np.clip(np.ceil(corners.max(0)), 0, limits).astype(int)
    width, height = (int(side) for side in last - first)
    if width < 1 or height < 1:
        return
    finer = max(1, min(FINER, LARGEST // max(width, height)))
    drawing = Image.new("L", (width * finer, height * finer))
    places = (corners - first) * finer - 0.5  # Pillow's numbers are those of the middle of a place
    ImageDraw.Draw(drawing).polygon([(x, y) for x, y in places], fill=1)
    covered = reduce(np.asarray(drawing, dtype=np.float32), "(h p) (w q) -> h w", "mean", p=finer, q=finer)
    mask[first[1] : last[1], first[0] : last[0]] |= covered >= 0.5


def _from_runs(runs: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """Runs of pixels outside and inside in turn, down the columns one after the other."""
    lengths = read_runs(runs, size)
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return inside.reshape(size, order="F")


def read_runs(runs: Mapping[str, Any], size: tuple[int, int]) -> list[int]:
    """The run lengths of a mask, as they are listed or as COCO's text tells them.

    Args:
        size: height and width of the picture.

    Raises:
        ValueError: they are none, broken, or for a picture of another size.
    """
    said, counts = runs.get("size"), runs.get("counts")
    if not isinstance(said, Sequence) or len(said) != 2 or not isinstance(counts, Sequence):
        raise ValueError("run lengths are an object with size (height, width) and counts")
    height, width = size
    if tuple(said) != (height, width):
        raise ValueError(
            f"its mask is for a picture of {said[1]} x {said[0]} pixels, but this one has {width} x {height}"
        )
    try:
        lengths = _unpacked(counts) if isinstance(counts, str | bytes) else list(counts)
    except ValueError as error:
        raise ValueError(f"the run lengths of its mask cannot be read ({error})") from error
    if not all(isinstance(one, int) and one >= 0 for one in lengths):
        raise ValueError(f"the run lengths of its mask are not numbers of pixels: {lengths!s:.40}")
    if sum(lengths) != height * width:
        raise ValueError(
            f"the run lengths of its mask cover {sum(lengths):,} pixels, but the picture has "
            f"{height * width:,}"
        )
    return lengths


def _unpacked(text: str | bytes) -> list[int]:
    """Run lengths from COCO's text: groups of five bits, lowest first, of the difference to the run before
    the last.

    Raises:
        ValueError: the text is none, or not all of it. Lengths may be negative or not add up even so.
    """
    symbols = text.encode() if isinstance(text, str) else text
    lengths: list[int] = []
    value, shift = 0, 0
    for symbol in symbols:
        bits = symbol - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the symbol {chr(symbol)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the last number is not complete")
    return lengths
