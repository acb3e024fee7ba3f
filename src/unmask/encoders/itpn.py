"""iTPN's feature pyramid: three maps of one width, made of units that do not see each other.

Integrally Pre-Trained Transformer Pyramid Networks. Yunjie Tian, Lingxi Xie, Zhaozhi Wang, Longhui Wei,
Xiaopeng Zhang, Jianbin Jiao, Yaowei Wang, Qi Tian, Qixiang Ye. CVPR 2023, arXiv 2211.12735.

The neck of a detector, pre-trained together with its backbone (a HiViT): from the coarsest scale down, each
level is split two by two, joined by the backbone's own scale, and worked on by channel MLPs. Since no
operation crosses the border of a unit, hidden units stay left out and nothing of them leaks.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unmask.encoders.hivit_blocks import ChannelMLP
from unmask.encoders.units import SCALES, as_map, as_units
from unmask.masking import Mask

PyramidBlock = Literal["mlp", "convolution"]


class PatchSplit(nn.Module):
    """Every position of a unit becomes two by two."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduction = nn.Linear(dim, 4 * width, bias=False)

    def forward(self, x: Float[Tensor, "B V u C"]) -> Float[Tensor, "B V v D"]:
        side = round(x.shape[2] ** 0.5)
        return rearrange(
            self.reduction(self.norm(x)), "b n (h w) (p q c) -> b n (h p w q) c", h=side, p=2, q=2
        )


class MapConvolution(nn.Module):
    """Residual 3 x 3 convolution, pre-norm, over the map of all units, in which hidden ones are zero: units
    see their neighbours, and where others are missing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.convolution = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Float[Tensor, "B V u D"], mask: Mask) -> Float[Tensor, "B V u D"]:
        side = round(x.shape[2] ** 0.5)
        nothing = x.new_zeros(1, 1, x.shape[2] * x.shape[3])
        every = mask.restore(self.norm(x).flatten(2), nothing)
        units = rearrange(every, "b n (h w d) -> b n h w d", h=side, w=side)
        worked = as_units(self.convolution(as_map(units, mask.grid)), mask.grid)
        return x + mask.visible(worked).flatten(2, 3)


class Pyramid(nn.Module):
    """From the three scales of a HiViT to three levels of one width.

    Args:
        dim: width of the backbone's coarsest scale; the others have a half and a quarter of it.
        width: of the pyramid, 256 in the official code.
        depth: blocks of the two finer levels, 2 in pixel pre-training and segmentation, 1 with CLIP as a
            teacher and in detection (official code).
        block: what works on the levels: "mlp", channel MLPs; "convolution" for comparison, which lets units
            see each other before the decoder does.

    Attributes:
        architecture: what rebuilds it, `Pyramid(**architecture)`; plain data.
    """

    def __init__(self, dim: int, *, width: int = 256, depth: int = 2, block: PyramidBlock = "mlp") -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {"dim": dim, "width": width, "depth": depth, "block": block}
        new = partial(ChannelMLP, width, ratio=4.0) if block == "mlp" else partial(MapConvolution, width)
        self.align16 = nn.Linear(dim, width)
        # The way down starts from the backbone's own width, not from the coarsest level.
        self.split16 = PatchSplit(dim, width)
        self.split8 = PatchSplit(width, width)
        self.align8 = nn.Linear(dim // 2, width, bias=False)
        self.align4 = nn.Linear(dim // 4, width, bias=False)
        self.blocks8 = nn.ModuleList(new() for _ in range(depth))
        self.blocks4 = nn.ModuleList(new() for _ in range(depth))
        self.levels = nn.ModuleList(new() for _ in range(3))

    def forward(
        self, scales: Sequence[Float[Tensor, "B V _ _"]], mask: Mask
    ) -> tuple[Float[Tensor, "B V _ D"], ...]:
        """Levels at strides 4, 8 and 16, [B, V, 16, D], [B, V, 4, D] and [B, V, 1, D], of such scales of the
        units that `mask` shows."""
        fine, middle, coarse = scales
        level8 = _work(self.blocks8, self.split16(coarse) + self.align8(middle), mask)
        level4 = _work(self.blocks4, self.split8(level8) + self.align4(fine), mask)
        found = (level4, level8, self.align16(coarse))
        return tuple(_work([block], level, mask) for block, level in zip(self.levels, found, strict=True))

    def whole(self, scales: Sequence[Float[Tensor, "B _ _ _"]]) -> tuple[Float[Tensor, "B _ _ D"], ...]:
        """Levels as of `forward`, of all units, from maps of whole images (`Features.pyramid`)."""
        batch, _, *sides = scales[-1].shape
        grid = sides[0], sides[1]
        nothing = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool, device=scales[-1].device)
        units = [as_units(scale, grid).flatten(2, 3) for scale in scales]
        return self(units, Mask.of(nothing, grid, 0))

    def maps(self, scales: Sequence[Float[Tensor, "B _ _ _"]]) -> tuple[Float[Tensor, "B D _ _"], ...]:
        """Levels as maps [B, D, h, w] at strides 4, 8 and 16, as a detector takes them, from maps of whole
        images (`Features.pyramid`)."""
        grid = scales[-1].shape[2], scales[-1].shape[3]
        levels = zip(SCALES, self.whole(scales), strict=True)
        return tuple(as_map(level.unflatten(2, (side, side)), grid) for side, level in levels)


def _work(blocks: Iterable[nn.Module], level: Tensor, mask: Mask) -> Float[Tensor, "B V u D"]:
    for block in blocks:
        level = block(level, mask) if isinstance(block, MapConvolution) else block(level)
    return level
