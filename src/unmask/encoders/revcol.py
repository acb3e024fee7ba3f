"""RevCol: columns of ConvNeXt blocks at four scales; every column refines what the one before it found.

Reversible Column Networks. Yuxuan Cai, Yizhuang Zhou, Qi Han, Jianjian Sun, Xiangwen Kong, Jun Li, Xiangyu
Zhang. ICLR 2023, arXiv 2212.11696.

The mechanics on which RevColV2 is built (`columns`), in the shape for which official code exists. Heads that
the official code trains beside the classifier (intermediate supervision) are not here.

timm has no such models; these follow its conventions and join its registry, so that `timm.create_model`
builds them once this module is imported.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers import LayerNorm2d, PatchEmbed, calculate_drop_path_rates
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from unmask.encoders.columns import Column, MemorySaver, States, require_saver, run_columns
from unmask.encoders.published import untrained

STEM = 4  # pixels along the side of a patch


class Level(nn.Module):
    """One scale of a column: what comes from below and from above, added up, then ConvNeXt blocks.

    Args:
        width: of the scale.
        lower: width of the scale below, of which two by two places become one; None at the lowest, where the
            stem comes in as it is.
        upper: width of the scale above in the column before, of which every place becomes two by two; None
            where there is none.
        drop_paths: of the blocks, one each.
    """

    def __init__(
        self,
        width: int,
        *,
        lower: int | None,
        upper: int | None,
        kernel_size: int,
        drop_paths: Sequence[float],
        layer_scale: float,
    ) -> None:
        super().__init__()
        self.down = (
            nn.Identity()
            if lower is None
            else nn.Sequential(nn.Conv2d(lower, width, 2, 2), LayerNorm2d(width, eps=1e-6))
        )
        self.up = (
            None
            if upper is None
            # Normalised before it is enlarged, as in the official code: the same values, at a quarter of the
            # cost.
            else nn.Sequential(
                nn.Conv2d(upper, width, 1),
                LayerNorm2d(width, eps=1e-6),
                nn.Upsample(scale_factor=2, mode="nearest"),
            )
        )
        block = partial(ConvNeXtBlock, width, kernel_size=kernel_size, ls_init_value=layer_scale)
        self.blocks = nn.Sequential(*(block(drop_path=rate) for rate in drop_paths))

    def forward(
        self, lower: Float[Tensor, "B _ _ _"], upper: Float[Tensor, "B _ _ _"] | None
    ) -> Float[Tensor, "B C h w"]:
        x = self.down(lower)
        if self.up is not None and upper is not None:
            x = x + self.up(upper)
        return self.blocks(x)


class RevCol(nn.Module):
    """The network, with a classifier.

    Args:
        img_size: height and width in pixels, multiples of 32 with four scales.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: "avg", or "" for no pooling.
        widths: of every scale, finest first.
        depths: blocks of every scale in a column.
        num_columns: columns.
        kernel_size: of the depthwise convolutions.
        drop_path_rate: stochastic depth of a column's last block, rising linearly from 0 in every column.
        layer_scale: initial value of the factor on a block's residual.
        factor: initial value of the factors on what a column gets of the one before.
        memory_saver: what gradient checkpointing does, "checkpoint", "invert" or "chain", see `columns`.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 4, 2),
        num_columns: int = 4,
        kernel_size: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-6,
        factor: float = 0.5,
        memory_saver: str = "checkpoint",
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"{len(widths)} widths do not go with the depths of {len(depths)} scales")
        self.num_classes, self.global_pool = num_classes, global_pool
        self.num_features = self.head_hidden_size = widths[-1]
        self.stride = STEM * 2 ** (len(widths) - 1)
        self.memory_saver = require_saver(memory_saver)
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(
            self._checked(img_size),
            STEM,
            in_chans,
            widths[0],
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            output_fmt="NHWC",
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.columns = nn.ModuleList()
        for column in range(num_columns):
            above = [*widths[1:], None] if column else [None] * len(widths)
            below = [None, *widths[:-1]]
            levels = (
                Level(
                    width,
                    lower=lower,
                    upper=upper,
                    kernel_size=kernel_size,
                    drop_paths=own,
                    layer_scale=layer_scale,
                )
                for width, lower, upper, own in zip(widths, below, above, rates, strict=True)
            )
            shapes = [(width, 1, 1) for width in widths] if column else []
            self.columns.append(Column(levels, shapes=shapes, factor=factor))
        self._add_classifier(num_classes)
        self.feature_info = [
            {
                "num_chs": width,
                "reduction": STEM * 2**scale,
                "module": f"columns.{num_columns - 1}.levels.{scale}",
            }
            for scale, width in enumerate(widths)
        ]
        self.apply(_initialise)

    def _checked(self, img_size: int | Sequence[int]) -> tuple[int, int]:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if height % self.stride or width % self.stride:
            raise ValueError(f"images of {height} x {width} pixels: this needs multiples of {self.stride}")
        return height, width

    @property
    def saver(self) -> MemorySaver | None:
        """What gradient checkpointing asks for now."""
        return self.memory_saver if self.grad_checkpointing and self.training else None

    def stem(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """What enters every column."""
        return rearrange(self.patch_embed(images), "b h w d -> b d h w")

    def states(self, stem: Float[Tensor, "B D h w"], saver: MemorySaver | None = None) -> Iterator[States]:
        """The maps of all scales after every column, see `run_columns`."""
        return run_columns(list(self.columns), stem, saver=saver)

    def forward_features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """The coarsest map of the last column, channels last; there is no norm before pooling."""
        return self.forward_intermediates(x)[0]

    def forward_intermediates(self, x: Float[Tensor, "B C H W"]) -> tuple[Tensor, list[Tensor]]:
        """Features, and all maps [B, D, h, w] of the last column, finest first."""
        *_, maps = self.states(self.stem(x), self.saver)
        return rearrange(maps[-1], "b d h w -> b h w d"), list(maps)

    def forward_head(self, x: Float[Tensor, "B h w D"], pre_logits: bool = False) -> Tensor:
        """Class scores, or the pooled and normalised features."""
        x = self.fc_norm(x.mean((1, 2)) if self.global_pool == "avg" else x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Take images of another size."""
        self.patch_embed.set_input_size(img_size=self._checked(img_size))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep fewer activations when training, see `memory_saver`."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers in the order in which they are computed, for learning rates that decay with depth; coarse:
        columns."""
        level = "" if coarse else r"\.(?:levels|gammas)\.(\d+)"
        return {"stem": r"^patch_embed", "blocks": rf"^columns\.(\d+){level}"}

    def _add_classifier(self, num_classes: int) -> None:
        self.fc_norm = nn.LayerNorm(self.num_features, eps=1e-6) if num_classes else nn.Identity()
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes, with new weights."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        with torch.device(self.patch_embed.proj.weight.device):
            self._add_classifier(num_classes)


def _initialise(module: nn.Module) -> None:
    """As ConvNeXt: matrices and kernels normal(.02), biases 0."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _build(name: str, pretrained: bool, sizes: dict[str, Any], options: dict[str, Any]) -> RevCol:
    getter = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(RevCol, name, pretrained, feature_cfg=getter, **{**sizes, **options})


def revcol_tiny(pretrained: bool = False, **options: Any) -> RevCol:
    """RevCol-T: 30.5 M parameters."""
    return _build("revcol_tiny", pretrained, {"num_columns": 4}, options)


def revcol_small(pretrained: bool = False, **options: Any) -> RevCol:
    """RevCol-S: 60.6 M parameters."""
    return _build("revcol_small", pretrained, {"num_columns": 8}, options)


def revcol_base(pretrained: bool = False, **options: Any) -> RevCol:
    """RevCol-B: 138.6 M parameters."""
    sizes = {"widths": (72, 144, 288, 576), "depths": (1, 1, 3, 2), "num_columns": 16}
    return _build("revcol_base", pretrained, sizes, options)


_ENTRIES = (revcol_tiny, revcol_small, revcol_base)
# timm looks for this name when a model joins its registry.
default_cfgs = generate_default_cfgs(untrained(entry.__name__ for entry in _ENTRIES))
for _entry in _ENTRIES:
    register_model(_entry)
