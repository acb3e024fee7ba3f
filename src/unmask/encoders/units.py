"""What HiViT and Fast-iTPN share: an image cut into units, which do not see each other before attention.

A unit is a small map of its own at strides 4 and 8, worked on by channel MLPs and merged two by two; at
stride 16 it is one token, and plain attention sees all of them. So hidden units can be left out.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers import PatchEmbed, calculate_drop_path_rates, resample_abs_pos_embed
from torch import Tensor, nn

from unmask.encoders.hivit_blocks import relative_positions, resized_table
from unmask.encoders.initialise import normal_linear
from unmask.masking import Grid
from unmask.patches import sincos_table

SCALES = (4, 2, 1)  # rows and columns of a unit's map at stride 4, 8 and 16


class UnitTransformer(nn.Module):
    """A backbone of units, with a classifier; families differ in what it is built of.

    Args:
        img_size: height and width in pixels, multiples of `patch_size`.
        patch_size: side of a unit in pixels, a multiple of 4.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: "avg", or "" for no pooling.
        embed_dim: width at stride 16; a quarter and a half of it at strides 4 and 8.
        depths: blocks at strides 4, 8 and 16.
        patch_norm: normalise the patch embeddings.
        stem_block: makes a block of strides 4 and 8, of its width and rate of stochastic depth.
        merge: makes what joins two by two positions of a width.
        block: makes a block of stride 16, of its rate of stochastic depth; takes tokens and `positions`.

    Attributes:
        new_block: `block`, for methods that add some.
        drop_path_rates: of every block at stride 16.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int],
        patch_size: int,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        embed_dim: int,
        depths: Sequence[int],
        patch_norm: bool,
        stem_block: Callable[..., nn.Module],
        merge: Callable[[int], nn.Module],
        block: Callable[..., nn.Module],
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.num_classes, self.global_pool = num_classes, global_pool
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.patch_size = patch_size
        self.grid = unit_grid(img_size, patch_size, embed_dim)
        self.new_block = block
        widths = [embed_dim // 4, embed_dim // 2, embed_dim]
        self.patch_embed = PatchEmbed(
            img_size if isinstance(img_size, int) else tuple(img_size),
            patch_size // 4,
            in_chans,
            widths[0],
            norm_layer=partial(nn.LayerNorm, eps=1e-6) if patch_norm else None,
            output_fmt="NHWC",
        )
        self.pos_embed = nn.Parameter(sincos_table(self.grid, embed_dim))
        self.register_buffer("positions", relative_positions(self.grid), persistent=False)
        all_rates = calculate_drop_path_rates(drop_path_rate, sum(depths))
        rates = iter(all_rates)
        self.blocks = nn.ModuleList()
        self.merges: list[int] = []  # places of the two merges in `blocks`
        for depth, dim in zip(depths[:2], widths[:2], strict=True):
            self.blocks.extend(stem_block(dim, drop_path=next(rates)) for _ in range(depth))
            self.merges.append(len(self.blocks))
            self.blocks.append(merge(dim))
        self.blocks.extend(block(drop_path=next(rates)) for _ in range(depths[2]))
        self.drop_path_rates = all_rates[-depths[2] :] if depths[2] else []
        self._add_classifier(num_classes)
        places = [*(merge - 1 for merge in self.merges), len(self.blocks) - 1]
        self.feature_info = [
            {"num_chs": dim, "reduction": patch_size // side, "module": f"blocks.{place}"}
            for dim, side, place in zip(widths, SCALES, places, strict=True)
        ]
        self.apply(normal_linear)

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

    @torch.no_grad()
    def set_input_size(self, img_size: Sequence[int]) -> None:
        """Take images of another size from now on: positions, absolute and relative, are interpolated."""
        grid = unit_grid(img_size, self.patch_size, self.embed_dim)
        self.patch_embed.set_input_size(img_size=tuple(img_size))
        table = resample_abs_pos_embed(
            self.pos_embed, new_size=list(grid), old_size=list(self.grid), num_prefix_tokens=0
        )
        self.pos_embed = nn.Parameter(table, requires_grad=self.pos_embed.requires_grad)
        self.positions = relative_positions(grid).to(table.device)
        for block in self.attention_blocks:
            own = dict(block.attn.named_parameters()).get("relative_position_bias_table")
            if own is not None:
                block.attn.relative_position_bias_table = nn.Parameter(resized_table(own, self.grid, grid))
        self.grid = grid


def unit_grid(img_size: int | Sequence[int], patch_size: int, embed_dim: int) -> Grid:
    """Rows and columns of units.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    if patch_size % 4 or embed_dim % 4:
        raise ValueError(f"{patch_size=} and {embed_dim=} must be multiples of 4")
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height % patch_size or width % patch_size:
        raise ValueError(f"images of {height} x {width} pixels cannot be cut into units of {patch_size}")
    return height // patch_size, width // patch_size


def as_map(units: Tensor, grid: Grid) -> Float[Tensor, "B C h w"]:
    """Units [B, N, h, w, C], or tokens [B, N, C], of a whole image as one map."""
    if units.ndim == 3:
        units = units[:, :, None, None]
    return rearrange(units, "b (y x) h w c -> b c (y h) (x w)", y=grid[0])


def as_units(scale: Float[Tensor, "B C H W"], grid: Grid) -> Float[Tensor, "B N h w C"]:
    """A map of a whole image as units, the reverse of `as_map`."""
    return rearrange(scale, "b c (y h) (x w) -> b (y x) h w c", y=grid[0], x=grid[1])
