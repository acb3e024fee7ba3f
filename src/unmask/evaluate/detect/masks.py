"""Masks as files hold them: polygons, run lengths (RLE).

They are filled by COCO's own rules, by which average precision is defined; `unmask.data.outlines` does
without its package, for tasks that are not scored by it.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from unmask.data.outlines import read_runs
from unmask.errors import UserError

NEEDED = (
    "Detection needs the package faster-coco-eval: pip install 'unmask[detect]' (or pip install "
    "faster-coco-eval)."
)


def coco_masks() -> Any:
    """faster-coco-eval's reader and writer of masks.

    Raises:
        UserError: it is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise UserError(NEEDED) from error
    return mask


@dataclass(frozen=True)
class Outline:
    """A mask as its file holds it.

    Attributes:
        size: height and width of its picture.
        polygons: x, y, x, y, ... in pixels, several for an object in parts.
        counts: run lengths instead, column by column, first of what is outside; text is compressed.
    """

    size: tuple[int, int]
    polygons: tuple[tuple[float, ...], ...] = ()
    counts: tuple[int, ...] | str = ()

    def bitmap(self) -> Bool[NDArray, "H W"]:
        """True on the object; polygons are filled as COCO does."""
        masks = coco_masks()
        height, width = self.size
        if self.polygons:
            runs = masks.merge(masks.frPyObjects([list(one) for one in self.polygons], height, width))
        elif isinstance(self.counts, str):
            runs = {"size": [height, width], "counts": self.counts.encode()}
        else:
            runs = masks.frPyObjects({"size": [height, width], "counts": list(self.counts)}, height, width)
        return masks.decode(runs).astype(bool)

    def bounds(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom; None if there is nothing."""
        if self.polygons:
            points = np.concatenate([np.reshape(one, (-1, 2)) for one in self.polygons])
            (left, top), (right, bottom) = points.min(0), points.max(0)
            return float(left), float(top), float(right), float(bottom)
        return tight_box(self.bitmap())


def read_outline(value: Any, size: tuple[int, int], where: str) -> Outline | None:
    """An annotation's `segmentation`; None where there is none, or polygons of fewer than three points.

    Raises:
        UserError: neither polygons nor run lengths, or run lengths that are broken or for a picture of
            another size.
    """
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _run_lengths(value, size, where)
    if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
        raise UserError(f"{where}: segmentation must be a list of polygons or run lengths (RLE).")
    for one in value:
        if len(one) % 2 or not all(isinstance(number, int | float) and isfinite(number) for number in one):
            raise UserError(
                f"{where}: a polygon is a flat list of numbers x, y, x, y, ..., not {_short(one)} "
                f"({len(one)} values)."
            )
    polygons = tuple(tuple(map(float, one)) for one in value if len(one) >= 6)
    return Outline(size, polygons=polygons) if polygons else None


def _run_lengths(value: dict[str, Any], size: tuple[int, int], where: str) -> Outline:
    try:
        read_runs(value, size)
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from error
    counts = value["counts"]
    return Outline(size, counts=counts if isinstance(counts, str) else tuple(counts))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."


def tight_box(mask: Bool[NDArray, "H W"]) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of what is True: the edges of pixels; None if nothing is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def run_lengths(mask: Bool[NDArray, "H W"]) -> dict[str, Any]:
    """COCO's compressed run lengths, as text that goes into JSON."""
    runs = coco_masks().encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = runs["counts"]
    return {
        "size": list(map(int, runs["size"])),
        "counts": counts if isinstance(counts, str) else counts.decode(),
    }
