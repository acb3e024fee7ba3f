"""Decoders that a method throws away after pre-training."""

from collections.abc import Sequence
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unmask.encoders.base import Encoder, Features
from unmask.encoders.initialise import xavier_linear
from unmask.masking import Grid, Mask
from unmask.patches import sincos_table


def require_sizes(dim: int, depth: int, heads: int) -> None:
    """
    Raises:
        ValueError: no decoder can have these.
    """
    if min(dim, heads) < 1 or depth < 0:
        raise ValueError(
            f"a decoder needs a positive width, a positive number of heads and no negative depth, not "
            f"{dim}, {heads} and {depth}"
        )
    if dim % heads:
        raise ValueError(f"a decoder of width {dim} cannot have {heads} heads: choose a divisor of the width")


class _Decoder(nn.Module):
    """A narrow ViT over all patches, with fixed sine-cosine positions.

    Args:
        grid: rows and columns of patches.
        prefix: tokens in front of the patches, dropped at the end.
        dim: width, divisible by `heads` and by 4.
        depth: blocks; 0 is possible.
        heads: attention heads.
        mlp_ratio: width of the hidden layer of a block, as a multiple of `dim`.
        norm_eps: added to the variance in every norm.
        first: the axis that comes first in the table of positions: see `sincos_table`.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        prefix: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        norm_eps: float,
        first: str = "column",
    ) -> None:
        super().__init__()
        require_sizes(dim, depth, heads)
        self.prefix = prefix
        positions = sincos_table(grid, dim, prefix=prefix, first=first)
        self.register_buffer("positions", positions, persistent=False)
        norm = partial(nn.LayerNorm, eps=norm_eps)
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(dim)

    def transform(
        self, tokens: Float[Tensor, "B P D"], only: Mask | None = None
    ) -> Float[Tensor, "B N D"] | Float[Tensor, "B M D"]:
        """States of all patches after the final norm, from tokens without position.

        Args:
            only: return those of its hidden patches, in raster order; the last block then computes nothing
                that only the others need.
        """
        x = tokens + self.positions
        for block in self.blocks if only is None else self.blocks[:-1]:
            x = block(x)
        if only is None:
            return self.norm(x[:, self.prefix :])
        return self.norm(self._last(x, only) if len(self.blocks) else only.masked(x[:, self.prefix :]))

    def _last(self, x: Float[Tensor, "B P D"], mask: Mask) -> Float[Tensor, "B M D"]:
        """The last block for hidden patches alone: they look at all tokens, but no block follows that would
        look at the others."""
        block = self.blocks[-1]
        attention = block.attn
        layout = "b n (part h d) -> part b h n d"
        query, key, value = rearrange(attention.qkv(block.norm1(x)), layout, part=3, h=attention.num_heads)
        query = rearrange(query[:, :, self.prefix :], "b h n d -> b n h d")
        query = rearrange(mask.masked(query), "b m h d -> b h m d")
        mixed = scaled_dot_product_attention(query, key, value)
        x = mask.masked(x[:, self.prefix :]) + attention.proj(rearrange(mixed, "b h m d -> b m (h d)"))
        return x + block.mlp(block.norm2(x))


class ViTDecoder(_Decoder):
    """Encoded patches where they are visible, one learned token where they are hidden (MAE, section 3).

    A class token is carried along. The other arguments are those of every decoder here: width, blocks, heads.

    Args:
        encoder_dim: width of what the encoder knows of a visible patch.
        grid: rows and columns of patches.
        cls: whether the features come with a class token.
        norm_input: normalise the encoder's features first, where the encoder itself does not (the scales of a
            HiViT).
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: Grid,
        *,
        cls: bool,
        norm_input: bool = False,
        dim: int = 512,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        first: str = "column",
    ) -> None:
        super().__init__(
            grid,
            prefix=int(cls),
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            norm_eps=norm_eps,
            first=first,
        )
        self.embed_norm = nn.LayerNorm(encoder_dim, eps=norm_eps) if norm_input else nn.Identity()
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.apply(xavier_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    @classmethod
    def of(cls, encoder: Encoder, *, dim: int, depth: int, heads: int, first: str = "column") -> "ViTDecoder":
        """For what an encoder makes of visible patches."""
        return cls(
            encoder.visible_dim,
            encoder.grid,
            cls=encoder.has_cls,
            norm_input=encoder.visible_dim != encoder.dim,
            dim=dim,
            depth=depth,
            heads=heads,
            first=first,
        )

    def forward(
        self, seen: Features, mask: Mask, *, hidden_only: bool = False
    ) -> Float[Tensor, "B N D"] | Float[Tensor, "B M D"]:
        """States of all patches after the final norm, from the features of the visible ones.

        Args:
            hidden_only: only those of the hidden patches, in raster order, which costs less.
        """
        x = mask.restore(self.embed(self.embed_norm(seen.every_scale())), self.mask_token)
        if self.prefix:
            assert seen.cls is not None
            x = torch.cat([self.embed(seen.cls)[:, None], x], dim=1)
        return self.transform(x, only=mask if hidden_only else None)


class LevelSum(nn.ModuleList):
    """A pyramid's levels as one vector a unit: every position of a level becomes its share of it, and the
    levels are added up (iTPN).

    Args:
        pyramid_dim: width of the levels, at strides 4, 8 and 16 of units of 16 pixels.
        dim: width of the sum, divisible by 16.
    """

    def __init__(self, pyramid_dim: int, dim: int, *, norm_eps: float = 1e-6) -> None:
        if dim % 16:
            raise ValueError(
                f"a vector of width {dim} cannot take 16 positions of a unit: choose a multiple of 16"
            )
        super().__init__(
            nn.Sequential(nn.LayerNorm(pyramid_dim, eps=norm_eps), nn.Linear(pyramid_dim, dim // positions))
            for positions in (16, 4, 1)
        )

    def forward(self, levels: Sequence[Float[Tensor, "B V _ C"]]) -> Float[Tensor, "B V D"]:
        fine, middle, coarse = (embed(level).flatten(2) for embed, level in zip(self, levels, strict=True))
        return fine + middle + coarse


class PyramidDecoder(_Decoder):
    """The sum of a pyramid's levels where units are visible, one learned token a level where they are hidden
    (iTPN).

    Args:
        pyramid_dim: width of the levels, at strides 4, 8 and 16 of units of 16 pixels.
        grid: rows and columns of units.
    """

    def __init__(
        self,
        pyramid_dim: int,
        grid: Grid,
        *,
        dim: int = 512,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(
            grid, prefix=0, dim=dim, depth=depth, heads=heads, mlp_ratio=mlp_ratio, norm_eps=norm_eps
        )
        self.embed = LevelSum(pyramid_dim, dim, norm_eps=norm_eps)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.apply(xavier_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, levels: Sequence[Float[Tensor, "B V _ C"]], mask: Mask, *, hidden_only: bool = False
    ) -> Float[Tensor, "B N D"] | Float[Tensor, "B M D"]:
        """States of all units after the final norm, from the levels of the visible ones.

        Args:
            hidden_only: only those of the hidden units, in raster order, which costs less.
        """
        # The token stands for a hidden unit at every level, and the levels are added up.
        tokens = mask.restore(self.embed(levels), len(self.embed) * self.mask_token)
        return self.transform(tokens, only=mask if hidden_only else None)
