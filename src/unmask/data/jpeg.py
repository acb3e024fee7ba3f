"""JPEGs straight into an array: bit for bit the pixels that Pillow gives, sooner.

Pillow and simplejpeg both leave the decoding to libjpeg-turbo and ask it for the same arithmetic, but
Pillow keeps four bytes for each pixel and copies them twice on the way to an array. Where simplejpeg is not
installed, or complains about a file, Pillow decodes it: that changes the time, never a pixel.

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
_LEFT_OVER = "extraneous bytes before marker 0xd9"  # the rows that were not asked for; the mark is the end
_SEQUENTIAL_FRAMES = (0xC0, 0xC1)
_OTHER_FRAMES = {*range(0xC2, 0xD0)} - {0xC4, 0xCC}  # those two are tables
_RESTARTS, _SCAN = 0xDD, 0xDA


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
    if _decode_jpeg is None or channels not in COLOUR_SPACES or min(size) < LEAST_SIDE:
        return None
    width, height = size
    # Two more rows than needed: the lowest lack the neighbours that their colours are interpolated from.
    lowest = max((rows + 2) * factor, LEAST_SIDE)
    # A file without the end mark may be truncated, and nothing of that may escape us.
    place = _height_place(data) if lowest < height and data[-2:] == _END else None
    height = height if place is None else lowest
    pixels = np.empty((-(-height // factor), -(-width // factor), channels), dtype=np.uint8)
    try:
        with _lower(data, place, height):
            _decode_jpeg(
                data,
                COLOUR_SPACES[channels],
                min_height=pixels.shape[0],
                min_width=pixels.shape[1],
                buffer=pixels,
                strict=True,
            )
    except ValueError as error:  # of several complaints it is the first
        if place is None or _LEFT_OVER not in str(error):
            return None
    return pixels


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
    """Where the header stores the height, if fewer rows may be decoded.

    In progressive pictures a lower height would end each scan too early, and with restart marks what is left
    over could not be told from damage.
    """
    place, found = 2, None
    while place + 9 < len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == _SCAN:
            return found
        if kind == _RESTARTS or kind in _OTHER_FRAMES:
            break
        if kind in _SEQUENTIAL_FRAMES:
            found = place + 5
        place += 1 if kind == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
