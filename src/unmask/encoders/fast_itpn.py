"""Fast-iTPN: iTPN's backbone with the parts of later vision transformers.

Fast-iTPN: Integrally Pre-Trained Transformer Pyramid Network with Token Migration. Yunjie Tian, Lingxi Xie,
Jihao Qiu, Jianbin Jiao, Yaowei Wang, Qi Tian, Qixiang Ye. TPAMI 2024, arXiv 2211.12735 (second version on).

Units as in HiViT, each on its own until stride 16. What differs: norms inside the MLPs, merging by
convolutions of 2 x 2, and at stride 16 gated MLPs (SwiGLU) of ratio 3, queries and values with a bias but not
keys, factors on the residual branches, learned positions. Token migration and token gathering, which the
paper adds for speed, were never released and are not here.

timm has no such models; these follow its conventions and join its registry, so that `timm.create_model`
builds them once this module is imported.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import EvaBlock
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_

from unmask.encoders.hivit_blocks import NORM, ChannelMLP
from unmask.encoders.published import untrained
from unmask.encoders.units import UnitTransformer


class ConvolutionalMerge(nn.Module):
    """Two by two positions of a unit become one of twice the width, by a convolution of that size."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduction = nn.Conv2d(dim, 2 * dim, 2, stride=2)
        trunc_normal_(self.reduction.weight, std=0.02)
        zeros_(self.reduction.bias)

    def forward(self, x: Float[Tensor, "B N h w C"]) -> Float[Tensor, "B N h2 w2 C2"]:
        # Units are far too small for a convolution's kernels to be fast; the same as a matrix.
        x = rearrange(self.norm(x), "b n (h p) (w q) c -> b n h w (c p q)", p=2, q=2)
        return F.linear(x, self.reduction.weight.flatten(1), self.reduction.bias)


class GatedBlock(EvaBlock):
    """timm's EVA block, called as HiViT's: it has no relative positions."""

    def forward(self, x: Float[Tensor, "B N D"], positions: Int[Tensor, "*B N N"]) -> Float[Tensor, "B N D"]:
        return super().forward(x)


class FastITPN(UnitTransformer):
    """The backbone, with a classifier.

    Args:
        img_size: height and width in pixels, multiples of `patch_size`.
        patch_size: side of a unit in pixels, a multiple of 4.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: "avg", or "" for no pooling.
        embed_dim: width at stride 16; a quarter and a half of it at strides 4 and 8.
        depths: blocks at strides 4, 8 (channel MLPs) and 16 (attention).
        init_values: initial factor on the residual branches at stride 16; None for no factors.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 512,
        depths: Sequence[int] = (3, 3, 24),
        num_heads: int = 8,
        stem_mlp_ratio: float = 3.0,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = True,
        init_values: float | None = 0.1,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            embed_dim=embed_dim,
            depths=depths,
            patch_norm=False,
            stem_block=partial(ChannelMLP, ratio=stem_mlp_ratio, inner_norm=True),
            merge=ConvolutionalMerge,
            block=partial(
                GatedBlock,
                embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qkv_fused=False,
                swiglu_mlp=True,
                scale_mlp=True,
                num_prefix_tokens=0,
                init_values=init_values,
                norm_layer=NORM,
            ),
            drop_path_rate=drop_path_rate,
        )
        trunc_normal_(self.pos_embed, std=0.02)


def _build(name: str, pretrained: bool, sizes: dict[str, Any], options: dict[str, Any]) -> FastITPN:
    getter = {"out_indices": (0, 1, 2), "feature_cls": "getter"}
    return build_model_with_cfg(FastITPN, name, pretrained, feature_cfg=getter, **{**sizes, **options})


def fast_itpn_tiny_patch16_224(pretrained: bool = False, **options: Any) -> FastITPN:
    """Fast-iTPN-T: 24.2 M parameters."""
    sizes = {"embed_dim": 384, "depths": (1, 1, 12), "num_heads": 6}
    return _build("fast_itpn_tiny_patch16_224", pretrained, sizes, options)


def fast_itpn_small_patch16_224(pretrained: bool = False, **options: Any) -> FastITPN:
    """Fast-iTPN-S: 39.9 M parameters."""
    sizes = {"embed_dim": 384, "depths": (2, 2, 20), "num_heads": 6}
    return _build("fast_itpn_small_patch16_224", pretrained, sizes, options)


def fast_itpn_base_patch16_224(pretrained: bool = False, **options: Any) -> FastITPN:
    """Fast-iTPN-B: 84.8 M parameters."""
    sizes = {"embed_dim": 512, "depths": (3, 3, 24), "num_heads": 8}
    return _build("fast_itpn_base_patch16_224", pretrained, sizes, options)


def fast_itpn_large_patch16_224(pretrained: bool = False, **options: Any) -> FastITPN:
    """Fast-iTPN-L: 312 M parameters."""
    sizes = {"embed_dim": 768, "depths": (2, 2, 40), "num_heads": 12}
    return _build("fast_itpn_large_patch16_224", pretrained, sizes, options)


_ENTRIES = (
    fast_itpn_tiny_patch16_224,
    fast_itpn_small_patch16_224,
    fast_itpn_base_patch16_224,
    fast_itpn_large_patch16_224,
)
# timm looks for this name when a model joins its registry.
default_cfgs = generate_default_cfgs(untrained(entry.__name__ for entry in _ENTRIES))
for _entry in _ENTRIES:
    register_model(_entry)
