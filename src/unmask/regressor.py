"""CAE's latent contextual regressor and its decoder: what hidden patches would be encoded as, and what their
codes are."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.layers import Mlp
from timm.models.beit import Block
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unmask.decoders import require_sizes
from unmask.encoders.initialise import narrow_normal_, xavier_linear
from unmask.masking import Grid, Mask
from unmask.patches import sincos_table


class LatentRegressor(nn.Module):
    """Hidden patches as they would be encoded, from the encoded visible ones (Chen et al. 2022, section 3.1).

    Queries start as one learned token. In every block they look at the visible patches, which stay as they
    are, and at each other. Positions are added to queries and keys, not to values.

    Args:
        dim: width of the encoded patches, divisible by `heads` and by 4.
        grid: rows and columns of patches.
        depth: blocks.
        heads: attention heads.
        layer_scale: what the scales of the branches start at.
    """

    positions: Float[Tensor, "1 N D"]

    def __init__(
        self,
        dim: int,
        grid: Grid,
        *,
        depth: int,
        heads: int,
        layer_scale: float = 0.1,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        require_sizes(dim, depth, heads)
        self.register_buffer("positions", sincos_table(grid, dim, first="row"), persistent=False)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            RegressorBlock(dim, heads, mlp_ratio, layer_scale, norm_eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.apply(xavier_linear)
        narrow_normal_(self.token)

    def forward(self, visible: Float[Tensor, "B V D"], mask: Mask) -> Float[Tensor, "B M D"]:
        """The hidden patches, in raster order, after a norm."""
        places = self.positions.expand(len(visible), -1, -1)
        hidden_places = mask.masked(places)
        all_places = torch.cat([mask.visible(places), hidden_places], dim=1)
        x = self.token.expand(hidden_places.shape)
        for block in self.blocks:
            x = block(x, visible, hidden_places, all_places)
        return self.norm(x)


class RegressorBlock(nn.Module):
    """Attention of hidden to visible and hidden patches, then an MLP, which starts from a norm: its residual
    is what was normed, as in the official code."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, layer_scale: float, norm_eps: float) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, dim, eps=norm_eps)
        self.norm_q, self.norm_k, self.norm_v, self.norm2 = norm(), norm(), norm(), norm()
        self.attn = CrossAttention(dim, heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale))
        self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(
        self,
        hidden: Float[Tensor, "B M D"],
        visible: Float[Tensor, "B V D"],
        hidden_places: Float[Tensor, "B M D"],
        all_places: Float[Tensor, "B N D"],
    ) -> Float[Tensor, "B M D"]:
        everything = torch.cat([visible, hidden], dim=1)
        attended = self.attn(
            self.norm_q(hidden + hidden_places), self.norm_k(everything + all_places), self.norm_v(everything)
        )
        hidden = self.norm2(hidden + self.gamma_1 * attended)
        return hidden + self.gamma_2 * self.mlp(hidden)


class CrossAttention(nn.Module):
    """Attention with its own matrices for queries, keys and values; keys have no bias, as in BEiT."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, queries: Float[Tensor, "B M D"], keys: Float[Tensor, "B N D"], values: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "B M D"]:
        projected = (
            F.linear(queries, self.q.weight, self.q_bias),
            self.k(keys),
            F.linear(values, self.v.weight, self.v_bias),
        )
        query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in projected)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))


class LatentDecoder(nn.Module):
    """BEiT's blocks over the hidden patches alone, with their positions.

    Args: as those of `LatentRegressor`.
    """

    positions: Float[Tensor, "1 N D"]

    def __init__(
        self,
        dim: int,
        grid: Grid,
        *,
        depth: int,
        heads: int,
        layer_scale: float = 0.1,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        require_sizes(dim, depth, heads)
        self.register_buffer("positions", sincos_table(grid, dim, first="row"), persistent=False)
        norm: Any = partial(nn.LayerNorm, eps=norm_eps)
        self.blocks = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, mlp_ratio=mlp_ratio, init_values=layer_scale, norm_layer=norm)
            for _ in range(depth)
        )
        self.norm = norm(dim)
        self.apply(xavier_linear)

    def forward(self, latent: Float[Tensor, "B M D"], mask: Mask) -> Float[Tensor, "B M D"]:
        """States of the hidden patches, in raster order, after the final norm."""
        x = latent + mask.masked(self.positions.expand(len(latent), -1, -1))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
