"""Masks that leave visible what matters, as a teacher says (MILAN's semantic-aware sampling)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.masking.mask import Grid, Mask
from unmask.masking.samplers import hidden_count

# Of an importance: attention that half precision has rounded to 0 has a logarithm all the same.
LEAST = 1e-12


@dataclass(frozen=True)
class WeighableMask(Mask):
    """A mask drawn with even chances that keeps the random numbers behind it, so that a method can give the
    patches other chances later, when its teacher has seen the images.

    The largest sums of log chance and Gumbel noise are a draw without replacement (Gumbel top-k): as if
    visible patches were taken one after the other, each with a probability in proportion to its chance among
    those that are left (Plackett-Luce).

    Attributes:
        noise: [B, N], from the standard Gumbel distribution; the largest are visible.
    """

    noise: Float[Tensor, "B N"]

    @classmethod
    def from_noise(cls, noise: Float[Tensor, "B N"], grid: Grid, count: int) -> "WeighableMask":
        """The mask that follows from the noise alone."""
        even = Mask.from_scores(-noise, grid, count)
        return cls(even.hidden, grid, count, even.order, noise)

    def rows(self, first: int, last: int) -> "WeighableMask":
        part = super().rows(first, last)
        return WeighableMask(part.hidden, part.grid, part.count, part.order, self.noise[first:last])

    def weighed(self, importance: Float[Tensor, "B N"]) -> Mask:
        """The mask that follows from the same noise where patches have unequal chances to stay visible.

        Args:
            importance: chances, in any unit, not negative. Even ones give this mask.
        """
        assert self.count is not None, "it was drawn with an exact count"
        return Mask.from_scores(
            -(importance.float().clamp(min=LEAST).log() + self.noise), self.grid, self.count
        )


@dataclass(frozen=True, kw_only=True)
class ImportanceMask:
    """Patches that stay visible with unequal chances, of which `WeighableMask.weighed` is told; the same
    number in every image (MILAN).

    Attributes:
        ratio: share of patches to hide.
        rounding: how many patches a ratio is: see `hidden_count`.
    """

    ratio: float
    rounding: str = "nearest"

    def __call__(self, batch: int, grid: Grid, device: torch.device | str = "cpu") -> WeighableMask:
        uniform = torch.rand(batch, grid[0] * grid[1], device=device)
        return WeighableMask.from_noise(-(-uniform.log()).log(), grid, self._count(grid))

    def check(self, grid: Grid) -> None:
        """Raise ValueError now, not at the first batch, if no such mask exists on `grid`."""
        self._count(grid)

    def _count(self, grid: Grid) -> int:
        return hidden_count(grid[0] * grid[1], self.ratio, self.rounding)
