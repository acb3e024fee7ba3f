"""RevCol behind the common interface."""

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import Encoder, Features
from unmask.encoders.columns import MemorySaver
from unmask.encoders.revcol import STEM, RevCol
from unmask.masking import Mask


class RevColEncoder(Encoder):
    """A `RevCol` behind the common interface.

    Masks live on the grid of 4-pixel patches, features come out at a stride of 32 pixels. Convolutions need
    the full grid, so it cannot leave patches out. `take` names columns: their coarsest map [B, h * w, C].
    """

    def __init__(self, model: RevCol, *, architecture: dict[str, Any]) -> None:
        super().__init__(
            model,
            architecture=architecture,
            image_size=model.patch_embed.img_size,
            channels=model.patch_embed.proj.in_channels,
            patch_size=STEM,
            stride=model.stride,
            dim=model.num_features,
            token_dim=model.patch_embed.proj.out_channels,
            depth=len(model.columns),
            pyramid_strides=tuple(info["reduction"] for info in model.feature_info),
            pyramid_dims=tuple(info["num_chs"] for info in model.feature_info),
        )
        self.model: RevCol = model

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 E"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        wanted = self._tap_indices(take)
        stem = self.model.stem(images)  # after the patch norm: the token is not normalised
        if mask is not None:
            assert token is not None, "a mask needs the token that replaces hidden patches"
            replaced = mask.replace(rearrange(stem, "b d h w -> b (h w) d"), token)
            stem = rearrange(replaced, "b (h w) d -> b d h w", h=self.grid[0])
        states = {}
        for column, maps in enumerate(self.model.states(stem, saver_of(self, self.model.memory_saver, take))):
            if column in wanted:
                states[column] = rearrange(maps[-1], "b d h w -> b (h w) d")
        return Features(
            patches=rearrange(maps[-1], "b d h w -> b (h w) d"),
            taps=tuple(states[column] for column in wanted),
            pyramid=maps,
        )

    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        return self(images).pyramid


def saver_of(encoder: Encoder, saver: MemorySaver, take: Sequence[int]) -> MemorySaver | None:
    """How an encoder of columns keeps fewer activations now; columns of a chain show no states."""
    if not (encoder.checkpointing and encoder.training):
        return None
    return "invert" if take and saver == "chain" else saver
