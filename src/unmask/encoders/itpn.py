"""iTPN's feature pyramid: three maps of one width, made of units that do not see each other.

Integrally Pre-Trained Transformer Pyramid Networks. Yunjie Tian, Lingxi Xie, Zhaozhi Wang, Longhui Wei,
Xiaopeng Zhang, Jianbin Jiao, Yaowei Wang, Qi Tian, Qixiang Ye. CVPR 2023, arXiv 2211.12735.

The neck of a detector, pre-trained together with its backbone (a HiViT): from the coarsest scale down, each
level is split two by two, joined by the backbone's own scale, and worked on by channel MLPs. Since no
operation crosses the border of a unit, hidden units stay left out and nothing of them leaks.
"""

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unmask.encoders.hivit_blocks import ChannelMLP


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


class Pyramid(nn.Module):
    """From the three scales of a HiViT to three levels of one width.

    Args:
        dim: width of the backbone's coarsest scale; the others have a half and a quarter of it.
        width: of the pyramid, 256 in the official code.
        depth: channel MLPs of the two finer levels, 2 in pixel pre-training (official code).
    """

    def __init__(self, dim: int, *, width: int = 256, depth: int = 2) -> None:
        super().__init__()
        self.align16 = nn.Linear(dim, width)
        # The way down starts from the backbone's own width, not from the coarsest level.
        self.split16 = PatchSplit(dim, width)
        self.split8 = PatchSplit(width, width)
        self.align8 = nn.Linear(dim // 2, width, bias=False)
        self.align4 = nn.Linear(dim // 4, width, bias=False)
        self.blocks8 = nn.Sequential(*(ChannelMLP(width, ratio=4.0) for _ in range(depth)))
        self.blocks4 = nn.Sequential(*(ChannelMLP(width, ratio=4.0) for _ in range(depth)))
        self.levels = nn.ModuleList(ChannelMLP(width, ratio=4.0) for _ in range(3))

    def forward(self, scales: Sequence[Float[Tensor, "B V _ _"]]) -> tuple[Float[Tensor, "B V _ D"], ...]:
        """Levels at strides 4, 8 and 16, [B, V, 16, D], [B, V, 4, D] and [B, V, 1, D], of such scales."""
        fine, middle, coarse = scales
        level8 = self.blocks8(self.split16(coarse) + self.align8(middle))
        level4 = self.blocks4(self.split8(level8) + self.align4(fine))
        found = (level4, level8, self.align16(coarse))
        return tuple(block(level) for block, level in zip(self.levels, found, strict=True))
