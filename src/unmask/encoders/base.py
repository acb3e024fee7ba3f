"""What every encoder is, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unmask.masking import Mask

ImageSize = int | tuple[int, int]


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Both sides of an image, of which a single number is a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


@dataclass(frozen=True, kw_only=True)
class Features:
    """What an encoder returns.

    Attributes:
        patches: [B, N, D], after the final norm, in raster order of the encoder's `feature_grid`; of
            `Encoder.visible` [B, V, D], only the visible ones.
        cls: [B, D], the class token after the final norm; None if the encoder has none.
        taps: raw states asked for with `take`, in that order; of a ViT the output of a block with all prefix
            tokens [B, prefix + N, D], of a Swin the output of a stage [B, h * w, C].
        pyramid: maps from fine to coarse, [B, C, h, w] each; of `DroppingEncoder.visible` the scales of each
            visible patch [B, V, u, C], u positions in raster order. Empty for encoders of one scale.
    """

    patches: Float[Tensor, "B N D"]
    cls: Float[Tensor, "B D"] | None = None
    taps: tuple[Tensor, ...] = ()
    pyramid: tuple[Float[Tensor, "_ _ _ _"], ...] = ()

    def every_scale(self) -> Float[Tensor, "B V E"]:
        """All that `DroppingEncoder.visible` knows of each patch: its scales side by side, or `patches`."""
        if not self.pyramid:
            return self.patches
        return torch.cat([scale.flatten(2) for scale in self.pyramid], dim=2)

    def pooled(self, pool: str) -> Float[Tensor, "B _"]:
        """One vector an image.

        Args:
            pool: "mean", "max" or "std" over the patches, "cls", the class token; or several of them joined
                by "+", one behind the other: "cls+mean".

        Raises:
            ValueError: another word, or "cls" where there is no class token.
        """
        possible = [part for part in _POOLS if part != "cls" or self.cls is not None]
        if not set(pool.split("+")) <= set(possible):
            raise ValueError(
                f"cannot pool by {pool!r}: possible are {', '.join(possible)}, and several joined by +"
            )
        return torch.cat([_POOLS[part](self) for part in pool.split("+")], dim=1)


_POOLS: dict[str, Callable[[Features], Any]] = {
    "mean": lambda features: features.patches.mean(1),
    "max": lambda features: features.patches.amax(1),
    "std": lambda features: features.patches.std(1, correction=0),
    "cls": lambda features: features.cls,
}


class Encoder(nn.Module, ABC):
    """A backbone that sees every patch; hidden ones are replaced by a token.

    Attributes:
        model: the backbone itself, an ordinary timm model; its state_dict is what is exported.
        architecture: what rebuilds it, `timm.create_model(**architecture)`; plain data.
        image_size: height and width in pixels.
        channels: of the input images.
        patch_size: pixels along the side of a patch, the smallest thing that can be hidden.
        grid: rows and columns of patches; masks live on it.
        stride: pixels along the side of an output feature (a ViT's patch size; 32 for Swin).
        dim: width of the output features.
        token_dim: width of a patch embedding, where hidden patches are replaced.
        depth: number of blocks (ViT) or stages (Swin) that `take` can name.
        visible_dim: width of `Features.every_scale`; `dim` for encoders of one scale.
        prefix: tokens in front of the patches in a tap: class token and registers.
        has_cls: whether the first of them is a class token.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
        pyramid_strides: pixels along the side of a place in each of the maps of `pyramid`.
        pyramid_dims: their widths.
        idle: number of weights on which `Features.patches` do not depend, but `Features.pyramid` does.
    """

    idle: int = 0

    def __init__(
        self,
        model: nn.Module,
        *,
        architecture: dict[str, Any],
        image_size: tuple[int, int],
        channels: int,
        patch_size: int,
        stride: int,
        dim: int,
        token_dim: int,
        depth: int,
        visible_dim: int | None = None,
        pyramid_strides: tuple[int, ...] | None = None,
        pyramid_dims: tuple[int, ...] | None = None,
        prefix: int = 0,
        has_cls: bool = False,
    ) -> None:
        super().__init__()
        if image_size[0] % stride or image_size[1] % stride:
            raise ValueError(
                f"images of {image_size[0]} x {image_size[1]} pixels: this encoder needs multiples of "
                f"{stride}, for instance {max(1, round(image_size[0] / stride)) * stride} x "
                f"{max(1, round(image_size[1] / stride)) * stride}"
            )
        self.model = model
        self.architecture = architecture
        self.image_size = image_size
        self.channels = channels
        self.patch_size = patch_size
        self.grid = image_size[0] // patch_size, image_size[1] // patch_size
        self.stride = stride
        self.dim = dim
        self.token_dim = token_dim
        self.depth = depth
        self.visible_dim = dim if visible_dim is None else visible_dim
        self.pyramid_strides = (stride,) * 4 if pyramid_strides is None else pyramid_strides
        self.pyramid_dims = (dim,) * 4 if pyramid_dims is None else pyramid_dims
        self.prefix = prefix
        self.has_cls = has_cls
        self.checkpointing = False

    @property
    def feature_grid(self) -> tuple[int, int]:
        """Rows and columns of output features."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    @abstractmethod
    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        mask: Mask | None = None,
        token: Float[Tensor, "1 1 E"] | None = None,
        take: Sequence[int] = (),
    ) -> Features:
        """Features of every patch.

        Args:
            mask: hidden patches, on `grid`.
            token: what replaces the embedding of a hidden patch, before position information; needed with
                `mask`.
            take: blocks (stages) whose raw output is wanted in `taps`; negative ones count from the end.
        """

    @abstractmethod
    def pyramid(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """What the backbone itself has for dense tasks: maps [B, `pyramid_dims`[i], H / `pyramid_strides`[i],
        W / `pyramid_strides`[i]], fine to coarse, or from early to late where strides are equal.

        * plain ViTs, EVA, BEiT: after a quarter, half, three quarters and all of the blocks, each through the
          final norm; all at the stride of a patch;
        * Swin, SwinV2: every stage, at strides 4, 8, 16, 32; the last one after the final norm;
        * HiViT, Fast-iTPN: strides 4, 8, 16 (of patches of 16 pixels), without a norm, as they have none;
        * RevCol: strides 4, 8, 16, 32 of the last column, without a norm;
        * RevColV2: the levels of the last column, bottom first, at the stride of a patch, without a norm.

        `unmask.necks` makes maps of strides 4, 8, 16 and 32 of all of them.

        Args:
            images: normalised, of `image_size`.
        """

    def hidden(
        self, images: Float[Tensor, "B C H W"], mask: Mask, token: Float[Tensor, "1 1 E"]
    ) -> Float[Tensor, "B N D"]:
        """What `forward` says of hidden patches; at visible ones anything finite.

        For methods that score hidden patches only: an encoder may leave out what only the others need.
        """
        return self(images, mask, token).patches

    def _tap_indices(self, take: Sequence[int]) -> list[int]:
        for index in take:
            if not -self.depth <= index < self.depth:
                raise ValueError(f"there is no block {index}: this encoder has blocks 0 to {self.depth - 1}")
        return [index % self.depth for index in take]

    def _run(self, block: Callable[..., Tensor], x: Tensor, **inputs: Any) -> Tensor:
        """One block, its activations recomputed in the backward pass if `checkpointing`."""
        if self.checkpointing and self.training:
            return checkpoint(block, x, use_reentrant=False, **inputs)
        return block(x, **inputs)


class DroppingEncoder(Encoder):
    """An encoder that can also leave hidden patches out and compute only the visible ones (ViTs)."""

    @abstractmethod
    def visible(self, images: Float[Tensor, "B C H W"], mask: Mask, take: Sequence[int] = ()) -> Features:
        """Features of the visible patches only: `patches` is [B, V, D], in raster order."""


def require_dropping(encoder: Encoder, by: str) -> DroppingEncoder:
    """The encoder, checked to be one that can leave patches out; for methods that encode only visible
    patches.
    """
    if not isinstance(encoder, DroppingEncoder):
        raise ValueError(
            f"{by} encodes only visible patches, but a {type(encoder.model).__name__} cannot leave any "
            "out (its windows or relative positions need the full grid). Use a plain ViT such as "
            "vit_small_patch16_224, or SimMIM."
        )
    return encoder


def require_busy(encoder: Encoder, by: str) -> Encoder:
    """The encoder, checked to have no part that would never learn; for methods that use nothing of its output
    but `Features.patches`.
    """
    if encoder.idle:
        raise ValueError(
            f"{by} uses only the top level of a {type(encoder.model).__name__}, and {encoder.idle:,} of its "
            "weights do not lead there: they would never learn. Let all levels be features "
            "(encoder.output=all) or decoder columns end at the top (encoder.decoder_order=up), or use "
            "revcolv2 or MAE, which train all of them."
        )
    return encoder
