"""Pictures as they are stored: every channel of an array, TIFF or 16-bit PNG, in its own depth.

`unmask.data.decode` makes 8-bit grey, RGB or RGBA of anything; this is the way of all other pictures.
"""

import contextlib
import io
import math
import zlib
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Shaped
from numpy.typing import NDArray
from PIL import Image, ImageOps

from unmask.data.decode import FORMATS, MAX_PIXELS, DecodeError, open_image

NPY, PNG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
BITS_PER_SAMPLE, SAMPLES_PER_PIXEL = 258, 277  # tags of a TIFF
GREY = 0  # colour type of a PNG
EXTRA = "pip install 'unmask[deep]' (data.bits=8 does without)"
NUMBERS = "buif"  # kinds of arrays that are pictures: logical, unsigned, signed, floating point

Pixels = Shaped[NDArray, "H W C"]


def read_native(data: bytes, channels: int) -> Pixels:
    """The upright picture in a file's bytes, with all its channels and in its own depth.

    Args:
        channels: wanted; a TIFF of exactly as many grey pages is one picture, of an .npy array that axis is
            the channels.

    Raises:
        DecodeError: no picture, broken, or too large.
    """
    if data.startswith(NPY):
        return channels_last(read_npy(data), channels)
    if data.startswith(TIFF):
        return _read_tiff(data, channels)
    if is_deep_png(data) and data[25] != GREY:
        return without_alpha(_read_deep_png(data), channels)
    return from_image(open_image(data), channels)


def is_deep_png(data: bytes) -> bool:
    """Whether it is a PNG of 16 bits a channel."""
    return data.startswith(PNG) and data[24:25] == b"\x10"


def open_lazily(data: bytes) -> Image.Image:
    """Pillow's image of a file, of which only the header was read.

    Raises:
        DecodeError: no picture, or more pixels than one may have.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise DecodeError("no picture that can be read") from error
    require_size(*image.size)
    return image


def from_image(image: Image.Image, channels: int) -> Pixels:
    """The pixels of a Pillow image, upright; palettes, CMYK and the like as RGB.

    Transparency becomes white unless `channels` has room for it.
    """
    deep_png = image.mode == "I" and image.format == "PNG"  # how older Pillow opens 16-bit grey
    try:
        with contextlib.suppress(SyntaxError, KeyError, TypeError, ValueError):  # damaged EXIF
            image = ImageOps.exif_transpose(image)
        if image.mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("L" if image.mode == "1" else _colour_mode(image))
        pixels = np.asarray(image)
    except Exception as error:  # a broken file makes Pillow raise almost anything
        raise DecodeError(str(error) or type(error).__name__) from error
    return without_alpha(np.atleast_3d(pixels.astype(np.uint16) if deep_png else pixels), channels)


def without_alpha(pixels: Pixels, channels: int) -> Pixels:
    """Grey or colours on white, where the last of 2 or 4 channels says how opaque the others are; as it is if
    so many channels are wanted."""
    found = pixels.shape[-1]
    if found not in (2, 4) or found == channels:
        return pixels
    opaque = np.iinfo(pixels.dtype).max
    alpha = pixels[..., -1:] / opaque
    return np.rint(pixels[..., :-1] * alpha + opaque * (1 - alpha)).astype(pixels.dtype)


def read_npy(data: bytes) -> Shaped[NDArray, "..."]:
    """The array in the bytes of an .npy file, read here and not by NumPy: nothing is ever unpickled, and the
    memory is that of the file, whatever its header says.

    Raises:
        DecodeError: objects, text or dates, a damaged header, too few bytes.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, column_major, dtype = read(file)
    except Exception as error:  # the header is a Python literal: as many ways to be wrong as Python has
        raise DecodeError(f"a damaged .npy header ({error})") from error
    if dtype.hasobject or dtype.kind not in NUMBERS:
        raise DecodeError(f"an array of {dtype}, not of numbers")
    count = math.prod(shape)
    if count * dtype.itemsize > len(data) - file.tell():
        raise DecodeError("truncated: fewer numbers than the header of the array says")
    values = np.frombuffer(data, dtype=dtype, count=count, offset=file.tell())
    return values.reshape(shape, order="F" if column_major else "C")


