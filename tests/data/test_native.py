"""Every bit and every channel that a file holds must arrive."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encoded, smooth
from tests.data.zoo import npy, png
from unmask.data.decode import DecodeError
from unmask.data.inspect import look
from unmask.data.native import channels_last, read_native, read_npy

GENERATOR = np.random.default_rng(0)
DEEP = GENERATOR.integers(0, 2**16, (20, 31, 5), dtype=np.uint16)


def deep_png(values: np.ndarray) -> bytes:
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[-1]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(16, kind, rows, values.shape[1::-1])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels: int) -> None:
    pytest.importorskip("imagecodecs")
    data = deep_png(DEEP[..., :channels])
    read = read_native(data, channels)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, DEEP[..., :channels])
    facts = look(data)
    assert (facts.channels, facts.bits, facts.width, facts.height) == (channels, 16, 31, 20)
    assert facts.alpha == (channels in (2, 4))


def test_transparency_of_16_bits_becomes_white() -> None:
    pytest.importorskip("imagecodecs")
    values = np.concatenate([DEEP[..., :3], np.zeros_like(DEEP[..., :1])], axis=-1)
    values[0, 0, 3] = 65535
    read = read_native(deep_png(values), 3)
    np.testing.assert_array_equal(read[0, 0], DEEP[0, 0, :3])
    assert read.reshape(-1, 3)[1:].min() == 65535


def test_png_of_16_bit_colour_needs_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert read_native(deep_png(DEEP[..., :1]), 1).dtype == np.uint16  # grey does not
    with pytest.raises(DecodeError, match=r"unmask\[deep\]"):
        read_native(deep_png(DEEP[..., :3]), 3)


def test_damaged_png_of_16_bits() -> None:
    pytest.importorskip("imagecodecs")
    with pytest.raises(DecodeError, match="damaged"):
        read_native(deep_png(DEEP[..., :3])[:900], 3)


def test_grey_pages_are_channels() -> None:
    first, *rest = (Image.fromarray(np.ascontiguousarray(DEEP[..., page])) for page in range(5))
    data = encoded(first, "TIFF", save_all=True, append_images=rest)
    np.testing.assert_array_equal(read_native(data, 5), DEEP)
    np.testing.assert_array_equal(read_native(data, 3), DEEP[..., :1])
    facts = look(data)
    assert facts.fits(5) and facts.fits(3) and not facts.fits(4 + 3) and facts.bits == 16
    smaller = encoded(first, "TIFF", save_all=True, append_images=[rest[0], rest[1].crop((0, 0, 5, 5))])
    with pytest.raises(DecodeError, match="3 pages of different sizes"):
        read_native(smaller, 3)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32, np.float32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_many_channels(kind, planar: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = (DEEP if kind == np.uint16 else DEEP // 300).astype(kind)
    stored = np.moveaxis(values, -1, 0) if planar == "separate" else values
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stored, photometric="minisblack", planarconfig=planar)
    read = read_native(buffer.getvalue(), 5)
    np.testing.assert_array_equal(read, values)
    facts = look(buffer.getvalue())
    assert facts.channels == 5 and facts.bits == {np.uint8: 8, np.uint16: 16}.get(kind, 32)


def test_tiff_of_16_bit_colour_needs_tifffile(monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, DEEP[..., :3], photometric="rgb")
    np.testing.assert_array_equal(read_native(buffer.getvalue(), 3), DEEP[..., :3])
    assert look(buffer.getvalue()).bits == 16
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DecodeError, match="tifffile"):
        read_native(buffer.getvalue(), 3)


@pytest.mark.parametrize("mode, bits", [("I;16", 16), ("I", 32), ("F", 32)])
def test_tiff_of_one_channel(mode: str, bits: int) -> None:
    values = DEEP[..., 0].astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    data = encoded(Image.fromarray(values), "TIFF")
    read = read_native(data, 1)
    assert read.dtype == values.dtype and look(data).bits == bits
    np.testing.assert_array_equal(read[..., 0], values)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_orientation_is_applied_in_any_depth(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.zeros((6, 4), np.uint16)
    expected[0] = 60000
    undo = [
        lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.T,
        lambda a: np.rot90(a), lambda a: np.rot90(a, 2).T, lambda a: np.rot90(a, -1),
    ][orientation - 1]  # fmt: skip
    data = encoded(Image.fromarray(np.ascontiguousarray(undo(expected))), kind, exif=exif)
    np.testing.assert_array_equal(read_native(data, 1)[..., 0], expected)
    assert (look(data).width, look(data).height) == (4, 6)


def test_the_axis_of_the_channels() -> None:
    def shape(*axes: int, channels: int) -> tuple[int, ...]:
        return channels_last(np.zeros(axes), channels).shape

    assert shape(7, 9, channels=3) == (7, 9, 1)
    assert shape(5, 7, 9, channels=5) == (7, 9, 5)
    assert shape(7, 9, 5, channels=5) == (7, 9, 5)
    assert shape(5, 9, 5, channels=5) == (5, 9, 5)  # both: the last
    assert shape(9, 5, 7, channels=9) == (5, 7, 9)
    assert shape(4, 8, 9, channels=3) == (8, 9, 4)  # neither: the shorter
    assert shape(8, 9, 4, channels=3) == (8, 9, 4)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files(order: str, version: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    values = np.asarray(DEEP, order=order)
    np.lib.format.write_array(buffer, values, version=version)
    np.testing.assert_array_equal(read_npy(buffer.getvalue()), values)


def test_ordinary_pictures_are_as_they_always_are() -> None:
    pixels = smooth(20, 30)
    np.testing.assert_array_equal(read_native(encoded(Image.fromarray(pixels), "PNG"), 3), pixels)
    facts = look(encoded(Image.fromarray(pixels).quantize(8), "PNG", transparency=0))
    assert (facts.format, facts.channels, facts.alpha, facts.bits) == ("PNG", 4, True, 8)
    assert look(npy(pixels)).format == "array" and look(Image.fromarray(pixels)).format == "image"
    assert look(encoded(Image.fromarray(pixels), "JPEG")).format == "JPEG"
