"""How masks are drawn: random units, one square, rectangles."""

import math
import random
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.masking.mask import Grid, Mask


def hidden_count(total: int, ratio: float, rounding: str = "nearest") -> int:
    """Number of patches (or units) to hide out of `total`.

    Args:
        total: patches, or units of patches, in an image.
        ratio: share to hide, strictly between 0 and 1.
        rounding: "nearest"; "up", SimMIM's rule; "mae_official" keeps `int(total * (1 - ratio))`, in floating
            point, so that 90 % of 100 patches hides 91.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio {ratio} must lie strictly between 0 and 1, for instance 0.6")
    if rounding == "mae_official":
        count = total - int(total * (1 - ratio))
    else:
        # Nine decimals: 0.6 * 5 is 3.0000000000000004 - 1e-15 and the like must not be rounded up to the next
        # unit.
        exact = round(total * ratio, 9)
        count = math.ceil(exact) if rounding == "up" else math.floor(exact + 0.5)
    if not 0 < count < total:
        raise ValueError(
            f"mask ratio {ratio} of {total} units hides {count}: at least one must be hidden and one left "
            "visible. Use larger images, smaller units, or another ratio."
        )
    return count


@dataclass(frozen=True, kw_only=True)
class RandomMask:
    """Units of `unit` x `unit` patches, hidden uniformly at random, the same number in every image.

    MAE hides single patches (unit 1); SimMIM hides 32-pixel squares: unit 2 with a patch of 16 pixels, 8 with
    one of 4.
    """

    ratio: float
    unit: int = 1
    rounding: str = "nearest"

    def __call__(self, batch: int, grid: Grid, device: torch.device | str = "cpu") -> Mask:
        rows, columns = _units(grid, self.unit)
        return self.from_noise(torch.rand(batch, rows * columns, device=device), grid)

    def check(self, grid: Grid) -> None:
        """Raise ValueError now, not at the first batch, if no such mask exists on `grid`."""
        rows, columns = _units(grid, self.unit)
        hidden_count(rows * columns, self.ratio, self.rounding)

    def from_noise(self, noise: Float[Tensor, "B n"], grid: Grid) -> Mask:
        """The mask that follows from one number a unit: the largest are hidden (MAE's rule)."""
        rows, columns = _units(grid, self.unit)
        count = hidden_count(rows * columns, self.ratio, self.rounding)
        return _in_patches(Mask.from_scores(noise, (rows, columns), count), self.unit)


def _units(grid: Grid, unit: int) -> Grid:
    """Rows and columns of the masking units that tile a grid of patches."""
    if unit < 1 or grid[0] % unit or grid[1] % unit:
        raise ValueError(
            f"masking units of {unit} x {unit} patches do not tile a grid of {grid[0]} x {grid[1]} patches. "
            "Choose an image size that the unit divides, or another unit (method.mask_size)."
        )
    return grid[0] // unit, grid[1] // unit


def _in_patches(units: Mask, unit: int) -> Mask:
    """A mask drawn on units, on the patches that they consist of."""
    if unit == 1:
        return units
    hidden = rearrange(units.pixels(unit), "b 1 h w -> b (h w)")
    grid = units.grid[0] * unit, units.grid[1] * unit
    return Mask.ragged(hidden, grid) if units.count is None else Mask.of(hidden, grid, units.count * unit**2)


@dataclass(frozen=True, kw_only=True)
class SquareMask:
    """One solid square of `side` x `side` patches at a uniformly random place (SimMIM's "central region"
    ablation).
    """

    side: int

    def __call__(self, batch: int, grid: Grid, device: torch.device | str = "cpu") -> Mask:
        self.check(grid)
        top = torch.randint(grid[0] - self.side + 1, (batch, 1), device=device)
        left = torch.randint(grid[1] - self.side + 1, (batch, 1), device=device)
        hidden = _rectangle(grid, top, left, top + self.side, left + self.side)
        return Mask.of(hidden, grid, self.side**2)

    def check(self, grid: Grid) -> None:
        """Raise ValueError now, not at the first batch, if no such mask exists on `grid`."""
        if not 0 < self.side <= min(grid) or self.side**2 == grid[0] * grid[1]:
            raise ValueError(
                f"a square of {self.side} patches does not fit a grid of {grid[0]} x {grid[1]} with a patch "
                "to spare"
            )


def _rectangle(grid: Grid, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Bool[Tensor, "B N"]:
    """Rectangles given by their edges [B, 1], as hidden patches; bottom and right are exclusive."""
    row = torch.arange(grid[0], device=top.device)
    column = torch.arange(grid[1], device=top.device)
    rows = (row >= top) & (row < bottom)
    columns = (column >= left) & (column < right)
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


@dataclass(frozen=True, kw_only=True)
class BlockMask:
    """Rectangles of random size, shape and place until enough is hidden (BEiT, Bao et al. 2022, Algorithm 1).

    Both generators draw rectangles alike: area uniform between `min_block` and the patches still to hide,
    aspect ratio log-uniform in [aspect, 1 / aspect], never the full width or height, and give up after ten
    rectangles in a row that do not fit. The default then tops up with single random patches, so that the
    count is exact (as BEiT v2 does); it draws the whole batch at once on the device. `official=True` is BEiT
    v1: no top-up, so counts differ between images (mean 74.5 of 75) and the mask is ragged; drawn in Python,
    one image after the other.

    Everything is counted in units of `unit` x `unit` patches: single patches in BEiT, squares of 16 or 32
    pixels in SimMIM's ablation (table 1 there).

    Attributes:
        count: units to hide; or `ratio`, the share of them.
        min_block: smallest rectangle; None is the share of the grid that BEiT's command line sets, 16 of its
            14 x 14.
        max_block: largest rectangle; None is no limit but the count.
    """

    count: int | None = None
    ratio: float | None = None
    min_block: int | None = None
    max_block: int | None = None
    aspect: float = 0.3
    official: bool = False
    unit: int = 1

    # Rectangles that may fail in a row, in all official generators.
    ATTEMPTS = 10
    # Draws of the batched version; fewer than 1 in 1000 masks would still draw rectangles after them.
    ROUNDS = 96

    def __post_init__(self) -> None:
        if (self.count is None) == (self.ratio is None):
            raise ValueError("BlockMask needs either count (units to hide) or ratio (share to hide)")
        if (self.min_block is not None and self.min_block < 1) or not 0 < self.aspect <= 1:
            raise ValueError(
                f"BlockMask needs min_block >= 1 and aspect in (0, 1], not {self.min_block} and {self.aspect}"
            )

    def __call__(self, batch: int, grid: Grid, device: torch.device | str = "cpu") -> Mask:
        units = _units(grid, self.unit)
        if self.official:
            generator = random.Random(int(torch.randint(2**62, ()).item()))
            rows = [self.draw_official(generator, units) for _ in range(batch)]
            return _in_patches(Mask.ragged(torch.stack(rows).flatten(1).to(device), units), self.unit)
        return _in_patches(self._draw(batch, units, device), self.unit)

    def check(self, grid: Grid) -> None:
        """Raise ValueError now, not at the first batch, if no such mask exists on `grid`."""
        self._count(_units(grid, self.unit))

    def _draw(self, batch: int, grid: Grid, device: torch.device | str) -> Mask:
        """Masks of exactly `count` units, on a grid of units."""
        count = self._count(grid)
        hidden = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool, device=device)
        failures = torch.zeros(batch, 1, dtype=torch.long, device=device)
        for _ in range(self.ROUNDS):
            block, room = self._rectangles(hidden, grid, count)
            added = (block & ~hidden).sum(1, keepdim=True)
            fits = block.any(1, keepdim=True) & (added > 0) & (added <= room) & (failures < self.ATTEMPTS)
            hidden = hidden | (block & fits)
            failures = torch.where(fits, 0, failures + 1)
        top_up = torch.rand(
            hidden.shape, device=device
        )  # in [0, 1): below every patch that is already hidden
        return Mask.from_scores(top_up + hidden, grid, count)

    def _count(self, grid: Grid) -> int:
        total = grid[0] * grid[1]
        if self.ratio is not None:
            return hidden_count(total, self.ratio)
        assert self.count is not None
        if not 0 < self.count < total:
            raise ValueError(
                f"cannot hide {self.count} of {total} units: between 1 and {total - 1} is possible"
            )
        return self.count

    def _smallest(self, grid: Grid) -> int:
        return self.min_block or max(1, round(16 / 196 * grid[0] * grid[1]))

    def _rectangles(self, hidden: Tensor, grid: Grid, count: int) -> tuple[Tensor, Tensor]:
        """One rectangle an image (empty if it would span the grid) and the units that it may add [B, 1]."""
        height, width = grid
        uniform = torch.rand(len(hidden), 4, device=hidden.device).split(1, dim=1)
        room = (count - hidden.sum(1, keepdim=True)).clamp(max=self.max_block or count)
        # With less room than the smallest block the interval is reversed, as in the original.
        smallest = self._smallest(grid)
        area = smallest + (room - smallest) * uniform[0]
        log_aspect = math.log(self.aspect) * (1 - 2 * uniform[1])
        tall = (area * log_aspect.exp()).sqrt().round().long()
        wide = (area / log_aspect.exp()).sqrt().round().long()
        inside = (tall < height) & (wide < width)
        top = (uniform[2] * (height - tall + 1)).long()
        left = (uniform[3] * (width - wide + 1)).long()
        bottom = torch.where(inside, top + tall, top)
        return _rectangle(grid, top, left, bottom, left + wide), room

    def draw_official(self, generator: random.Random, grid: Grid) -> Bool[Tensor, "h w"]:
        """One mask on a grid of units by BEiT v1's procedure, call by call the same random numbers.

        It may hide fewer units than `count`.
        """
        hidden = torch.zeros(grid, dtype=torch.bool)
        count, done = self._count(grid), 0
        while done < count:
            room = min(count - done, self.max_block or count)
            added = self._official_rectangle(generator, hidden, room)
            if added == 0:
                break
            done += added
        return hidden

    def _official_rectangle(self, generator: random.Random, hidden: Tensor, room: int) -> int:
        """Hide one more rectangle in place; returns the units that it added, 0 after ten failures."""
        height, width = hidden.shape
        smallest = self._smallest((height, width))
        for _ in range(self.ATTEMPTS):
            area = generator.uniform(smallest, room)
            aspect = math.exp(generator.uniform(math.log(self.aspect), math.log(1 / self.aspect)))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if wide >= width or tall >= height:
                continue
            top, left = generator.randint(0, height - tall), generator.randint(0, width - wide)
            block = hidden[top : top + tall, left : left + wide]
            added = block.numel() - int(block.sum())
            if 0 < added <= room:
                block.fill_(True)
                return added
        return 0
