"""The backbone of RevColV2 behind the common interface."""

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import DroppingEncoder, Features
from unmask.encoders.revcol_encoder import saver_of
from unmask.encoders.revcolv2 import Join, RevColViT
from unmask.masking import Mask


class RevColViTEncoder(DroppingEncoder):
    """A `RevColViT` behind the common interface.

    `Features.patches` are the last column's top level (or all levels side by side, by the model's `output`),
    without a norm. `Features.pyramid` holds all levels of the last column, bottom first: maps of one size, of
    `visible` [B, V, 1, D]. `take` names columns, those of the encoder first: their top level.
    """

    def __init__(self, model: RevColViT, *, architecture: dict[str, Any]) -> None:
        super().__init__(
            model,
            architecture=architecture,
            image_size=model.patch_embed.img_size,
            channels=model.patch_embed.proj.in_channels,
            patch_size=model.patch_size,
            stride=model.patch_size,
            dim=model.num_features,
            token_dim=model.embed_dim,
            depth=len(model.up) + len(model.down),
            visible_dim=model.num_levels * model.embed_dim,
            pyramid_strides=(model.patch_size,) * model.num_levels,
            pyramid_dims=(model.embed_dim,) * model.num_levels,
        )
        self.model: RevColViT = model
        self.idle = sum(one.numel() for block in model.idle_blocks for one in block.parameters())

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 D"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        tokens = self.model.patch_embed(images)
        if mask is not None:
            assert token is not None, "a mask needs the token that replaces hidden patches"
            tokens = mask.replace(tokens, token)
        positions = self.model.pos_embed
        levels, taps = self._run_columns(tokens + positions, lambda _, state: state + positions, take)
        maps = tuple(rearrange(level, "b (h w) d -> b d h w", h=self.grid[0]) for level in levels)
        return Features(patches=self.model.features(levels), taps=taps, pyramid=maps)

    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        return self(images).pyramid

    def visible(self, images: Float[Tensor, "B C H W"], mask: Mask, take: Sequence[int] = ()) -> Features:
        tokens, positions = self._visible_tokens(images, mask)
        levels, taps = self._run_columns(tokens, lambda _, state: state + positions, take)
        scales = tuple(level[:, :, None] for level in levels)
        return Features(patches=self.model.features(levels), taps=taps, pyramid=scales)

    def complete(
        self, images: Float[Tensor, "B C H W"], mask: Mask, tokens: Sequence[Float[Tensor, "1 1 D"]]
    ) -> tuple[Float[Tensor, "B N D"], ...]:
        """All levels of the last column for all patches, bottom first, as in pre-training: the encoder's
        columns see the visible patches, the decoder's all of them.

        Args:
            tokens: what stands for a hidden patch at every level between encoder and decoder.
        """
        seen, _ = self._visible_tokens(images, mask)

        def join(level: int, state: Tensor) -> Tensor:
            return mask.restore(state, tokens[level]) + self.model.pos_embed

        levels, _ = self._run_columns(seen, join, ())
        return levels

    def _visible_tokens(self, images: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """Visible patches with their positions, and these positions."""
        positions = mask.visible(self.model.pos_embed.expand(mask.hidden.shape[0], -1, -1))
        return mask.visible(self.model.patch_embed(images)) + positions, positions

    def _run_columns(
        self, tokens: Float[Tensor, "B P D"], join: Join, take: Sequence[int]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Levels of the last column, and what `take` asks for."""
        wanted = self._tap_indices(take)
        saver = saver_of(self, self.model.memory_saver, take)
        tops = {}
        for column, levels in enumerate(self.model.columns(tokens, join, saver=saver)):
            if column in wanted:
                tops[column] = levels[-1]
        return levels, tuple(tops[column] for column in wanted)
