"""Pixels as they are, at any resolution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import Encoder
from unmask.masking import Mask
from unmask.patches import to_patches
from unmask.targets.base import Target

LossName = Literal["l1", "l2", "smooth_l1"]


def _absolute(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).abs()


def _squared(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square()


def _smooth(prediction: Tensor, target: Tensor) -> Tensor:
    return F.smooth_l1_loss(prediction, target, reduction="none", beta=1.0)


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": _absolute,
    "l2": _squared,
    "smooth_l1": _smooth,
}


class Pixels(Target):
    """Colours as numbers, compared by their difference d: |d|, d^2, or smooth L1 (d^2 / 2 below 1,
    |d| - 1 / 2 above).
    """

    def __init__(self, channels: int, *, loss: LossName = "l1") -> None:
        super().__init__()
        self.outputs = channels
        self.loss: LossName = loss

    def encode(self, colours: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return colours

    def error(
        self, prediction: Float[Tensor, "B C h w"], target: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C h w"]:
        return LOSSES[self.loss](prediction, target)

    def decode(self, prediction: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return prediction


@dataclass(frozen=True)
class Cells:
    """The places of a target: squares of pixels that lie within a patch, or consist of whole patches.

    Attributes:
        size: pixels along the side of a cell; 1 is full resolution.
        patch_size: pixels along the side of a patch, a multiple or a divisor of `size`.
    """

    size: int
    patch_size: int

    def __post_init__(self) -> None:
        if self.size < 1 or (self.patch_size % self.size and self.size % self.patch_size):
            raise ValueError(
                f"target cells of {self.size} x {self.size} pixels neither tile patches of {self.patch_size} "
                f"x {self.patch_size} pixels nor consist of them"
            )

    @classmethod
    def fitting(cls, encoder: Encoder, target_size: tuple[int, int] | None) -> "Cells":
        """The cells of images that are averaged down to `target_size`; a feature must consist of cells.

        Raises:
            ValueError: there are none; with all sizes that are possible.
        """
        height, width = encoder.image_size
        sizes = {}
        for size in (size for size in range(1, encoder.stride + 1) if encoder.stride % size == 0):
            if encoder.patch_size % size == 0 or size % encoder.patch_size == 0:
                sizes[height // size, width // size] = size
        if target_size is None or target_size in sizes:
            return cls(sizes[target_size or encoder.image_size], encoder.patch_size)
        raise ValueError(
            f"a target of {target_size[0]} x {target_size[1]} does not go with images of {height} x {width} "
            f"pixels and features of {encoder.stride}; method.target_size can be "
            + ", ".join(f"[{rows},{columns}]" for rows, columns in sizes)
        )

    def colours(self, images: Float[Tensor, "B C H W"], mask: Mask | None = None) -> Float[Tensor, "B C h w"]:
        """The mean colour of every cell.

        Args:
            mask: of a cell that is partly hidden only the hidden pixels count; cells without any become 0.
        """
        if self.size == 1:
            return images
        if mask is None or self.size <= self.patch_size:
            return F.avg_pool2d(images, self.size)
        patches = F.avg_pool2d(images, self.patch_size)
        hidden = rearrange(mask.hidden, "b (h w) -> b 1 h w", h=mask.grid[0]).to(images.dtype)
        side = self.size // self.patch_size
        share = F.avg_pool2d(hidden, side).clamp(min=1 / side**2)
        return F.avg_pool2d(patches * hidden, side) / share

    def per_patch(self, error: Float[Tensor, "B c h w"]) -> Float[Tensor, "B N"]:
        """The mean error of every patch; patches of one cell share its error, so that a mean over hidden
        patches weighs a cell by how much of it is hidden.
        """
        if self.size <= self.patch_size:
            return to_patches(error, self.patch_size // self.size).mean(-1)
        side = self.size // self.patch_size
        return repeat(error.mean(1), "b h w -> b (h p w q)", p=side, q=side)

    def enlarge(self, colours: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        """Every cell as a square of one colour."""
        if self.size == 1:
            return colours
        return repeat(colours, "b c h w -> b c (h p) (w q)", p=self.size, q=self.size)
