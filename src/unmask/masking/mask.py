"""What is hidden and what is visible."""

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

    def coarser(self, side: int) -> "Mask":
        """The mask of squares of `side` x `side` patches that are hidden or visible as a whole: the first
        patch of a square decides.
        """
        if side == 1:
            return self
        layout = "b (h p w q) -> b (h w) (p q)"
        grid = self.grid[0] // side, self.grid[1] // side
        hidden = rearrange(self.hidden, layout, h=grid[0], p=side, w=grid[1])[..., 0]
        return (
            Mask.ragged(hidden, grid) if self.count is None else Mask.of(hidden, grid, self.count // side**2)
        )

    def pixels(self, patch_size: int) -> Bool[Tensor, "B 1 H W"]:
        """The mask of every pixel, for pictures."""
        cells = rearrange(self.hidden, "b (h w) -> b 1 h w", h=self.grid[0])
        return repeat(cells, "b c h w -> b c (h p) (w q)", p=patch_size, q=patch_size)


def _take(patches: Tensor, index: Tensor) -> Tensor:
    trailing = patches.shape[2:]
    return patches.gather(1, index.reshape(*index.shape, *[1] * len(trailing)).expand(-1, -1, *trailing))
