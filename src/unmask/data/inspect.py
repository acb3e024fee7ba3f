"""What a picture is before it is decoded: format, size, channels, depth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from unmask.data.arrays import Bits
from unmask.data.decode import MODES, DecodeError, oriented_size
from unmask.data.files import Content
from unmask.data.native import (
    BITS_PER_SAMPLE,
    NPY,
    SAMPLES_PER_PIXEL,
    TIFF,
    channels_last,
    is_deep_png,
    open_lazily,
    read_native,
    read_npy,
    tiff_pages,
)

WIDTH, HEIGHT, ORIENTATION, SAMPLE_FORMAT = 256, 257, 274, 339  # tags of a TIFF
UNSIGNED = 1  # sample format
TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one picture.

    Attributes:
        format: "JPEG", "PNG", ...; "array" for .npy files and NumPy arrays, "image" for Pillow's.
        width: pixels, upright.
        height: likewise.
        channels: as the file has them, transparency included.
        alpha: whether the last one says how opaque the others are.
        pages: of a TIFF; 1 of all else.
        bits: of a channel; 32 are floating point numbers, or integers without an agreed range.
    """

    format: str
    width: int
    height: int
    channels: int
    alpha: bool = False
    pages: int = 1
    bits: Bits = 8

    def fits(self, channels: int) -> bool:
        """Whether a picture of so many channels can be made of it."""
        if channels in (self.channels, self.pages):
            return True
        return channels in MODES and self.channels - self.alpha in (1, 3)


def look(content: Content) -> Facts:
    """The facts of a picture, from its header as far as that tells them.

    Raises:
        DecodeError: no picture, or more pixels than one may have.
    """
    if isinstance(content, np.ndarray):
        return _of_array(content)
    if isinstance(content, Image.Image):
        return _of_image(content)
    if content.startswith(NPY):
        return _of_array(read_npy(content))
    if content.startswith(TIFF):
        return _of_tiff(content)
    facts = _of_image(open_lazily(content))
    if not is_deep_png(content):
        return facts
    channels = PNG_CHANNELS.get(content[25], 1)
    width, height = facts.width, facts.height
    return Facts(
        format="PNG", width=width, height=height, channels=channels, alpha=channels in (2, 4), bits=16
    )


def _of_array(values: np.ndarray) -> Facts:
    pixels = channels_last(values, channels=3)
    height, width, channels = pixels.shape
    return Facts(format="array", width=width, height=height, channels=channels, bits=_bits(pixels.dtype))


def _bits(kind: np.dtype) -> Bits:
    if kind in (np.dtype(np.uint8), np.dtype(bool)):
        return 8
    return 16 if kind == np.uint16 else 32


def _of_image(image: Image.Image) -> Facts:
    width, height = oriented_size(image)
    alpha = image.has_transparency_data
    colours = 1 if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16") else 3
    bits: Bits = 8
    if image.mode.startswith("I;16"):
        bits = 16
    elif image.mode in ("I", "F"):
        bits = 32
    return Facts(
        format=image.format or "image",
        width=width,
        height=height,
        channels=colours + alpha,
        alpha=alpha,
        bits=bits,
    )


def _of_tiff(content: bytes) -> Facts:
    try:
        image = open_lazily(content)
    except DecodeError:
        height, width, channels = (pixels := read_native(content, 3)).shape  # a mode that Pillow lacks
        return Facts(format="TIFF", width=width, height=height, channels=channels, bits=_bits(pixels.dtype))
    facts = _of_image(image)
    tags: Any = image.tag_v2  # type: ignore[attr-defined]  # of TIFF images only
    samples, depth = tags.get(SAMPLES_PER_PIXEL, 1), max(tags.get(BITS_PER_SAMPLE, (1,)))
    unsigned = max(tags.get(SAMPLE_FORMAT, (UNSIGNED,))) == UNSIGNED
    bits: Bits = 8 if depth <= 8 else 16 if depth <= 16 and unsigned else 32
    # Of these Pillow knows the upright size before it has read the pixels, or only then, as its version is.
    width, height = int(tags[WIDTH]), int(tags[HEIGHT])
    if tags.get(ORIENTATION, 1) in TURNED:
        width, height = height, width
    named = samples == len(image.getbands()) or image.mode == "P"
    return Facts(
        format="TIFF",
        width=width,
        height=height,
        channels=facts.channels if named else samples,
        alpha=facts.alpha and named,
        pages=tiff_pages(image) if samples == 1 else 1,
        bits=bits,
    )
