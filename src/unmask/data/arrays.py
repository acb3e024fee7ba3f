"""Pictures as arrays [H, W, C] of the run's depth, and how they are resized.

The depth is the recipe's `data.bits`: 8 (uint8, as most files are), 16 (uint16, nothing is lost of PNG and
TIFF with 16 bits) or 32 (float32, the numbers as the files hold them).
"""

from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from unmask.data.decode import MODES, DecodeError, load_pixels, open_image, oriented_size
from unmask.data.files import Content
from unmask.data.native import NPY, TIFF, Pixels, channels_last, from_image, read_native, tiff_pages

Bits = Literal[8, 16, 32]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
Picture = Image.Image | Pixels

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
DTYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow makes grey of RGB


def open_picture(content: Content, channels: int = 3, bits: Bits = 8) -> Picture:
    """What a source handed out, ready for `make_views` or `evaluation_view`.

    Returns:
        A Pillow image that is not decoded yet, for 8-bit grey, RGB and RGBA; else an upright array
        [H, W, `channels`] of the depth asked for.

    Raises:
        DecodeError: no picture, broken, or of channels or a depth that cannot become these.
    """
    plain = bits == 8 and channels in MODES
    if isinstance(content, Image.Image):
        own = content.copy()  # decoding turns and shrinks in place, and this one is somebody else's
        pixels = (
            np.atleast_3d(np.asarray(load_pixels(own, channels)[0])) if plain else from_image(own, channels)
        )
    elif isinstance(content, np.ndarray):
        pixels = channels_last(content, channels)
    elif not plain or content.startswith(NPY):
        pixels = read_native(content, channels)
    else:
        image = open_image(content)
        if not (content.startswith(TIFF) and channels > 1 and tiff_pages(image) == channels):
            return image
        pixels = read_native(content, channels)
    return to_depth(to_channels(pixels, channels), bits)


def picture_size(picture: Picture) -> tuple[int, int]:
    """(width, height) of an upright picture."""
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    return oriented_size(picture)


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """From grey to RGB or RGBA, and between RGB and grey; any other change is refused.

    Raises:
        DecodeError: other channels than wanted.
    """
    found = pixels.shape[-1]
    if found == channels:
        return pixels
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else pixels.dtype.type(1)
    if channels not in MODES or found not in (1, 3):
        raise DecodeError(
            f"{found} {'channel' if found == 1 else 'channels'}, and data.channels is {channels}"
        )
    if channels == 1:
        return _as_type(pixels @ np.array(LUMINANCE)[:, None], pixels.dtype)
    colours = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    if channels == 3:
        return colours
    return np.concatenate([colours, np.full((*pixels.shape[:2], 1), opaque, pixels.dtype)], axis=-1)


def to_depth(pixels: Pixels, bits: Bits) -> Pixels:
    """The same picture in 8, 16 or 32 bits a channel.

    Integers of 8 and 16 bits are scaled to each other's range; in 32 bits all numbers stay as they are, and
    what is not finite becomes the mean of its channel.

    Raises:
        DecodeError: numbers without an agreed range in 8 or 16 bits; none that is finite.
    """
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if bits == 32:
        return _finite(pixels.astype(np.float32))
    kind = pixels.dtype
    if kind == DTYPES[bits]:
        return pixels
    if kind == np.uint8:
        return pixels.astype(np.uint16) * np.uint16(257)
    if kind.kind in "iu" and pixels.min() >= 0 and pixels.max() < 2**16:
        pixels = pixels.astype(np.uint16)
        return pixels if bits == 16 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise DecodeError(
        f"numbers of type {kind} from {pixels.min():.4g} to {pixels.max():.4g}, which have no agreed range "
        f"in {bits} bits; data.bits=32 takes them as they are"
    )


def _finite(pixels: Pixels) -> Pixels:
    finite = np.isfinite(pixels)
    if finite.all():
        return pixels
    if not finite.any():
        raise DecodeError("no number in it is finite")
    means = np.where(finite, pixels, 0).sum((0, 1), dtype=np.float64) / np.maximum(finite.sum((0, 1)), 1)
    return np.where(finite, pixels, means.astype(np.float32))


def resize(pixels: Pixels, size: tuple[int, int], interpolation: Interpolation) -> Shaped[Tensor, "C h w"]:
    """To (height, width), antialiased."""
    if interpolation == "lanczos":
        height, width = pixels.shape[:2]
        return resize_box(pixels, (0, 0, width, height), size, interpolation, reducing_gap=None)
    # PyTorch's antialiased resize of bytes is Pillow's to within one grey level, four times as fast.
    planes = rearrange(torch.from_numpy(np.require(pixels, requirements=["C", "W"])), "h w c -> 1 c h w")
    deep = planes if pixels.dtype == np.uint8 else planes.float()
    resized = torch.nn.functional.interpolate(deep, size=size, mode=interpolation, antialias=True)[0]
    # Bicubic filters overshoot at edges; 16-bit numbers would wrap around.
    return resized.round().clamp(0, 65535).to(torch.uint16) if pixels.dtype == np.uint16 else resized


def resize_box(
    pixels: Pixels,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: Interpolation,
    *,
    reducing_gap: float | None = 2.0,
) -> Shaped[Tensor, "C h w"]:
    """A part of the picture, whose edges may lie between pixels, to (height, width), antialiased.

    Args:
        reducing_gap: large reductions start with a cheap box average, down to so many times the size; with 2
            the filter does the work. None lets it do all.
    """
    deep = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    planes = []
    for channel in range(pixels.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(deep[..., channel]))
        small = plane.resize((size[1], size[0]), FILTERS[interpolation], box=box, reducing_gap=reducing_gap)
        planes.append(np.asarray(small))
    return torch.from_numpy(_as_type(np.stack(planes), pixels.dtype))


def _as_type(values: Shaped[np.ndarray, "..."], kind: np.dtype) -> Shaped[np.ndarray, "..."]:
    """Rounded and kept in range where the type is one of integers."""
    if kind.kind not in "ui":
        return values.astype(kind)
    limits = np.iinfo(kind)
    return np.rint(values).clip(limits.min, limits.max).astype(kind)
