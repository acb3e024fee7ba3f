"""Attention in windows, for plain ViTs on large images: the cost grows with the area, not with its square.

Exploring Plain Vision Transformer Backbones for Object Detection. Yanghao Li, Hanzi Mao, Ross Girshick,
Kaiming He. ECCV 2022, arXiv 2203.16527.

Most blocks see windows of 14 x 14 patches; four, evenly spaced, see all of the image. No weight is added or
renamed, so an encoder goes in and out of windows as it is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.encoders import Encoder, Features
from unmask.encoders.vit import ViTEncoder
from unmask.masking import Mask


class WindowedViTEncoder(ViTEncoder):
    """A plain ViT, most of whose blocks attend within windows.

    Class token and registers, which ViTDet leaves out, are in every window, and their mean over the windows
    goes on. Where windows do not tile the grid, the last ones are smaller. Stochastic depth drops a block for
    single windows, not images.

    Args:
        model: of the encoder that goes into windows; shared with it.
        architecture: what rebuilds the model.
        window: patches along the side of a window, 14 in ViTDet.
        global_blocks: that see all patches, evenly spaced, the last block among them; 4 in ViTDet.
    """

    def __init__(
        self, model: Any, *, architecture: dict[str, Any], window: int = 14, global_blocks: int = 4
    ) -> None:
        super().__init__(model, architecture=architecture)
        if window < 1 or not 0 <= global_blocks <= self.depth:
            raise ValueError(
                f"window={window} must be 1 or more, and global_blocks={global_blocks} lie between 0 and the "
                f"{self.depth} blocks that there are"
            )
        self.window = min(window, self.grid[0]), min(window, self.grid[1])
        whole = evenly_spaced(self.depth, global_blocks)
        self.windowed = [index not in whole for index in range(self.depth)]
        self.strangers: Tensor | None
        self.register_buffer("strangers", self._strangers(), persistent=False)

    def _run(self, block: Any, x: Float[Tensor, "B P D"], **inputs: Any) -> Float[Tensor, "B P D"]:
        windowed = any(
            own is block for own, narrow in zip(self.model.blocks, self.windowed, strict=True) if narrow
        )
        if not windowed or self.window == self.grid:
            return super()._run(block, x, **inputs)
        prefix, patches = x[:, : self.prefix], x[:, self.prefix :]
        windows = split(patches, self.grid, self.window)
        count = windows.shape[1]
        tokens = torch.cat([repeat(prefix, "b p d -> b n p d", n=count), windows], dim=2).flatten(0, 1)
        if self.strangers is not None:
            # Padding is no patch: nothing attends to it.
            inputs["attn_mask"] = repeat(~self.strangers, "n k -> (b n) 1 1 k", b=len(x))
        tokens = rearrange(super()._run(block, tokens, **inputs), "(b n) p d -> b n p d", n=count)
        patches = join(tokens[:, :, self.prefix :], self.grid, self.window)
        return torch.cat([tokens[:, :, : self.prefix].mean(1), patches], dim=1)

    def visible(self, images: Tensor, mask: Mask, take: Sequence[int] = ()) -> Features:
        raise ValueError("windows need the full grid: patches cannot be left out")

    def _strangers(self) -> Bool[Tensor, "n P"] | None:
        """Tokens of each window that are padding; None if windows tile the grid."""
        if all(side % width == 0 for side, width in zip(self.grid, self.window, strict=True)):
            return None
        patches = torch.ones(1, self.grid[0] * self.grid[1], 1)
        padding = split(patches, self.grid, self.window)[0, :, :, 0] == 0
        return torch.cat([padding.new_zeros(len(padding), self.prefix), padding], dim=1)


def in_windows(encoder: Encoder, *, window: int, global_blocks: int) -> WindowedViTEncoder:
    """The same encoder, its weights shared, with attention in windows.

    Raises:
        ValueError: no plain ViT.
    """
    if not isinstance(encoder, ViTEncoder):
        raise ValueError(
            f"a {type(encoder.model).__name__} has positions or windows of its own; window={window} is for "
            "plain ViTs, such as vit_base_patch16_224"
        )
    model: nn.Module = encoder.model
    windowed = WindowedViTEncoder(
        model, architecture=encoder.architecture, window=window, global_blocks=global_blocks
    )
    windowed.checkpointing = encoder.checkpointing
    return windowed.train(encoder.training)


def evenly_spaced(depth: int, count: int) -> list[int]:
    """So many of `depth` blocks, the last among them: 2, 5, 8 and 11 of twelve."""
    return [(index + 1) * depth // count - 1 for index in range(count)]


def split(
    patches: Float[Tensor, "B N D"], grid: tuple[int, int], window: tuple[int, int]
) -> Float[Tensor, "B n M D"]:
    """Windows in raster order, filled up with zeros at the right and the bottom."""
    maps = rearrange(patches, "b (h w) d -> b h w d", h=grid[0])
    maps = F.pad(maps, (0, 0, 0, -grid[1] % window[1], 0, -grid[0] % window[0]))
    return rearrange(maps, "b (y h) (x w) d -> b (y x) (h w) d", h=window[0], w=window[1])


def join(
    windows: Float[Tensor, "B n M D"], grid: tuple[int, int], window: tuple[int, int]
) -> Float[Tensor, "B N D"]:
    """The patches of windows, the reverse of `split`."""
    rows = -(-grid[0] // window[0])
    maps = rearrange(windows, "b (y x) (h w) d -> b (y h) (x w) d", y=rows, h=window[0])
    return maps[:, : grid[0], : grid[1]].flatten(1, 2)
