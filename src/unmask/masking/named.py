"""Masks by name, sized in pixels."""

from typing import Literal

from unmask.masking.mask import Grid
from unmask.masking.samplers import BlockMask, RandomMask, SquareMask

MaskName = Literal["random", "square", "block"]


def create_masking(
    name: MaskName, grid: Grid, patch_size: int, *, ratio: float, size: int, min_block: int | None = None
) -> RandomMask | SquareMask | BlockMask:
    """The generator of masks, checked to fit the grid.

    Args:
        name: squares at random places of a grid; one square at any place; or rectangles until enough is
            hidden.
        grid: rows and columns of patches.
        patch_size: pixels along the side of a patch.
        ratio: share to hide, of "random" rounded up; not used by "square".
        size: pixels along the side of a random square, of the one square, or of the units that rectangles
            consist of.
        min_block: units in the smallest rectangle; None is BEiT's share of the grid.

    Raises:
        ValueError: no such mask exists on this grid.
    """
    if size < 1 or size % patch_size:
        fitting = max(1, round(size / patch_size)) * patch_size
        raise ValueError(
            f"mask_size of {size} pixels is no multiple of the encoder's patches of {patch_size} pixels; use "
            f"for instance method.mask_size={fitting}"
        )
    unit = size // patch_size
    masking: RandomMask | SquareMask | BlockMask
    if name == "random":
        masking = RandomMask(ratio=ratio, unit=unit, rounding="up")
    elif name == "square":
        masking = SquareMask(side=unit)
    else:
        masking = BlockMask(ratio=ratio, unit=unit, min_block=min_block)
    masking.check(grid)
    return masking
