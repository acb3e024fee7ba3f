"""The convolutional halves of VQGAN (Esser et al. 2021): images to maps of vectors and back."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

MOST_GROUPS = 32  # of a norm


class ResidualBlock(nn.Module):
    """x + (norm, SiLU, 3 x 3 convolution) twice."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(width, out, 1) if width != out else nn.Identity()
        self.path = nn.Sequential(
            _norm(width),
            nn.SiLU(),
            nn.Conv2d(width, out, 3, padding=1),
            _norm(out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1),
        )

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E h w"]:
        return self.skip(x) + self.path(x)


class SpatialAttention(nn.Module):
    """x + attention of all places to all others, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        query, key, value = rearrange(self.qkv(self.norm(x)), "b (part d) h w -> part b 1 (h w) d", part=3)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(rearrange(mixed, "b 1 (h w) d -> b d h w", h=x.shape[2]))


class ConvolutionalEncoder(nn.Sequential):
    """Images to a map of vectors, one for every 2^(levels - 1) x 2^(levels - 1) pixels.

    Args:
        channels: of the images.
        out: width of the vectors.
        width: of the finest level.
        factors: width of every level, from fine to coarse, as a multiple.
        blocks: residual blocks of a level; attention follows each on the coarsest.
    """

    def __init__(self, channels: int, out: int, *, width: int, factors: Sequence[int], blocks: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        now = width
        for level, factor in enumerate(factors):
            if level:
                layers.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
            coarsest = level == len(factors) - 1
            layers += _level(now, width * factor, blocks=blocks, attention=coarsest)
            now = width * factor
        super().__init__(*layers, *_middle(now), _norm(now), nn.SiLU(), nn.Conv2d(now, out, 3, padding=1))


class ConvolutionalDecoder(nn.Sequential):
    """The mirror image of `ConvolutionalEncoder`, with one residual block more on every level.

    Args:
        dim: width of the vectors.
        channels: of the images.
    """

    def __init__(self, dim: int, channels: int, *, width: int, factors: Sequence[int], blocks: int) -> None:
        now = width * factors[-1]
        layers: list[nn.Module] = [nn.Conv2d(dim, now, 3, padding=1), *_middle(now)]
        for level, factor in enumerate(reversed(factors)):
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(now, now, 3, padding=1)]
            layers += _level(now, width * factor, blocks=blocks + 1, attention=level == 0)
            now = width * factor
        super().__init__(*layers, _norm(now), nn.SiLU(), nn.Conv2d(now, channels, 3, padding=1))


def _level(width: int, out: int, *, blocks: int, attention: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for block in range(blocks):
        layers.append(ResidualBlock(out if block else width, out))
        if attention:
            layers.append(SpatialAttention(out))
    return layers


def _middle(width: int) -> list[nn.Module]:
    return [ResidualBlock(width, width), SpatialAttention(width), ResidualBlock(width, width)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(MOST_GROUPS, width), width, eps=1e-6)
