"""The parts of necks: from the maps that an encoder has to four of different scale (`unmask.necks`)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from unmask.encoders.itpn import Pyramid

SCALES = 4
Maps = tuple[Float[Tensor, "B _ _ _"], ...]


def coarser(x: Float[Tensor, "B D h w"], how: Literal["max", "mean"]) -> Float[Tensor, "B D h2 w2"]:
    """Half the resolution, rounded up: two by two places become their maximum or mean."""
    pool = F.max_pool2d if how == "max" else F.avg_pool2d
    return pool(x, 2, ceil_mode=True)


class SimpleNeck(nn.Module):
    """The last map at four scales; ViTDet normalises and mixes them afterwards (`EachTo`)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channels = (dim // 4, dim // 2, dim, dim)
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, 2, 2),
            LayerNorm2d(dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2),
        )
        self.finer = nn.ConvTranspose2d(dim, dim // 2, 2, 2)

    def forward(self, maps: Maps) -> Maps:
        last = maps[-1]
        return self.finest(last), self.finer(last), last, coarser(last, "max")


class DeconvolutionNeck(nn.Module):
    """States of one scale, each brought to its own: the first enlarged four times, the last halved.

    Where the papers have batch norm, this has layer norm, as ViTDet: no statistics of small batches.

    Args:
        levels: how many states there are; of fewer than four some are used twice.
        normalise: put a norm in front, for states without one.
    """

    def __init__(self, dim: int, *, levels: int, normalise: bool) -> None:
        super().__init__()
        self.places = [-(-levels * part // SCALES) - 1 for part in range(1, SCALES + 1)]
        self.norms = nn.ModuleList(LayerNorm2d(dim) if normalise else nn.Identity() for _ in range(levels))
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, 2),
            LayerNorm2d(dim),
            nn.GELU(),
            nn.ConvTranspose2d(dim, dim, 2, 2),
        )
        self.finer = nn.ConvTranspose2d(dim, dim, 2, 2)

    def forward(self, maps: Maps) -> Maps:
        normed = [norm(one) for norm, one in zip(self.norms, maps, strict=True)]
        first, second, third, last = (normed[place] for place in self.places)
        return self.finest(first), self.finer(second), third, coarser(last, "max")


class NativeNeck(nn.Module):
    """The encoder's own scales, each through a norm of its own, the coarsest pooled for those missing."""

    def __init__(self, norms: Sequence[nn.Module], missing: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.missing = missing

    def forward(self, maps: Maps) -> Maps:
        scales = [norm(one) for norm, one in zip(self.norms, maps, strict=True)]
        for _ in range(self.missing):
            scales.append(coarser(scales[-1], "max"))
        return tuple(scales)


class PretrainedNeck(nn.Module):
    """iTPN's pyramid as it was pre-trained, and its coarsest level averaged (its detectors)."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, maps: Maps) -> Maps:
        levels = self.pyramid.maps(maps)
        return (*levels, coarser(levels[-1], "mean"))


class JoinedNeck(nn.Module):
    """iTPN's pyramid and the backbone's scales side by side, the coarsest pooled (its segmentation)."""

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, maps: Maps) -> Maps:
        pairs = zip(self.pyramid.maps(maps), maps, strict=True)
        joined = [torch.cat(pair, dim=1) for pair in pairs]
        return (*joined, coarser(joined[-1], "max"))


class EachTo(nn.Module):
    """Every map to one width: a 1 x 1 and a 3 x 3 convolution, each followed by a norm (ViTDet)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(own, width, 1, bias=False),
                LayerNorm2d(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                LayerNorm2d(width),
            )
            for own in channels
        )

    def forward(self, maps: Maps) -> Maps:
        return tuple(convolve(one) for convolve, one in zip(self.each, maps, strict=True))
