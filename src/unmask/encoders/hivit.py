"""HiViT: three scales, of which only the coarsest mixes patches, so that hidden ones can be left out.

HiViT: A Simpler and More Efficient Design of Hierarchical Vision Transformer. Xiaosong Zhang, Yunjie Tian,
Lingxi Xie, Wei Huang, Qi Dai, Qixiang Ye, Qi Tian. ICLR 2023, arXiv 2205.14949.

An image is cut into units of 16 x 16 pixels. At strides 4 and 8 a unit is a small map of its own, worked on
by channel MLPs and merged two by two; at stride 16 it is one token, and plain attention sees all of them.
Nothing crosses the border of a unit before the attention. iTPN (arXiv 2211.12735) takes the same backbone,
deeper.

timm has no such models; these follow its conventions and join its registry, so that `timm.create_model`
builds them once this module is imported.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from unmask.encoders.hivit_blocks import Block, ChannelMLP, PatchMerge
from unmask.encoders.published import untrained
from unmask.encoders.units import UnitTransformer, unit_grid


class HiViT(UnitTransformer):
    """The backbone, with a classifier.

    Args:
        img_size: height and width in pixels, multiples of `patch_size`.
        patch_size: side of a unit in pixels, a multiple of 4.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: "avg", or "" for no pooling.
        embed_dim: width at stride 16; a quarter and a half of it at strides 4 and 8.
        depths: blocks at strides 4, 8 (channel MLPs) and 16 (attention). HiViT's own configuration files
            count two MLPs as one.
        rel_pos: learned relative position biases, one table a block, zero at first (fine-tuning).
        init_values: initial factor on every residual branch; None for no factors.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 512,
        depths: Sequence[int] = (4, 4, 20),
        num_heads: int = 8,
        stem_mlp_ratio: float = 3.0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        rel_pos: bool = False,
        init_values: float | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        rows, columns = unit_grid(img_size, patch_size, embed_dim)
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            embed_dim=embed_dim,
            depths=depths,
            patch_norm=True,
            stem_block=partial(ChannelMLP, ratio=stem_mlp_ratio, layer_scale=init_values),
            merge=PatchMerge,
            block=partial(
                Block,
                embed_dim,
                heads=num_heads,
                ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                offsets=(2 * rows - 1) * (2 * columns - 1) if rel_pos else None,
                layer_scale=init_values,
            ),
            drop_path_rate=drop_path_rate,
        )


def _build(name: str, pretrained: bool, sizes: dict[str, Any], options: dict[str, Any]) -> HiViT:
    getter = {"out_indices": (0, 1, 2), "feature_cls": "getter"}
    return build_model_with_cfg(HiViT, name, pretrained, feature_cfg=getter, **{**sizes, **options})


def hivit_tiny_patch16_224(pretrained: bool = False, **options: Any) -> HiViT:
    """HiViT-T: 19.2 M parameters."""
    sizes = {"embed_dim": 384, "depths": (2, 2, 10), "num_heads": 6}
    return _build("hivit_tiny_patch16_224", pretrained, sizes, options)


def hivit_small_patch16_224(pretrained: bool = False, **options: Any) -> HiViT:
    """HiViT-S: 37.5 M parameters."""
    sizes = {"embed_dim": 384, "depths": (4, 4, 20), "num_heads": 6}
    return _build("hivit_small_patch16_224", pretrained, sizes, options)


def hivit_base_patch16_224(pretrained: bool = False, **options: Any) -> HiViT:
    """HiViT-B: 66.4 M parameters."""
    sizes = {"embed_dim": 512, "depths": (4, 4, 20), "num_heads": 8}
    return _build("hivit_base_patch16_224", pretrained, sizes, options)


def itpn_base_patch16_224(pretrained: bool = False, **options: Any) -> HiViT:
    """The backbone of iTPN-B: 78.6 M parameters with relative positions."""
    sizes = {"embed_dim": 512, "depths": (3, 3, 24), "num_heads": 8}
    return _build("itpn_base_patch16_224", pretrained, sizes, options)


def itpn_large_patch16_224(pretrained: bool = False, **options: Any) -> HiViT:
    """The backbone of iTPN-L: 288 M parameters with relative positions."""
    sizes = {"embed_dim": 768, "depths": (2, 2, 40), "num_heads": 12}
    return _build("itpn_large_patch16_224", pretrained, sizes, options)


_ENTRIES = (
    hivit_tiny_patch16_224,
    hivit_small_patch16_224,
    hivit_base_patch16_224,
    itpn_base_patch16_224,
    itpn_large_patch16_224,
)
# timm looks for this name when a model joins its registry.
default_cfgs = generate_default_cfgs(untrained(entry.__name__ for entry in _ENTRIES))
for _entry in _ENTRIES:
    register_model(_entry)
