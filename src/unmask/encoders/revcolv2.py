"""The backbone of RevColV2: reversible columns of ViT blocks, first from the bottom up, then top down.

RevColV2: Exploring Disentangled Representations in Masked Image Modeling. Qi Han, Yuxuan Cai, Xiangyu Zhang.
NeurIPS 2023, arXiv 2309.01005.

A column has four levels of one transformer block each, all of one width and resolution. Columns that go up
from the patches to the top level are an encoder; columns that go down from the top level are the decoder of
pre-training. Both are kept: the last column's top level is for classification, all of its levels for dense
tasks.

No code or weights were ever published. Everything beyond the sentences above is our reconstruction;
docs/methods/revcolv2.md lists every decision.

timm has no such models; these follow its conventions and join its registry, so that `timm.create_model`
builds them once this module is imported.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers import PatchEmbed, calculate_drop_path_rates
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unmask.encoders.columns import Column, MemorySaver, States, require_saver, run_columns
from unmask.encoders.initialise import xavier_linear
from unmask.encoders.published import untrained
from unmask.patches import sincos_table

# A level's tokens between encoder and decoder columns: (level, tokens) -> tokens.
Join = Callable[[int, Tensor], Tensor]


class Level(nn.Module):
    """One level of a column: its inputs, each normalised, are added up, mixed by a matrix and pass a block.

    Args:
        dim: width.
        two: whether the column before has a level that comes in too.
    """

    def __init__(
        self, dim: int, *, heads: int, ratio: float, qkv_bias: bool, drop_path: float, two: bool
    ) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.norm_lower = norm(dim)
        self.norm_upper = norm(dim) if two else None
        self.fuse = nn.Linear(dim, dim)
        self.block = Block(
            dim, heads, mlp_ratio=ratio, qkv_bias=qkv_bias, drop_path=drop_path, norm_layer=norm
        )

    def forward(
        self, lower: Float[Tensor, "B N D"], upper: Float[Tensor, "B N D"] | None
    ) -> Float[Tensor, "B N D"]:
        x = self.norm_lower(lower)
        if self.norm_upper is not None and upper is not None:
            x = x + self.norm_upper(upper)
        return self.block(self.fuse(x))


class RevColViT(nn.Module):
    """The backbone, with a classifier.

    Args:
        img_size: height and width in pixels, multiples of `patch_size`.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: "avg", or "" for no pooling.
        embed_dim: width of all levels.
        up_columns: columns of the encoder, at least one.
        down_columns: columns of the decoder; without any, the encoder's last column is the output.
        num_levels: levels of a column.
        mlp_ratio: width of the hidden layer of a block, as a multiple of `embed_dim`.
        factor: initial value of the factors on what a column gets of the one before.
        output: what features are: "top", the top level of the last column, or "all", its levels side by side,
            bottom first.
        decoder_order: whether decoder columns go "down" from the top level or "up" from the bottom. Downwards
            the top level comes first in its column, and late blocks do not lead to it (`idle_blocks`).
        memory_saver: what gradient checkpointing does, "checkpoint", "invert" or "chain", see `columns`.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 640,
        up_columns: int = 2,
        down_columns: int = 2,
        num_levels: int = 4,
        num_heads: int = 10,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        factor: float = 0.5,
        output: str = "top",
        decoder_order: str = "down",
        memory_saver: str = "checkpoint",
    ) -> None:
        super().__init__()
        if up_columns < 1 or down_columns < 0 or num_levels < 2:
            raise ValueError(
                f"{up_columns=}, {down_columns=} and {num_levels=}: needed are one column up, and two levels"
            )
        if embed_dim % num_heads:
            raise ValueError(f"a width of {embed_dim} cannot have {num_heads} heads: choose a divisor of it")
        for name, value, possible in (
            ("output", output, _OUTPUTS),
            ("decoder_order", decoder_order, _ORDERS),
        ):
            if value not in possible:
                raise ValueError(f"{name}={value!r}: possible are {', '.join(possible)}")
        self.num_classes, self.global_pool = num_classes, global_pool
        self.embed_dim, self.num_levels, self.patch_size = embed_dim, num_levels, patch_size
        self.output, self.decoder_order = output, decoder_order
        self.num_features = self.head_hidden_size = embed_dim * (num_levels if output == "all" else 1)
        self.memory_saver = require_saver(memory_saver)
        self.grad_checkpointing = False
        size = img_size if isinstance(img_size, int) else tuple(img_size)
        self.patch_embed = PatchEmbed(size, patch_size, in_chans, embed_dim)
        self._place()
        rates = iter(calculate_drop_path_rates(drop_path_rate, num_levels * (up_columns + down_columns)))
        level = partial(Level, embed_dim, heads=num_heads, ratio=mlp_ratio, qkv_bias=qkv_bias)

        def column(first: bool) -> Column:
            uppers = [not first] * (num_levels - 1) + [False]
            levels = [level(two=two, drop_path=next(rates)) for two in uppers]
            return Column(levels, shapes=[] if first else [(embed_dim,)] * num_levels, factor=factor)

        self.up = nn.ModuleList(column(not number) for number in range(up_columns))
        self.down = nn.ModuleList(column(False) for _ in range(down_columns))
        self._add_classifier(num_classes)
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": patch_size, "module": f"level{level}"}
            for level in range(num_levels)
        ]
        self.apply(xavier_linear)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))

    def _place(self) -> None:
        """Fixed positions of the patches of the present image size."""
        self.grid = self.patch_embed.grid_size
        table = sincos_table(self.grid, self.embed_dim)
        # Saved with the weights: libraries that build a model without memory fill in what the file holds.
        self.register_buffer("pos_embed", table.to(self.patch_embed.proj.weight.device))

    @property
    def saver(self) -> MemorySaver | None:
        """What gradient checkpointing asks for now."""
        return self.memory_saver if self.grad_checkpointing and self.training else None

    def columns(
        self,
        tokens: Float[Tensor, "B P D"],
        join: Join,
        *,
        top_only: bool = False,
        saver: MemorySaver | None = None,
    ) -> Iterator[States]:
        """The levels after every column, bottom first (see `run_columns`).

        Args:
            tokens: with positions; they enter every column of the encoder.
            join: what becomes of every level between encoder and decoder.
            top_only: leave out what the last column's top level does not need: of the decoder's columns only
                the uppermost levels come out.
        """
        states: States = ()
        for states in run_columns(list(self.up), tokens, saver=saver):
            yield states
        if not len(self.down):
            return
        flip = -1 if self.decoder_order == "down" else 1
        joined = tuple(join(level, state) for level, state in enumerate(states))[::flip]
        counts = self._needed() if top_only else None
        for states in run_columns(list(self.down), joined[0], joined, counts=counts, saver=saver):
            yield states[::flip]

    def _needed(self) -> list[int]:
        """Of every decoder column the levels, in its order, that lead to the last column's top level."""
        if self.decoder_order == "up":
            return [self.num_levels] * len(self.down)
        return [min(self.num_levels, number) for number in range(len(self.down), 0, -1)]

    @property
    def idle_blocks(self) -> list[nn.Module]:
        """Levels of the decoder on which features do not depend: with output="top" they learn only by a loss
        of other levels."""
        if self.output == "all":
            return []
        needed = zip(self.down, self._needed(), strict=True)
        return [level for column, count in needed for level in list(column.levels)[count:]]

    def features(self, levels: Sequence[Float[Tensor, "B N D"]]) -> Float[Tensor, "B N E"]:
        """What features are, of the last column's levels."""
        return torch.cat(list(levels), dim=-1) if self.output == "all" else levels[-1]

    def forward_features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N E"]:
        """Tokens in raster order; there is no final norm before pooling."""
        *_, levels = self._whole(x, top_only=self.output == "top")
        return self.features(levels)

    def forward_intermediates(self, x: Float[Tensor, "B C H W"]) -> tuple[Tensor, list[Tensor]]:
        """Tokens, and the levels of the last column as maps [B, D, h, w] of one size, bottom first."""
        *_, levels = self._whole(x, top_only=False)
        maps = [rearrange(level, "b (h w) d -> b d h w", h=self.grid[0]) for level in levels]
        return self.features(levels), maps

    def _whole(self, images: Tensor, *, top_only: bool) -> Iterator[States]:
        tokens = self.patch_embed(images) + self.pos_embed
        return self.columns(
            tokens, lambda _, state: state + self.pos_embed, top_only=top_only, saver=self.saver
        )

    def forward_head(self, x: Float[Tensor, "B N E"], pre_logits: bool = False) -> Tensor:
        """Class scores, or the pooled and normalised features."""
        x = self.fc_norm(x.mean(1) if self.global_pool == "avg" else x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Take images of another size; positions follow."""
        height, width = img_size
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images of {height} x {width} pixels: needed are multiples of {self.patch_size}"
            )
        self.patch_embed.set_input_size(img_size=img_size)
        self._place()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep fewer activations when training, see `memory_saver`."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Blocks in the order in which they are computed, for learning rates that decay with depth; coarse:
        columns."""
        level = "" if coarse else r"\.(?:levels|gammas)\.(\d+)"
        return {"stem": r"^patch_embed", "up": rf"^up\.(\d+){level}", "down": rf"^down\.(\d+){level}"}

    def _add_classifier(self, num_classes: int) -> None:
        self.fc_norm = nn.LayerNorm(self.num_features, eps=1e-6) if num_classes else nn.Identity()
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes, with new weights."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        with torch.device(self.pos_embed.device):
            self._add_classifier(num_classes)


_OUTPUTS, _ORDERS = ("top", "all"), ("down", "up")


def _build(name: str, pretrained: bool, sizes: dict[str, Any], options: dict[str, Any]) -> RevColViT:
    getter = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(RevColViT, name, pretrained, feature_cfg=getter, **{**sizes, **options})


def revcolv2_small_patch16_224(pretrained: bool = False, **options: Any) -> RevColViT:
    """A size of ours: 31.5 M parameters."""
    sizes = {"embed_dim": 384, "num_heads": 6}
    return _build("revcolv2_small_patch16_224", pretrained, sizes, options)


def revcolv2_base_patch16_224(pretrained: bool = False, **options: Any) -> RevColViT:
    """For RevColV2-B, of 88 M parameters (recalled, unverified) and unknown shape: 86.5 M parameters."""
    sizes = {"embed_dim": 640, "num_heads": 10}
    return _build("revcolv2_base_patch16_224", pretrained, sizes, options)


def revcolv2_large_patch16_224(pretrained: bool = False, **options: Any) -> RevColViT:
    """For RevColV2-L, of 327 M parameters (recalled, unverified): 329.4 M parameters."""
    sizes = {"embed_dim": 1024, "num_heads": 16, "up_columns": 4}
    return _build("revcolv2_large_patch16_224", pretrained, sizes, options)


_ENTRIES = (revcolv2_small_patch16_224, revcolv2_base_patch16_224, revcolv2_large_patch16_224)
# timm looks for this name when a model joins its registry.
default_cfgs = generate_default_cfgs(untrained(entry.__name__ for entry in _ENTRIES))
for _entry in _ENTRIES:
    register_model(_entry)
