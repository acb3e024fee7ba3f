"""Decoders that a method throws away after pre-training."""

from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unmask.encoders.base import Features
from unmask.encoders.initialise import xavier_linear
from unmask.masking import Grid, Mask
from unmask.patches import sincos_table


class ViTDecoder(nn.Module):
    """A narrow ViT over all patches: encoded visible ones, one learned token at the hidden ones (MAE, section
    3).

    Positions are a fixed sine-cosine table. A class token is carried along and dropped at the end.

    Args:
        encoder_dim: width of the encoder's features.
        grid: rows and columns of patches.
        cls: whether the features come with a class token.
        dim: width, divisible by `heads` and by 4.
        depth: blocks; 0 is possible.
        heads: attention heads.
        mlp_ratio: width of the hidden layer of a block, as a multiple of `dim`.
        norm_eps: added to the variance in every norm.
    """

    def __init__(
        self,
        encoder_dim: int,
        grid: Grid,
        *,
        cls: bool,
        dim: int = 512,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if min(dim, heads) < 1 or depth < 0:
            raise ValueError(
                f"a decoder needs a positive width, a positive number of heads and no negative depth, not "
                f"{dim}, {heads} and {depth}"
            )
        if dim % heads:
            raise ValueError(
                f"a decoder of width {dim} cannot have {heads} heads: choose a divisor of the width"
            )
        self.prefix = int(cls)
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos_table(grid, dim, prefix=self.prefix), persistent=False)
        norm = partial(nn.LayerNorm, eps=norm_eps)
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth)
        )
        self.norm = norm(dim)
        self.apply(xavier_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, seen: Features, mask: Mask, *, hidden_only: bool = False
    ) -> Float[Tensor, "B N D"] | Float[Tensor, "B M D"]:
        """States of all patches after the final norm, from the features of the visible ones.

        Args:
            hidden_only: only those of the hidden patches, in raster order; the last block then computes
                nothing that only the others need.
        """
        x = mask.restore(self.embed(seen.patches), self.mask_token)
        if self.prefix:
            assert seen.cls is not None
            x = torch.cat([self.embed(seen.cls)[:, None], x], dim=1)
        x = x + self.positions
        for block in self.blocks[:-1] if hidden_only else self.blocks:
            x = block(x)
        if not hidden_only:
            return self.norm(x[:, self.prefix :])
        return self.norm(self._last(x, mask) if len(self.blocks) else mask.masked(x[:, self.prefix :]))

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
