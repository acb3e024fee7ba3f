"""Which patches are hidden, and how to draw them.

Shapes in this package: B batch, N patches, V visible, M hidden ("masked"), D width, C channels,
H W pixels, h w grid.

A `Mask` hides the same number of patches in every row, `count`, a Python int: the shapes that follow from it
are static, so a method traces as one graph. Samplers are small frozen dataclasses, called as `sampler(batch,
grid, device)`; they draw from the device's default generator, which the engine seeds for every step.
"""

from unmask.masking.distance import average_distance
from unmask.masking.importance import ImportanceMask, WeighableMask
from unmask.masking.mask import Grid, Mask
from unmask.masking.named import MaskName, create_masking
from unmask.masking.samplers import BlockMask, RandomMask, SquareMask, hidden_count

__all__ = [
    "BlockMask",
    "Grid",
    "ImportanceMask",
    "Mask",
    "MaskName",
    "RandomMask",
    "SquareMask",
    "WeighableMask",
    "average_distance",
    "create_masking",
    "hidden_count",
]
