"""MILAN's prompting decoder: what the encoder says stays as it is, and only mask tokens are computed."""

from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unmask.decoders import require_sizes
from unmask.encoders.base import Features
from unmask.encoders.initialise import xavier_linear
from unmask.masking import Grid, Mask
from unmask.patches import sincos_table


class PromptingDecoder(nn.Module):
    """Mask tokens look at the encoder's tokens and at each other; the encoder's tokens, the prompts, look at
    nothing and are the same in every block (MILAN, Hou et al. 2022).

    The prompts enter keys and values without a norm, as in the official code.

    Args:
        encoder_dim: width of what the encoder knows of a visible patch.
        grid: rows and columns of patches.
        cls: whether the features come with a class token.
        norm_input: normalise the encoder's features first, where the encoder itself does not (the scales of a
            HiViT).
        dim: width, divisible by `heads` and by 4.
        depth: blocks; 0 is possible.
        heads: attention heads.
    """

    positions: Float[Tensor, "1 P D"]

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
    ) -> None:
        super().__init__()
        require_sizes(dim, depth, heads)
        self.prefix = int(cls)
        self.register_buffer("positions", sincos_table(grid, dim, prefix=self.prefix), persistent=False)
        self.embed_norm = nn.LayerNorm(encoder_dim, eps=norm_eps) if norm_input else nn.Identity()
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(PromptedBlock(dim, heads, mlp_ratio, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.apply(xavier_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Features, mask: Mask) -> Float[Tensor, "B P D"]:
        """States of all tokens after the final norm, from the features of the visible patches: the class
        token, if there is one, then the patches in raster order."""
        places = self.positions[:, self.prefix :].expand(len(mask.hidden), -1, -1)
        prompts = self.embed(self.embed_norm(seen.every_scale())) + mask.visible(places)
        hidden = self.mask_token + mask.masked(places)
        cls = []
        if self.prefix:
            assert seen.cls is not None
            cls = [self.embed(seen.cls)[:, None] + self.positions[:, :1]]
        fixed = torch.cat([*cls, prompts], dim=1)
        for block in self.blocks:
            hidden = block(hidden, fixed)
        return self.norm(torch.cat([*cls, mask.restore(prompts, hidden)], dim=1))


class PromptedBlock(nn.Module):
    """A pre-norm transformer block whose keys and values also come from tokens that it leaves alone."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, norm_eps: float) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=norm_eps)
        self.norm1 = norm(dim)
        self.attn = _Attention(dim, heads)
        self.norm2 = norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, hidden: Float[Tensor, "B M D"], prompts: Float[Tensor, "B P D"]
    ) -> Float[Tensor, "B M D"]:
        queries = self.norm1(hidden)
        hidden = hidden + self.attn(queries, torch.cat([prompts, queries], dim=1))
        return hidden + self.mlp(self.norm2(hidden))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, queries: Float[Tensor, "B M D"], others: Float[Tensor, "B P D"]
    ) -> Float[Tensor, "B M D"]:
        query = rearrange(self.q(queries), "b m (h d) -> b h m d", h=self.heads)
        key, value = rearrange(self.kv(others), "b p (part h d) -> part b h p d", part=2, h=self.heads)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h m d -> b m (h d)"))
