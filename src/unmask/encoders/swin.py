"""Swin and SwinV2 of timm."""

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor

from unmask.encoders.base import Encoder, Features
from unmask.masking import Grid, Mask


class SwinEncoder(Encoder):
    """timm's `SwinTransformer` and `SwinTransformerV2`.

    Masks live on the grid of 4-pixel patches, features come out at a stride of 32 pixels (with four stages).
    Windows need the full grid, so it cannot leave patches out.
    """

    def __init__(self, model: SwinTransformer | SwinTransformerV2, *, architecture: dict[str, Any]) -> None:
        patch_size = model.patch_embed.patch_size[0]
        super().__init__(
            model,
            architecture=architecture,
            image_size=model.patch_embed.img_size,
            channels=model.patch_embed.proj.in_channels,
            patch_size=patch_size,
            stride=patch_size * 2 ** (len(model.layers) - 1),
            dim=model.num_features,
            token_dim=model.patch_embed.proj.out_channels,
            depth=len(model.layers),
            pyramid_strides=tuple(patch_size * 2**stage for stage in range(len(model.layers))),
            pyramid_dims=tuple(info["num_chs"] for info in model.feature_info),
        )
        self.model: SwinTransformer | SwinTransformerV2 = model

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 E"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        wanted = self._tap_indices(take)
        x = self.model.patch_embed(images)  # [B, h, w, E], after the patch norm: the token is not normalised
        if mask is not None:
            assert token is not None, "a mask needs the token that replaces hidden patches"
            replaced = mask.replace(rearrange(x, "b h w e -> b (h w) e"), token)
            x = rearrange(replaced, "b (h w) e -> b h w e", h=self.grid[0])
        stages = []
        for stage in self.model.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = self._run(block, x)
            stages.append(x)
        return Features(
            patches=rearrange(self.model.norm(x), "b h w d -> b (h w) d"),
            taps=tuple(rearrange(stages[index], "b h w d -> b (h w) d") for index in wanted),
            pyramid=tuple(rearrange(state, "b h w d -> b d h w") for state in stages),
        )

    @property
    def windows(self) -> list[list[int]]:
        """Height and width of the windows of every stage, in places of its map; plain data."""
        return [list(stage.blocks[0].window_size) for stage in self.model.layers]

    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        features = self(images)
        last = rearrange(features.patches, "b (h w) d -> b d h w", h=self.feature_grid[0])
        return (*features.pyramid[:-1], last)


def fitting_window(grid: Grid, stages: int, largest: int) -> int:
    """The largest window, up to `largest`, that tiles the maps of all stages, so that no window is padded.

    A stage that is not larger than the window is one window. SimMIM uses 6 at 192 pixels where the name says
    7.
    """
    sides = {side // 2**stage for side in grid for stage in range(stages)}
    for window in range(largest, 2, -1):
        if all(side <= window or side % window == 0 for side in sides):
            return window
    return largest  # timm pads
