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

import torch
from einops import rearrange
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import PatchEmbed, calculate_drop_path_rates
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from unmask.encoders.hivit_blocks import Block, ChannelMLP, PatchMerge, relative_positions
from unmask.masking import Grid
from unmask.patches import sincos_table

SCALES = (4, 2, 1)  # rows and columns of a unit's map at stride 4, 8 and 16


class HiViT(nn.Module):
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
        super().__init__()
        if patch_size % 4 or embed_dim % 4:
            raise ValueError(f"{patch_size=} and {embed_dim=} must be multiples of 4")
        self.num_classes, self.global_pool = num_classes, global_pool
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.patch_size = patch_size
        widths = [embed_dim // 4, embed_dim // 2, embed_dim]
        size, norm = (
            img_size if isinstance(img_size, int) else tuple(img_size),
            partial(nn.LayerNorm, eps=1e-6),
        )
        self.patch_embed = PatchEmbed(
            size, patch_size // 4, in_chans, widths[0], norm_layer=norm, output_fmt="NHWC"
        )
        height, width = self.patch_embed.img_size
        if height % patch_size or width % patch_size:
            raise ValueError(f"images of {height} x {width} pixels cannot be cut into units of {patch_size}")
        self.grid = height // patch_size, width // patch_size
        self.pos_embed = nn.Parameter(sincos_table(self.grid, embed_dim))
        self.register_buffer("positions", relative_positions(self.grid), persistent=False)
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        mlp = partial(ChannelMLP, ratio=stem_mlp_ratio, layer_scale=init_values)
        block = partial(
            Block,
            embed_dim,
            heads=num_heads,
            ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            offsets=(2 * self.grid[0] - 1) * (2 * self.grid[1] - 1) if rel_pos else None,
            layer_scale=init_values,
        )
        self.blocks = nn.ModuleList()
        self.merges: list[int] = []  # places of the two merges in `blocks`
        for depth, dim in zip(depths[:2], widths[:2], strict=True):
            self.blocks.extend(mlp(dim, drop_path=next(rates)) for _ in range(depth))
            self.merges.append(len(self.blocks))
            self.blocks.append(PatchMerge(dim))
        self.blocks.extend(block(drop_path=next(rates)) for _ in range(depths[2]))
        self._add_classifier(num_classes)
        places = [*(merge - 1 for merge in self.merges), len(self.blocks) - 1]
        self.feature_info = [
            {"num_chs": dim, "reduction": patch_size // side, "module": f"blocks.{place}"}
            for dim, side, place in zip(widths, SCALES, places, strict=True)
        ]
        self.apply(_initialise)

    @property
    def attention_blocks(self) -> nn.ModuleList:
        """The blocks at stride 16."""
        return self.blocks[self.merges[1] + 1 :]

    def units(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N h w c"]:
        """Patch embeddings at stride 4, sorted into units."""
        x = self.patch_embed(images)
        return rearrange(x, "b (y h) (x w) c -> b (y x) h w c", h=SCALES[0], w=SCALES[0])

    def stem(self, units: Float[Tensor, "B N h w c"]) -> tuple[Tensor, Tensor, Float[Tensor, "B N D"]]:
        """Units at strides 4 and 8, each before its merge, and as tokens without position."""
        scales = []
        for index, block in enumerate(self.blocks[: self.merges[1] + 1]):
            if index in self.merges:
                scales.append(units)
            units = block(units)
        return scales[0], scales[1], rearrange(units, "b n 1 1 d -> b n d")

    def forward_features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        """Tokens at stride 16, in raster order; there is no final norm before pooling."""
        x = self.stem(self.units(x))[-1] + self.pos_embed
        for block in self.attention_blocks:
            x = block(x, self.positions)
        return x

    def forward_intermediates(self, x: Float[Tensor, "B C H W"]) -> tuple[Tensor, list[Tensor]]:
        """Tokens at stride 16, and the maps [B, C, h, w] at strides 4, 8 and 16."""
        fine, middle, tokens = self.stem(self.units(x))
        tokens = tokens + self.pos_embed
        for block in self.attention_blocks:
            tokens = block(tokens, self.positions)
        return tokens, [as_map(scale, self.grid) for scale in (fine, middle, tokens)]

    def forward_head(self, x: Float[Tensor, "B N D"], pre_logits: bool = False) -> Tensor:
        """Class scores, or the pooled and normalised features."""
        x = self.fc_norm(x.mean(1) if self.global_pool == "avg" else x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def no_weight_decay(self) -> set[str]:
        """Names that weight decay spares beside biases and norms."""
        return {"pos_embed"}

    def _add_classifier(self, num_classes: int) -> None:
        self.fc_norm = nn.LayerNorm(self.embed_dim, eps=1e-6) if num_classes else nn.Identity()
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes, with new weights."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        with torch.device(self.pos_embed.device):
            self._add_classifier(num_classes)


def as_map(units: Tensor, grid: Grid) -> Float[Tensor, "B C h w"]:
    """Units [B, N, h, w, C], or tokens [B, N, C], of a whole image as one map."""
    if units.ndim == 3:
        units = units[:, :, None, None]
    return rearrange(units, "b (y x) h w c -> b c (y h) (x w)", y=grid[0])


def _initialise(module: nn.Module) -> None:
    """Matrices normal(.02), biases 0 (official code)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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
# timm looks for this name when a model joins its registry: nobody has published weights in its format.
default_cfgs = generate_default_cfgs(
    {
        f"{entry.__name__}.untrained": {
            "input_size": (3, 224, 224),
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "num_classes": 1000,
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        for entry in _ENTRIES
    }
)
for _entry in _ENTRIES:
    register_model(_entry)
