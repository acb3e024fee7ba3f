"""What a HiViT consists of: channel MLPs, attention with relative positions, the merging of patches."""

from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from timm.layers import DropPath, Mlp, use_fused_attn
from torch import Tensor, nn

from unmask.masking import Grid

NORM = partial(nn.LayerNorm, eps=1e-6)


def relative_positions(grid: Grid) -> Int[Tensor, "N N"]:
    """Row of a table of (2 rows - 1) (2 columns - 1) offsets for every pair (query, key) of a grid."""
    row, column = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    row, column = row.flatten(), column.flatten()
    down = row[:, None] - row + grid[0] - 1
    right = column[:, None] - column + grid[1] - 1
    return down * (2 * grid[1] - 1) + right


def resized_table(table: Float[Tensor, "R heads"], grid: Grid, new_grid: Grid) -> Float[Tensor, "R2 heads"]:
    """A table of relative position biases for another grid, its offsets interpolated."""
    rows, columns = (2 * side - 1 for side in grid)
    size = [2 * side - 1 for side in new_grid]
    places = rearrange(table, "(h w) heads -> 1 heads h w", h=rows, w=columns)
    return rearrange(F.interpolate(places, size, mode="bicubic"), "1 heads h w -> (h w) heads")


class ChannelMLP(nn.Module):
    """Residual MLP over the channels of every position, pre-norm: a block without attention.

    Args:
        dim: width.
        ratio: width of the hidden layer, as a multiple of `dim`.
        layer_scale: initial value of the learned factor on the residual; None for no factor.
        inner_norm: normalise the hidden layer (Fast-iTPN).
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: float,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        inner_norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * ratio), norm_layer=NORM if inner_norm else None)
        self.gamma_2 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        change = self.mlp(self.norm2(x))
        return x + self.drop_path(change if self.gamma_2 is None else self.gamma_2 * change)


class Attention(nn.Module):
    """Attention with an optional table of relative position biases, one value an offset and head.

    As in timm's blocks, `fused_attn` chooses the kernel, and without it `attn_drop` is handed the weights.

    Args:
        offsets: rows of the table; None for no bias.
    """

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool = True, offsets: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.fused_attn = use_fused_attn()
        self.attn_drop = nn.Identity()
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = (
            None if offsets is None else nn.Parameter(torch.zeros(offsets, heads))
        )

    def forward(self, x: Float[Tensor, "B N D"], positions: Int[Tensor, "*B N N"]) -> Float[Tensor, "B N D"]:
        query, key, value = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        bias = None
        if self.relative_position_bias_table is not None:
            table = self.relative_position_bias_table.to(query.dtype)
            bias = rearrange(table[positions], "... q k h -> ... h q k")
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:
            scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
            mixed = self.attn_drop((scores if bias is None else scores + bias).softmax(-1)) @ value
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))


class Block(ChannelMLP):
    """Attention, then the channel MLP."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        ratio: float,
        qkv_bias: bool = True,
        offsets: int | None = None,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(dim, ratio=ratio, layer_scale=layer_scale, drop_path=drop_path)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads=heads, qkv_bias=qkv_bias, offsets=offsets)
        self.gamma_1 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Float[Tensor, "B N D"], positions: Int[Tensor, "*B N N"]) -> Float[Tensor, "B N D"]:
        change = self.attn(self.norm1(x), positions)
        x = x + self.drop_path(change if self.gamma_1 is None else self.gamma_1 * change)
        return super().forward(x)


class PatchMerge(nn.Module):
    """Two by two positions of a unit become one of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=1e-6)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "B N h w C"]) -> Float[Tensor, "B N h2 w2 C2"]:
        # The official order of the four: down first, then right.
        x = rearrange(x, "b n (h p) (w q) c -> b n h w (q p c)", p=2, q=2)
        return self.reduction(self.norm(x))
