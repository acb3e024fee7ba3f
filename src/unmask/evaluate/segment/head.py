"""UPerNet: a head that gives every pixel a class, from four maps of any backbone.

Unified Perceptual Parsing for Scene Understanding. Tete Xiao, Yingcheng Liu, Bolei Zhou, Yuning Jiang, Jian
Sun. ECCV 2018, arXiv 1807.10221. The coarsest map is pooled at several sizes (PSPNet's pyramid pooling), its
result goes down a feature pyramid, and the levels are fused at the finest resolution.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

Norm = Literal["layer", "batch"]
POOLS = (1, 2, 3, 6)  # PSPNet's sizes, in places along a side

Maps = tuple[Float[Tensor, "B _ _ _"], ...]


def convolution(inputs: int, outputs: int, size: int, norm: Norm) -> nn.Sequential:
    """Convolution that keeps the resolution, norm, ReLU.

    Args:
        norm: "batch" as the published runs, over all processes; "layer", over the channels of a place, which
            needs no large batch.
    """
    if norm not in get_args(Norm):
        raise ValueError(f"norm {norm!r}: possible are {', '.join(get_args(Norm))}")
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        LayerNorm2d(outputs) if norm == "layer" else nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def enlarged(x: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """To (height, width), smoothly."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """What is around a place, at several sizes up to the whole map, and the place itself."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.sizes = nn.ModuleList(convolution(channels, width, 1, norm) for _ in POOLS)
        self.mixed = convolution(channels + len(POOLS) * width, width, 3, norm)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        pooled = [
            enlarged(convolve(F.adaptive_avg_pool2d(x, side)), x.shape[2:])
            for side, convolve in zip(POOLS, self.sizes, strict=True)
        ]
        return self.mixed(torch.cat([x, *pooled], dim=1))


class UPerNet(nn.Module):
    """Class scores at the resolution of the finest map.

    Args:
        channels: of the four maps, fine to coarse.
        classes: number of them.
        width: of everything inside; 512 in the paper, 768 in MAE's and BEiT's runs of ViT-B.
        dropout: of whole channels before the last layer.
        norm: see `convolution`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        width: int = 512,
        dropout: float = 0.1,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.pooling = PyramidPooling(coarsest, width, norm)
        self.lateral = nn.ModuleList(convolution(own, width, 1, norm) for own in finer)
        self.levels = nn.ModuleList(convolution(width, width, 3, norm) for _ in finer)
        self.fuse = convolution(len(channels) * width, width, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Maps) -> Float[Tensor, "B K h w"]:
        *finer, coarsest = maps
        down = [self.pooling(coarsest)]
        for lateral, one in zip(reversed(self.lateral), reversed(finer), strict=True):
            down.insert(0, lateral(one) + enlarged(down[0], one.shape[2:]))
        levels = [level(one) for level, one in zip(self.levels, down[:-1], strict=True)]
        alike = [enlarged(one, maps[0].shape[2:]) for one in (*levels, down[-1])]
        return self.classify(self.dropout(self.fuse(torch.cat(alike, dim=1))))


class PlainHead(nn.Module):
    """One convolution, and class scores: trained beside UPerNet on an inner map, and left out afterwards.

    Fully Convolutional Networks for Semantic Segmentation. Jonathan Long, Evan Shelhamer, Trevor Darrell.
    CVPR 2015, arXiv 1411.4038.
    """

    def __init__(
        self, channels: int, classes: int, *, width: int = 256, dropout: float = 0.1, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.convolve = convolution(channels, width, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        return self.classify(self.dropout(self.convolve(x)))
