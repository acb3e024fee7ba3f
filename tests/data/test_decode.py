"""Each kind of picture must give the pixels that its format means."""

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encoded, smooth
from unmask.data.decode import DecodeError, decode, load_pixels, open_image, oriented_size

PIXELS = smooth(30, 44)

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")


def array(data: bytes, channels: int = 3) -> np.ndarray:
    return np.asarray(decode(data, channels))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(array(encoded(Image.fromarray(PIXELS), kind, **options)), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_close(kind):
    image = Image.fromarray(PIXELS)
    image = image.quantize(256) if kind == "GIF" else image
    difference = np.abs(array(encoded(image, kind)).astype(int) - PIXELS)
    assert difference.mean() < 8


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("source", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_gives_the_channels_asked_for(source, channels, mode):
    if source in ("I;16", "I", "F"):
        values = PIXELS[:, :, 0].astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[source])
        image = Image.fromarray(values * 257 if source == "I;16" else values)
    else:
        image = Image.fromarray(PIXELS).convert("P" if source == "PA" else source)
        image = image.convert("PA") if source == "PA" else image
    assert image.mode == source
    result = load_pixels(image, channels)[0]
    assert result.mode == mode and result.size == (44, 30)
    grey = np.asarray(Image.fromarray(PIXELS).convert("L")).astype(int)
    if source in ("L", "LA", "RGB", "RGBA"):
        assert np.abs(np.asarray(result.convert("L")).astype(int) - grey).max() <= 1
    if channels == 4:
        assert np.asarray(result)[:, :, 3].min() == 255


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match="channels must be"):
        decode(encoded(Image.fromarray(PIXELS), "PNG"), 2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_divided_by_257_and_rounded(kind):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    result = array(encoded(Image.fromarray(values), kind), 1)
    np.testing.assert_array_equal(result, np.rint(values / 257).astype(np.uint8))
    assert result.max() == 255
    multiples = (np.arange(256, dtype=np.uint16) * 257)[None]
    np.testing.assert_array_equal(array(encoded(Image.fromarray(multiples), kind), 1)[0], np.arange(256))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pictures_are_stretched_from_their_own_range(dtype):
    values = np.array([[-1000, 0, 1000], [3000, -1000, 1000]], dtype=dtype)
    expected = np.rint((values + 1000) / 4000 * 255).astype(np.uint8)
    np.testing.assert_array_equal(array(encoded(Image.fromarray(values), "TIFF"), 1), expected)


def test_values_that_are_no_numbers_become_black_and_a_constant_picture_too():
    values = np.array([[np.nan, 1.0, np.inf, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(array(encoded(Image.fromarray(values), "TIFF"), 1), [[0, 0, 0, 255]])
    constant = np.full((2, 2), 7, dtype=np.float32)
    assert array(encoded(Image.fromarray(constant), "TIFF"), 1).max() == 0


def test_alpha_is_composited_on_white_or_kept():
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = (0, 128, 255)
    data = encoded(Image.fromarray(rgba), "PNG")
    alpha = rgba[:, :, 3:] / 255
    expected = np.rint(rgba[:, :, :3] * alpha + 255 * (1 - alpha))
    assert np.abs(array(data) - expected).max() <= 1
    np.testing.assert_array_equal(array(data, 4), rgba)
    assert array(data, 1)[0, 0] == 255


def test_transparent_palette_entries_become_white():
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    for kind in ("PNG", "GIF"):
        pixels = array(encoded(image, kind, transparency=0))
        np.testing.assert_array_equal(pixels[0], [[255, 255, 255], [0, 0, 255]])
        assert array(encoded(image, kind, transparency=0), 4)[0, :, 3].tolist() == [0, 255]


def test_a_transparent_colour_becomes_white():
    image = Image.fromarray(np.array([[[9, 9, 9], [0, 0, 255]]], dtype=np.uint8))
    pixels = array(encoded(image, "PNG", transparency=(9, 9, 9)))
    np.testing.assert_array_equal(pixels[0], [[255, 255, 255], [0, 0, 255]])


def test_cmyk_white_and_black():
    cmyk = np.zeros((16, 32, 4), dtype=np.uint8)
    cmyk[:, 16:, 3] = 255
    pixels = array(encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=98))
    assert pixels[:, :12].min() > 250 and pixels[:, 20:].max() < 5


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(array(data)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind, orientation):
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(undo(PIXELS)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif, **options)
    opened = open_image(data)
    assert oriented_size(opened) == (44, 30)
    upright, factor = load_pixels(opened)
    assert factor == 1
    assert np.abs(np.asarray(upright).astype(int) - PIXELS).max() <= (12 if kind == "JPEG" else 0)
    again = load_pixels(upright)[0]
    assert oriented_size(upright) == (44, 30)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(upright))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_truncated_and_empty_files_raise(kind):
    data = encoded(Image.fromarray(smooth(120, 120)), kind)
    for broken in (data[: len(data) // 2], data[:20], b"", b"no picture at all"):
        with pytest.raises(DecodeError) as caught:
            decode(broken)
        assert str(caught.value)


def test_too_many_pixels_are_refused_and_the_limit_of_pillow_stays():
    data = encoded(Image.new("1", (3000, 1000)), "PNG")
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DecodeError, match="3000 x 1000 pixels"):
        open_image(data, max_pixels=2_999_999)
    assert open_image(data, max_pixels=3_000_000).size == (3000, 1000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_between_pillows_limit_and_ours_a_picture_is_read(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encoded(Image.fromarray(PIXELS), "PNG")).size == (44, 30)


@pytest.mark.parametrize("shrink, factor", [(1.0, 1), (1.9, 1), (2.0, 2), (3.9, 2), (4.5, 4), (100.0, 8)])
def test_jpeg_is_decoded_no_smaller_than_asked(shrink, factor):
    pixels = smooth(133, 201)
    image, used = load_pixels(open_image(encoded(Image.fromarray(pixels), "JPEG", quality=95)), shrink=shrink)
    assert used == factor
    assert image.size == (-(-201 // factor), -(-133 // factor))
    padded = np.pad(pixels, ((0, -133 % factor), (0, -201 % factor), (0, 0)), mode="edge")
    blocks = padded.reshape(image.height, factor, image.width, factor, 3).mean((1, 3))
    assert np.abs(np.asarray(image) - blocks).mean() < 1.5


def test_min_side_is_kept():
    data = encoded(Image.fromarray(smooth(130, 400)), "JPEG")
    for side in (130, 100, 65, 33, 20, 5):
        assert min(decode(data, min_side=side).size) >= side
    assert min(decode(data, min_side=65).size) == 65
    assert decode(encoded(Image.fromarray(smooth(130, 400)), "PNG"), min_side=5).size == (400, 130)


def test_damaged_exif_is_no_reason_to_lose_the_picture():
    data = encoded(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode(data).size == (44, 30)
