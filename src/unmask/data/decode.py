"""Bytes to pixels: upright, 8 bits, 1, 3 or 4 channels, whatever the file held.

How each kind of picture becomes 8-bit grey (1), RGB (3) or RGBA (4):

* EXIF orientation is applied. Of animations and multi-page files the first picture is taken.
* Alpha, also of palettes and of single transparent colours, is composited on white for 1 and 3 channels and
  kept for 4; opaque pictures get alpha 255.
* 16-bit grey is divided by 257 and rounded (0..65535 -> 0..255). 16-bit RGB keeps the upper byte.
* 32-bit integer and float pictures have no agreed range: their own smallest value becomes 0, their largest
  255; a constant picture becomes 0, and so do values that are not finite.
* CMYK and YCbCr go through RGB without a colour profile.
"""

import contextlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile

from unmask.data.jpeg import decode_rows

MAX_PIXELS = 250_000_000  # above the largest phone cameras (200 megapixels); 1 GB in memory
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # fixed: Pillow also knows formats that run programs
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodeError(ValueError):
    """This file is no picture that can be used; the message is the reason."""


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of a JPEG, PNG, WebP, TIFF, BMP or GIF; the pixels of a JPEG are left for
    ``load_pixels``.

    Raises:
        DecodeError: no such picture, broken, or more than ``max_pixels`` pixels.
    """
    with _decoding():
        image = Image.open(BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise DecodeError(f"{width} x {height} pixels, more than the {max_pixels:,} allowed")
        if not _is_jpeg(image):
            image.load()  # only JPEG gains from waiting, and TIFF tells its true size only now
    return image


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once the EXIF orientation is applied."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def load_pixels(image: Image.Image, channels: int = 3, *, shrink: float = 1.0) -> tuple[Image.Image, int]:
    """(upright 8-bit picture, factor by which it is smaller than ``oriented_size``).

    Args:
        image: from ``open_image``; it is loaded in place, so a JPEG stays at the resolution of the first
            call.
        shrink: how much smaller the picture may be. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its side,
            the smallest that is still 1/``shrink``, which saves most of the inverse cosine transform; other
            formats are always decoded in full.

    Raises:
        DecodeError: the pixels are broken or truncated.
    """
    if channels not in MODES:
        raise ValueError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), not {channels}.")
    factor = 1
    with _decoding():
        if _is_jpeg(image):
            factor = min(_reduction(shrink), *image.size)
            width, height = image.size
            drafted = image.draft(MODES[channels], (width // factor, height // factor))
            factor = 1 if drafted is None else round(width / drafted[1][2])
    return as_upright(image, channels), factor


def as_upright(image: Image.Image, channels: int = 3) -> Image.Image:
    """The upright 8-bit picture of what Pillow opened or made, by the rules above.

    Raises:
        DecodeError: the pixels are broken or truncated.
    """
    with _decoding():
        orientation = _orientation(image)
        image.load()
        upright = _to_mode(image, channels)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
            upright.info = {}  # or the next reader would turn it again
    return upright


def load_crop(
    image: Image.Image, box: tuple[int, int, int, int], channels: int = 3, *, shrink: float = 1.0
) -> UInt8[np.ndarray, "height width channels"]:
    """What lies within the box of the upright 8-bit picture: the pixels of ``load_pixels``, cut out.

    Args:
        image: from ``open_image``.
        box: (left, top, right, bottom) in pixels of ``oriented_size``. Of a JPEG that was decoded smaller its
            edges are rounded to whole pixels.
        shrink: see ``load_pixels``.

    Raises:
        DecodeError: the pixels are broken or truncated.
    """
    if _is_jpeg(image) and image.mode in ("L", "RGB") and isinstance(image, ImageFile.ImageFile):
        crop = _jpeg_crop(image, box, channels, _reduction(shrink))
        if crop is not None:
            return crop
    pixels, factor = load_pixels(image, channels, shrink=shrink)
    left, top, right, bottom = (round(edge / factor) for edge in box)
    return np.atleast_3d(np.array(pixels.crop((left, top, right, bottom))))


def decode(data: bytes, channels: int = 3, *, min_side: int | None = None) -> Image.Image:
    """The upright 8-bit picture in a file's bytes.

    Args:
        min_side: a JPEG may be decoded at a fraction of its size as long as its shorter side keeps this many
            pixels.

    Raises:
        DecodeError: no picture, broken, truncated, or larger than ``MAX_PIXELS``.
    """
    image = open_image(data)
    shrink = 1.0 if min_side is None else min(image.size) / min_side
    return load_pixels(image, channels, shrink=shrink)[0]


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    # Pillow's own limit is process-wide and half warning, half error; ours is per file and explicit.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    except DecodeError:
        raise
    except (
        Exception
    ) as error:  # a broken file makes Pillow raise almost anything: SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise DecodeError("no picture that can be read" if "BytesIO" in reason else reason) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reduction(shrink: float) -> int:
    return next(step for step in (8, 4, 2, 1) if step <= max(shrink, 1))


def _jpeg_crop(
    image: ImageFile.ImageFile, box: tuple[int, int, int, int], channels: int, factor: int
) -> np.ndarray | None:
    """The crop by the faster decoder; None where it cannot be had so."""
    if not isinstance(image.fp, BytesIO):  # opened otherwise, or loaded before
        return None
    orientation = _orientation(image)
    left, top, right, bottom = (round(edge / factor) for edge in box)
    # From the upright picture to the rows and columns of the file, undoing what the orientation asks for.
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    width, height = (-(-side // factor) for side in image.size)
    rows_flipped, columns_flipped = orientation in (3, 4, 6, 7), orientation in (2, 3, 7, 8)
    if rows_flipped:
        top, bottom = height - bottom, height - top
    if columns_flipped:
        left, right = width - right, width - left
    with image.fp.getbuffer() as data:
        pixels = decode_rows(data, image.size, channels, factor=factor, rows=bottom)
    if pixels is None:
        return None
    crop = pixels[top:bottom, left:right]
    if orientation == 1:
        return crop
    crop = crop[:: -1 if rows_flipped else 1, :: -1 if columns_flipped else 1]
    return np.ascontiguousarray(crop.swapaxes(0, 1) if orientation >= 5 else crop)


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the pixels, which may be sound
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _to_mode(image: Image.Image, channels: int) -> Image.Image:
    # Older Pillow opens 16-bit grey PNG as mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_stretch(np.asarray(image, dtype=np.float64)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if channels != 4:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
    if image.mode == MODES[channels]:
        return image
    if image.mode not in ("1", "L", "RGB", "RGBA"):
        image = image.convert("RGB")
    return image.convert(MODES[channels])


def _stretch(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = values[finite].min(), values[finite].max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.rint(np.where(finite, scaled, 0) * 255).astype(np.uint8)
