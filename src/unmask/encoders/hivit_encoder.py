"""HiViT and Fast-iTPN behind the common interface: masks live on their units."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import DroppingEncoder, Encoder, Features
from unmask.encoders.units import SCALES, UnitTransformer, as_map
from unmask.masking import Grid, Mask


class HiViTEncoder(DroppingEncoder):
    """A `HiViT` or `FastITPN` behind the common interface.

    Masks live on the units. A hidden unit is left out, or its token replaced at stride 16, before positions.
    `Features.pyramid` holds all three scales: maps of the whole image, or of `visible` the units that are
    left [B, V, positions of the unit, C]. Where hidden units are only replaced, the two finer maps still show
    their own pixels (nothing else sees them there): a method that predicts from these maps must hide them.
    """

    def __init__(self, model: UnitTransformer, *, architecture: dict[str, Any]) -> None:
        super().__init__(
            model,
            architecture=architecture,
            image_size=model.patch_embed.img_size,
            channels=model.patch_embed.proj.in_channels,
            patch_size=model.patch_size,
            stride=model.patch_size,
            dim=model.embed_dim,
            token_dim=model.embed_dim,
            depth=len(model.attention_blocks),
            # 16 positions of a quarter, 4 of half the width, one of all of it.
            visible_dim=7 * model.embed_dim,
            pyramid_strides=tuple(model.patch_size // side for side in SCALES),
            pyramid_dims=(model.embed_dim // 4, model.embed_dim // 2, model.embed_dim),
        )
        self.model: UnitTransformer = model

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 D"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        fine, middle, tokens = self.model.stem(self.model.units(images))
        if mask is not None:
            assert token is not None, "a mask needs the token that replaces hidden patches"
            tokens = mask.replace(tokens, token)
        tokens, taps = self._attend(tokens + self.model.pos_embed, self.model.positions, take)
        pyramid = tuple(as_map(scale, self.grid) for scale in (fine, middle, tokens))
        return Features(patches=tokens, taps=taps, pyramid=pyramid)

    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        return self(images).pyramid

    def visible(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask,
        take: Sequence[int] = (),
        *,
        shifted_positions: bool = False,
    ) -> Features:
        """Features of the visible units only, in raster order.

        Args:
            shifted_positions: positions as iTPN's released pre-training has them, resized to their own grid
                by a factor that is a tenth of a patch too large.
        """
        fine, middle, tokens = self.model.stem(mask.visible(self.model.units(images)))
        index = mask.visible_index
        table = self.model.pos_embed
        places = (_shifted(table, self.grid) if shifted_positions else table).expand(len(images), -1, -1)
        positions = self.model.positions[index[:, :, None], index[:, None, :]]
        tokens, taps = self._attend(tokens + mask.visible(places), positions, take)
        pyramid = (fine.flatten(2, 3), middle.flatten(2, 3), tokens[:, :, None])
        return Features(patches=tokens, taps=taps, pyramid=pyramid)

    def _attend(
        self, tokens: Tensor, positions: Tensor, take: Sequence[int]
    ) -> tuple[Float[Tensor, "B N D"], tuple[Tensor, ...]]:
        wanted = self._tap_indices(take)
        states = {}
        for index, block in enumerate(self.model.attention_blocks):
            tokens = self._run(block, tokens, positions=positions)
            if index in wanted:
                states[index] = tokens
        return tokens, tuple(states[index] for index in wanted)


def require_units(encoder: Encoder, by: str) -> HiViTEncoder:
    """The encoder, checked to have scales that keep units apart; for methods that build a pyramid on them."""
    if not isinstance(encoder, HiViTEncoder):
        raise ValueError(
            f"{by} needs a backbone whose scales keep units apart, but got a {type(encoder.model).__name__}; "
            "use for instance itpn_base_patch16_224, fast_itpn_tiny_patch16_224 or hivit_tiny_patch16_224"
        )
    return encoder


def _shifted(table: Float[Tensor, "1 N D"], grid: Grid) -> Float[Tensor, "1 N D"]:
    """A table of positions resized to `grid` by (side + 0.1) / side, a guard against rounding down."""
    places = rearrange(table, "1 (h w) d -> 1 d h w", h=grid[0])
    factors = tuple((side + 0.1) / side for side in grid)
    return rearrange(F.interpolate(places, scale_factor=factors, mode="bicubic"), "1 d h w -> 1 (h w) d")
