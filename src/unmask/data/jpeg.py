"""JPEGs straight into an array: bit for bit the pixels that Pillow gives, sooner.

Pillow and simplejpeg both leave the decoding to libjpeg-turbo and ask it for the same arithmetic, but
Pillow keeps four bytes for each pixel and copies them twice on the way to an array. Where simplejpeg is not
installed, or refuses a file, Pillow decodes it: that changes the time, never a pixel.

Rows below those that are wanted are not decoded: for as long as it takes, the header tells of a lower
picture. Whatever lies above and beside them costs its entropy decoding, about two thirds of the work, in any
case: the codes of a JPEG have no addresses.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

try:
    from simplejpeg import decode_jpeg as _decode_jpeg
except ImportError:  # there is no wheel for this machine
    _decode_jpeg = None

COLOUR_SPACES = {1: "GRAY", 3: "RGB"}
LEAST_SIDE = 16  # below it, two of the decoder's scales can give the same size

_END = b"\xff\xd9"
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)
# Progressive and other frames, in which a lower height would end scans early, and the start of the data.
_STOPS = {*range(0xC2, 0xD0), 0xDA} - {0xC4, 0xCC}  # those two are tables


def decode_rows(
    data: memoryview, size: tuple[int, int], channels: int, *, factor: int, rows: int
) -> UInt8[np.ndarray, "rows width channels"] | None:
    """The upper rows of a grey, YCbCr or RGB JPEG as the file stores them; None where Pillow must decide.

    Args:
        data: the file, writable; it is changed while this function runs.
        size: (width, height) in the file's header.
        channels: 1 (grey) or 3 (RGB).
        factor: 1, 2, 4 or 8: decode at this fraction of the sides, rounded up.
        rows: that are needed, of the decoded ones; more may come.
    """
    width, height = size
    if _decode_jpeg is None or channels not in COLOUR_SPACES or min(size) < LEAST_SIDE:
        return None
    # A file without the end mark may be truncated: any warning then leaves it to Pillow. With the mark,
    # warnings are passed over, as Pillow does.
    complete = data[-2:] == _END
    # Two more rows than needed: the lowest lack the neighbours that their colours are interpolated from.
    lowest = max((rows + 2) * factor, LEAST_SIDE)
    place = _height_place(data) if complete and lowest < height else None
    try:
        with _lower(data, place, lowest):
            return _decode_jpeg(
                data,
                COLOUR_SPACES[channels],
                min_height=-(-(height if place is None else lowest) // factor),
                min_width=-(-width // factor),
                strict=not complete,
            )
    except ValueError:
        return None


@contextlib.contextmanager
def _lower(data: memoryview, place: int | None, height: int) -> Iterator[None]:
    """The header tells of this height, at this place in the file, until the context is left."""
    if place is None:
        yield
        return
    before = bytes(data[place : place + 2])
    data[place : place + 2] = height.to_bytes(2, "big")
    try:
        yield
    finally:
        data[place : place + 2] = before


def _height_place(data: memoryview) -> int | None:
    """Where the header of a sequential picture stores the height; None for other pictures."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind in _SEQUENTIAL_FRAMES:
            return place + 5
        if kind in _STOPS:
            break
        place += 1 if kind == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
