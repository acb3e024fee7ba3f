"""Which patches are hidden, and how to draw them.

Shapes in this package: B batch, N patches, V visible, M hidden ("masked"), D width, C channels,
H W pixels, h w grid.

A `Mask` hides the same number of patches in every row, `count`, a Python int: the shapes that follow from it
are static, so a method traces as one graph. Samplers are small frozen dataclasses, called as `sampler(batch,
grid, device)`; they draw from the device's default generator, which the engine seeds for every step.
"""

import math
import random
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True)
class Mask:
    """Hidden patches of a batch of images; True means hidden.

    Build one with `Mask.of` (the usual case) or `Mask.ragged` (unequal counts, BEiT v1's official generator
    only).

    Attributes:
        hidden: [B, N], in raster order of `grid`.
        grid: rows and columns of patches, N = rows * columns.
        count: hidden patches in every row; None if rows differ.
        order: [B, N], indices of the visible patches, then those of the hidden ones, each in raster order;
            None if ragged.
    """

    hidden: Bool[Tensor, "B N"]
    grid: Grid
    count: int | None
    order: Int[Tensor, "B N"] | None

    @classmethod
    def of(cls, hidden: Bool[Tensor, "B N"], grid: Grid, count: int) -> "Mask":
        """A mask that hides exactly `count` patches in every row (the caller's promise: checking it would
        wait for the device).
        """
        return cls(hidden, grid, count, hidden.long().argsort(dim=1, stable=True))

    @classmethod
    def ragged(cls, hidden: Bool[Tensor, "B N"], grid: Grid) -> "Mask":
        """A mask whose rows may hide different numbers of patches: it can `replace`, `mean` and `masked`
        (flat).
        """
        return cls(hidden, grid, None, None)

    @classmethod
    def from_scores(cls, scores: Float[Tensor, "B N"], grid: Grid, count: int) -> "Mask":
        """Hide the `count` patches with the largest score in every row."""
        index = scores.topk(count, dim=1).indices
        hidden = torch.zeros_like(scores, dtype=torch.bool).scatter(1, index, True)
        return cls.of(hidden, grid, count)

    def _split(self) -> tuple[Tensor, Tensor]:
        if self.order is None or self.count is None:
            raise ValueError(
                "this needs the same number of hidden patches in every row, but the mask is ragged (BEiT's "
                "official generator). Use BlockMask(official=False), which hides an exact number."
            )
        visible = self.hidden.shape[1] - self.count
        return self.order[:, :visible], self.order[:, visible:]

    @property
    def visible_index(self) -> Int[Tensor, "B V"]:
        """Indices of the visible patches, in raster order."""
        return self._split()[0]

    @property
    def hidden_index(self) -> Int[Tensor, "B M"]:
        """Indices of the hidden patches, in raster order."""
        return self._split()[1]

    def visible(self, patches: Shaped[Tensor, "B N *D"]) -> Shaped[Tensor, "B V *D"]:
        """The visible patches, in raster order."""
        return _take(patches, self.visible_index)

    def masked(self, patches: Shaped[Tensor, "B N *D"]) -> Shaped[Tensor, "..."]:
        """The hidden patches [B, M, *D], in raster order; of a ragged mask all in one row [sum of counts,
        *D].
        """
        if self.count is None:
            return patches[self.hidden]
        return _take(patches, self.hidden_index)

    def replace(
        self, patches: Float[Tensor, "B N D"], token: Float[Tensor, "1 1 D"]
    ) -> Float[Tensor, "B N D"]:
        """Patches with the hidden ones replaced by `token`."""
        return torch.where(self.hidden.unsqueeze(-1), token.to(patches.dtype), patches)

    def restore(
        self, visible: Float[Tensor, "B V D"], fill: Float[Tensor, "b m D"]
    ) -> Float[Tensor, "B N D"]:
        """Visible patches back at their places, `fill` at the hidden ones: one token [1, 1, D] or a value
        each [B, M, D].
        """
        fill = fill.to(visible.dtype).expand(*self.hidden_index.shape, visible.shape[-1])
        place = torch.cat([self.visible_index, self.hidden_index], dim=1).argsort(dim=1)
        return _take(torch.cat([visible, fill], dim=1), place)

    def mean(self, per_patch: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
        """Mean over all hidden patches of the batch."""
        return self.masked(per_patch).mean()

    def rows(self, first: int, last: int) -> "Mask":
        """The masks of images `first` to `last` - 1 of the batch."""
        order = None if self.order is None else self.order[first:last]
        return Mask(self.hidden[first:last], self.grid, self.count, order)

    def inverse(self) -> "Mask":
        """The mask that hides what this one shows."""
        if self.count is None:
            return Mask.ragged(~self.hidden, self.grid)
        return Mask.of(~self.hidden, self.grid, self.hidden.shape[1] - self.count)

    def pixels(self, patch_size: int) -> Bool[Tensor, "B 1 H W"]:
        """The mask of every pixel, for pictures."""
        cells = rearrange(self.hidden, "b (h w) -> b 1 h w", h=self.grid[0])
        return repeat(cells, "b c h w -> b c (h p) (w q)", p=patch_size, q=patch_size)


def _take(patches: Tensor, index: Tensor) -> Tensor:
    trailing = patches.shape[2:]
    return patches.gather(1, index.reshape(*index.shape, *[1] * len(trailing)).expand(-1, -1, *trailing))


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
        rows, columns = self._units(grid)
        return self.from_noise(torch.rand(batch, rows * columns, device=device), grid)

    def check(self, grid: Grid) -> None:
        """Raise ValueError now, not at the first batch, if no such mask exists on `grid`."""
        rows, columns = self._units(grid)
        hidden_count(rows * columns, self.ratio, self.rounding)

    def from_noise(self, noise: Float[Tensor, "B n"], grid: Grid) -> Mask:
        """The mask that follows from one number a unit: the largest are hidden (MAE's rule)."""
        rows, columns = self._units(grid)
        count = hidden_count(rows * columns, self.ratio, self.rounding)
        units = Mask.from_scores(noise, (rows, columns), count)
        if self.unit == 1:
            return units
        hidden = rearrange(units.pixels(self.unit), "b 1 h w -> b (h w)")
        return Mask.of(hidden, grid, count * self.unit**2)

    def _units(self, grid: Grid) -> Grid:
        if grid[0] % self.unit or grid[1] % self.unit:
            raise ValueError(
                f"masking units of {self.unit} x {self.unit} patches do not tile a grid of {grid[0]} x "
                f"{grid[1]} patches. Choose an image size that the unit divides, or another unit "
                "(method.mask_size)."
            )
        return grid[0] // self.unit, grid[1] // self.unit


@dataclass(frozen=True, kw_only=True)
class SquareMask:
    """One solid square of `side` x `side` patches at a uniformly random place (SimMIM's "central region"
    ablation).
    """

    side: int

    def __call__(self, batch: int, grid: Grid, device: torch.device | str = "cpu") -> Mask:
        if not 0 < self.side <= min(grid) or self.side**2 == grid[0] * grid[1]:
            raise ValueError(
                f"a square of {self.side} patches does not fit a grid of {grid[0]} x {grid[1]} with a patch "
                "to spare"
            )
        top = torch.randint(grid[0] - self.side + 1, (batch, 1), device=device)
        left = torch.randint(grid[1] - self.side + 1, (batch, 1), device=device)
        hidden = _rectangle(grid, top, left, top + self.side, left + self.side)
        return Mask.of(hidden, grid, self.side**2)


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

    Attributes:
        count: patches to hide; or `ratio`, the share of them.
        min_block: smallest rectangle in patches (BEiT's command line: 16 on its 14 x 14 grid).
        max_block: largest rectangle in patches; None is no limit but the count.
    """

    count: int | None = None
    ratio: float | None = None
    min_block: int = 16
    max_block: int | None = None
    aspect: float = 0.3
    official: bool = False

    # Rectangles that may fail in a row, in all official generators.
    ATTEMPTS = 10
    # Draws of the batched version; fewer than 1 in 1000 masks would still draw rectangles after them.
    ROUNDS = 96

    def __post_init__(self) -> None:
        if (self.count is None) == (self.ratio is None):
            raise ValueError("BlockMask needs either count (patches to hide) or ratio (share to hide)")
        if self.min_block < 1 or not 0 < self.aspect <= 1:
            raise ValueError(
                f"BlockMask needs min_block >= 1 and aspect in (0, 1], not {self.min_block} and {self.aspect}"
            )

    def __call__(self, batch: int, grid: Grid, device: torch.device | str = "cpu") -> Mask:
        count = self._count(grid)
        if self.official:
            generator = random.Random(int(torch.randint(2**62, ()).item()))
            rows = [self.draw_official(generator, grid) for _ in range(batch)]
            return Mask.ragged(torch.stack(rows).flatten(1).to(device), grid)
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
                f"cannot hide {self.count} of {total} patches: between 1 and {total - 1} is possible"
            )
        return self.count

    def _rectangles(self, hidden: Tensor, grid: Grid, count: int) -> tuple[Tensor, Tensor]:
        """One rectangle an image (empty if it would span the grid) and the patches that it may add [B, 1]."""
        height, width = grid
        uniform = torch.rand(len(hidden), 4, device=hidden.device).split(1, dim=1)
        room = (count - hidden.sum(1, keepdim=True)).clamp(max=self.max_block or count)
        # With less room than the smallest block the interval is reversed, as in the original.
        area = self.min_block + (room - self.min_block) * uniform[0]
        log_aspect = math.log(self.aspect) * (1 - 2 * uniform[1])
        tall = (area * log_aspect.exp()).sqrt().round().long()
        wide = (area / log_aspect.exp()).sqrt().round().long()
        inside = (tall < height) & (wide < width)
        top = (uniform[2] * (height - tall + 1)).long()
        left = (uniform[3] * (width - wide + 1)).long()
        bottom = torch.where(inside, top + tall, top)
        return _rectangle(grid, top, left, bottom, left + wide), room

    def draw_official(self, generator: random.Random, grid: Grid) -> Bool[Tensor, "h w"]:
        """One mask by BEiT v1's procedure, call by call the same random numbers.

        It may hide fewer patches than `count`.
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
        """Hide one more rectangle in place; returns the patches that it added, 0 after ten failures."""
        height, width = hidden.shape
        for _ in range(self.ATTEMPTS):
            area = generator.uniform(self.min_block, room)
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