def channels_last(values: Shaped[NDArray, "..."], channels: int) -> Pixels:
    """An array [H, W], [H, W, C] or [C, H, W] as [H, W, C].

    The axis with as many entries as there are `channels` is that of the channels, the last one if it may be
    either; if neither has, the shorter of the two is.

    Raises:
        DecodeError: another number of axes, an empty one, or no numbers.
    """
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise DecodeError(f"an array of shape {values.shape}, not of height, width and channels")
    if values.dtype.kind not in NUMBERS:
        raise DecodeError(f"an array of {values.dtype}, not of numbers")
    first, last = values.shape[0], values.shape[-1]
    if last != channels and (first == channels or first < last):
        values = rearrange(values, "c h w -> h w c")
    require_size(values.shape[1], values.shape[0])
    return values


def require_size(width: int, height: int) -> None:
    """
    Raises:
        DecodeError: more pixels than a picture may have.
    """
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed")


def _colour_mode(image: Image.Image) -> str:
    return "RGBA" if image.has_transparency_data else "RGB"


def _read_deep_png(data: bytes) -> Pixels:
    """A PNG of 16-bit colour, of which Pillow keeps the upper 8 bits."""
    require_size(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    try:
        import imagecodecs
    except ImportError as error:
        raise DecodeError(f"16-bit colour needs the package imagecodecs: {EXTRA}") from error
    try:
        return np.atleast_3d(imagecodecs.png_decode(data))
    except Exception as error:  # as with Pillow: damage shows in any way
        raise DecodeError(f"a damaged PNG of 16-bit colour ({error})") from error


def _read_tiff(data: bytes, channels: int) -> Pixels:
    """By Pillow where it keeps every channel and bit, else by tifffile, which is an extra."""
    try:
        image = open_image(data)
    except DecodeError as error:
        # Too large a picture is the same for both; modes that Pillow does not know are not.
        if "pixels, more than" in str(error):
            raise
        return _read_by_tifffile(data, error)
    tags: Any = image.tag_v2  # type: ignore[attr-defined]  # of TIFF images only
    samples = tags.get(SAMPLES_PER_PIXEL, 1)
    bits = tags.get(BITS_PER_SAMPLE, (1,))
    if samples > 1 and (max(bits) > 8 or samples != len(image.getbands())):
        return _read_by_tifffile(data, None)
    pages = tiff_pages(image)
    if pages != channels or samples > 1 or channels == 1:
        return from_image(image, channels)
    layers = []
    for page in range(pages):
        try:
            image.seek(page)
        except Exception as error:
            raise DecodeError(f"page {page + 1} of {pages}: {error}") from error
        require_size(*image.size)
        layers.append(from_image(image, 1))
    if len({layer.shape for layer in layers}) > 1:
        raise DecodeError(f"{pages} pages of different sizes")
    return np.concatenate(layers, axis=-1)


def tiff_pages(image: Image.Image) -> int:
    """Pages of a TIFF, 1 of any other picture; as many as can be found if the file is damaged."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the chain of pages is broken behind the first
        return 1


def _read_by_tifffile(data: bytes, reason: DecodeError | None) -> Pixels:
    try:
        import tifffile
    except ImportError:
        raise DecodeError(
            (f"{reason}; " if reason else "")
            + f"a TIFF of many channels, or of 16-bit colour, needs the package tifffile: {EXTRA}"
        ) from reason
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            require_size(page.imagewidth, page.imagelength)
            pixels, axes = page.asarray(), page.axes
    except DecodeError:
        raise
    except (Exception, zlib.error) as error:  # as with Pillow: damage shows in any way
        raise DecodeError(f"a TIFF that cannot be read: {error or type(error).__name__}") from error
    if axes not in ("YX", "YXS", "SYX"):
        raise DecodeError(f"a TIFF with the axes {axes}, not height, width and channels")
    return rearrange(pixels, "c h w -> h w c") if axes == "SYX" else np.atleast_3d(pixels)
