"""Images as patches and back, target normalisation, fixed position tables."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.masking import Mask


def to_patches(images: Float[Tensor, "B C H W"], size: int, order: str = "p q c") -> Float[Tensor, "B N E"]:
    """Cut images into patches of `size` x `size` pixels, in raster order.

    Args:
        order: layout of the elements of a patch: "p q c" (row, column, channel) is MAE's, "c p q" is SimMIM's
            (the channel order of PixelShuffle).
    """
    height, width = images.shape[-2:]
    if height % size or width % size:
        raise ValueError(f"images of {height} x {width} pixels cannot be cut into patches of {size} x {size}")
    return rearrange(images, f"b c (h p) (w q) -> b (h w) ({order})", p=size, q=size)


def from_patches(
    patches: Float[Tensor, "B N E"], grid: tuple[int, int], size: int, order: str = "p q c"
) -> Float[Tensor, "B C H W"]:
    """The inverse of `to_patches`."""
    return rearrange(patches, f"b (h w) ({order}) -> b c (h p) (w q)", h=grid[0], w=grid[1], p=size, q=size)


def normalise_patches(patches: Float[Tensor, "B N E"], epsilon: float = 1e-6) -> Float[Tensor, "B N E"]:
    """Each patch with mean 0 and variance 1 over all its elements (MAE, section 3; unbiased variance as in
    its code).
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + epsilon).sqrt()


def normalise_locally(
    images: Float[Tensor, "B C H W"], window: int, epsilon: float = 1e-6
) -> Float[Tensor, "B C H W"]:
    """Each pixel and channel normalised by mean and unbiased variance of the `window` x `window` pixels
    around it.

    Used by the SwinV2 runs of "On Data Scaling in Masked Image Modeling" (window 47). At the border only
    pixels of the image count. The variance is computed in float64: E[x^2] - E[x]^2 in float32 turns a
    constant image into noise.

    Args:
        window: odd number of pixels.
    """
    if window % 2 == 0 or window < 3:
        raise ValueError(f"the normalisation window must be an odd number of at least 3 pixels, not {window}")
    exact = images.double()

    def window_mean(values: Tensor) -> Tensor:
        # Count-exclusive average pooling, one axis at a time (the window is a rectangle also at the border).
        rows = F.avg_pool2d(values, (window, 1), 1, (window // 2, 0), count_include_pad=False)
        return F.avg_pool2d(rows, (1, window), 1, (0, window // 2), count_include_pad=False)

    ones = torch.ones_like(exact[:1, :1])
    count = window**2 * F.avg_pool2d(ones, window, 1, window // 2, count_include_pad=True)
    mean = window_mean(exact)
    variance = (window_mean(exact.square()) - mean.square()).clamp(min=0) * count / (count - 1)
    return ((exact - mean) / (variance + epsilon).sqrt()).to(images.dtype)


def visible_statistics(
    images: Float[Tensor, "B C H W"], hidden: Bool[Tensor, "B 1 H W"], window: int, epsilon: float = 1e-6
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
    """Mean and standard deviation of the visible pixels in the `window` x `window` pixels around each pixel.

    What `normalise_locally` divides by, as far as a model can know it, for pictures. Where the whole window
    is hidden, those of all visible pixels of the image stand in.
    """
    exact, visible = images.double(), (~hidden).double()

    def total(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, 1, window // 2) * window**2

    def moments(weigh: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        count = weigh(visible).clamp(min=0.5)
        mean = weigh(exact * visible) / count
        variance = (weigh(exact.square() * visible) / count - mean.square()).clamp(min=0)
        return mean, (variance + epsilon).sqrt()

    near = moments(total)
    anywhere = moments(lambda values: values.sum((2, 3), keepdim=True))
    known = total(visible) > 0.5
    mean, deviation = (
        torch.where(known, own, other).to(images.dtype) for own, other in zip(near, anywhere, strict=True)
    )
    return mean, deviation


def sincos_table(
    grid: tuple[int, int], width: int, *, prefix: int = 0, first: str = "column"
) -> Float[Tensor, "1 P D"]:
    """Fixed two-dimensional sine-cosine positions (MAE, appendix A.1, after MoCo v3).

    The width is split in four quarters: sine and cosine of one axis, then of the other, with wavelengths from
    2 pi to 10000 * 2 pi patches.

    Args:
        width: divisible by 4.
        prefix: rows of zeros in front (class and register tokens).
        first: the axis that comes first, "column" (MAE, MILAN, HiViT, iTPN) or "row" (CAE, CMAE).

    Returns:
        [1, prefix + rows * columns, width], float32.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {width}")
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    axes = (column, row) if first == "column" else (row, column)
    angles = [axis.flatten()[:, None] * frequency for axis in axes]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([table.new_zeros(prefix, width), table])[None].float()


def borrow_statistics(
    patches: Float[Tensor, "B N E"], mask: Mask
) -> tuple[Float[Tensor, "B N 1"], Float[Tensor, "B N 1"]]:
    """Mean and standard deviation of every patch as far as the visible ones tell.

    Methods whose target is normalised patch by patch cannot know brightness and contrast of a hidden patch.
    For pictures those of the visible patches stand in, weighted by 1 / distance^2; using the true ones would
    show what the model never predicted.

    Args:
        patches: all elements of each patch in the last axis.
    """
    rows, columns = mask.grid
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place = torch.stack([row.flatten(), column.flatten()], dim=1).to(patches)
    weight = 1 / (torch.cdist(place, place).square() + 1e-6)  # a visible patch all but keeps its own
    weight = weight * ~mask.hidden[:, None, :]
    weight = weight / weight.sum(-1, keepdim=True)
    deviation, mean = torch.std_mean(patches, dim=-1, keepdim=True)
    return weight @ mean, weight @ deviation


def restore_statistics(
    prediction: Float[Tensor, "B N E"], images: Float[Tensor, "B C H W"], mask: Mask
) -> Float[Tensor, "B N E"]:
    """Predictions of normalised patches in the units of `images`, with the statistics of visible patches."""
    size = images.shape[-2] // mask.grid[0]
    mean, deviation = borrow_statistics(to_patches(images, size), mask)
    return prediction * deviation + mean
