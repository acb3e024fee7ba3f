"""The faster decoder must give Pillow's pixels, and its verdict on broken files."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encoded, smooth
from unmask.data import jpeg
from unmask.data.decode import DecodeError, load_crop, load_pixels, open_image, oriented_size
from unmask.data.loader import PretrainLoader
from unmask.data.sources import open_source
from unmask.data.views import Augment, View, make_views, random_crop

pytestmark = pytest.mark.skipif(jpeg._decode_jpeg is None, reason="simplejpeg is not installed")

KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:2:0, rough": {"subsampling": 2, "quality": 30},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restart marks": {"restart_marker_rows": 1},
    "RGB": {"keep_rgb": True},
}


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves with grain, so that every coefficient and both colour channels have something to say."""
    grain = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return np.clip(smooth(height, width, seed) + grain, 0, 255).astype(np.uint8)


def by_pillow(data: bytes, box: tuple[int, int, int, int], channels: int, shrink: float) -> np.ndarray:
    pixels, factor = load_pixels(open_image(data), channels, shrink=shrink)
    return np.atleast_3d(np.asarray(pixels.crop(tuple(round(edge / factor) for edge in box))))


def random_box(size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int, int, int]:
    left, top = (int(generator.integers(0, side - 17)) for side in size)
    right, bottom = (
        int(generator.integers(start + 17, side + 1)) for start, side in zip((left, top), size, strict=True)
    )
    return left, top, right, bottom


@pytest.fixture
def decoded(monkeypatch):
    """What the faster decoder was asked for and gave, in order."""
    arrays = []

    def record(*arguments, **options):
        arrays.append(options["buffer"])
        return fast(*arguments, **options)

    fast = jpeg._decode_jpeg
    monkeypatch.setattr(jpeg, "_decode_jpeg", record)
    return arrays


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_jpeg_has_the_pixels_that_pillow_gives(kind, channels, decoded):
    generator = np.random.default_rng(len(kind))
    boxes = 0
    for height, width in ((203, 159), (64, 331), (16, 40)):
        data = encoded(Image.fromarray(textured(height, width)), "JPEG", **{"quality": 90, **KINDS[kind]})
        whole = (0, 0, width, height)
        for box in (whole, *(random_box((width, height), generator) for _ in range(4 * (height > 17)))):
            for shrink in (1.0, 2.5, 4.0, 9.0):
                crop = load_crop(open_image(data), box, channels, shrink=shrink)
                np.testing.assert_array_equal(crop, by_pillow(data, box, channels, shrink))
                boxes += 1
    assert len(decoded) == boxes


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
def test_every_orientation_has_the_pixels_that_pillow_gives(orientation, decoded):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(textured(117, 86)), "JPEG", exif=exif)
    size = oriented_size(open_image(data))
    generator = np.random.default_rng(orientation)
    for _ in range(6):
        box = random_box(size, generator)
        for shrink in (1.0, 2.0, 5.0):
            crop = load_crop(open_image(data), box, shrink=shrink)
            np.testing.assert_array_equal(crop, by_pillow(data, box, 3, shrink))
    assert len(decoded) == 18


def test_grey_pictures_in_one_and_three_channels(decoded):
    data = encoded(Image.fromarray(textured(90, 70)[:, :, 0]), "JPEG")
    for channels in (1, 3):
        crop = load_crop(open_image(data), (5, 9, 60, 80), channels)
        np.testing.assert_array_equal(crop, by_pillow(data, (5, 9, 60, 80), channels, 1.0))
        assert crop.shape == (71, 55, channels)
    assert len(decoded) == 2


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_rows_below_the_crop_are_not_decoded_and_the_file_stays_as_it_was(factor):
    data = bytearray(encoded(Image.fromarray(textured(400, 300)), "JPEG"))
    before = bytes(data)
    rows = jpeg.decode_rows(memoryview(data), (300, 400), 3, factor=factor, rows=20)
    assert rows.shape == (22, -(-300 // factor), 3)
    assert bytes(data) == before
    everything = jpeg.decode_rows(memoryview(data), (300, 400), 3, factor=factor, rows=-(-400 // factor))
    assert everything.shape == (-(-400 // factor), -(-300 // factor), 3)
    np.testing.assert_array_equal(rows[:20], everything[:20])


@pytest.mark.parametrize("mode, channels", [("CMYK", 3), ("CMYK", 1), ("RGB", 4)])
def test_what_the_faster_decoder_does_not_know_is_left_to_pillow(mode, channels, decoded):
    data = encoded(Image.fromarray(textured(60, 60)).convert(mode), "JPEG")
    crop = load_crop(open_image(data), (3, 4, 50, 40), channels)
    np.testing.assert_array_equal(crop, by_pillow(data, (3, 4, 50, 40), channels, 1.0))
    assert crop.shape == (36, 47, channels) and not decoded


def test_tiny_pictures_files_and_pictures_without_a_file(tmp_path, decoded):
    tiny = encoded(Image.fromarray(textured(15, 40)), "JPEG")
    np.testing.assert_array_equal(
        load_crop(open_image(tiny), (2, 2, 30, 13)), by_pillow(tiny, (2, 2, 30, 13), 3, 1)
    )
    pixels = textured(50, 40)
    np.testing.assert_array_equal(load_crop(Image.fromarray(pixels), (1, 2, 30, 40)), pixels[2:40, 1:30])
    (tmp_path / "photo.jpg").write_bytes(encoded(Image.fromarray(pixels), "JPEG"))
    with Image.open(tmp_path / "photo.jpg") as image:
        assert load_crop(image, (1, 2, 30, 40)).shape == (38, 29, 3)
    assert not decoded


def outcome(data: bytes, box: tuple[int, int, int, int]) -> np.ndarray | str:
    try:
        return load_crop(open_image(data), box)
    except DecodeError as error:
        return str(error)


def damaged_files() -> list[bytes]:
    generator = np.random.default_rng(0)
    files = []
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = encoded(Image.fromarray(textured(120, 90)), "JPEG", **options)
        ends = [len(data) - 1, len(data) - 2, len(data) - 40, *generator.integers(2, len(data), 12).tolist()]
        files += [data[:end] for end in ends] + [data[:end] + b"\xff\xd9" for end in ends]
        files += [data + b"something that follows the picture", data + data]
        for _ in range(40):
            changed = bytearray(data)
            for place in generator.integers(2, len(data), 3):
                changed[place] = generator.integers(0, 256)
            files.append(bytes(changed))
    return files


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_used_or_refused_as_by_pillow(monkeypatch, decoded):
    files = damaged_files()
    boxes = [(0, 0, 90, 120), (10, 5, 60, 44)]
    fast = [outcome(data, box) for data in files for box in boxes]
    assert len(decoded) > 100
    monkeypatch.setattr(jpeg, "_decode_jpeg", None)
    slow = [outcome(data, box) for data in files for box in boxes]
    assert sum(isinstance(result, str) for result in slow) > 40
    assert sum(not isinstance(result, str) for result in slow) > 100
    for number, (one, other) in enumerate(zip(fast, slow, strict=True)):
        assert isinstance(one, str) == isinstance(other, str), number
        np.testing.assert_array_equal(one, other, err_msg=str(number))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_without_the_faster_decoder(photos, workers, monkeypatch):
    def batches():
        views = {"images": View(), "half": View(scale=0.5, shift=4)}
        loader = PretrainLoader(
            open_source(photos), views, Augment(image_size=(24, 32)), batch_size=6, seed=3, workers=workers
        )
        iterator = loader.batches(0)
        return [next(iterator) for _ in range(6)]

    fast = batches()
    monkeypatch.setattr(jpeg, "_decode_jpeg", None)
    for one, other in zip(fast, batches(), strict=True):
        assert all((one[name] == other[name]).all() for name in ("images", "half"))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_jpeg_that_is_decoded_smaller_stays_in_place_to_half_a_pixel(axis):
    """A ramp tells where a view lies: its mean grey is the place of its middle."""
    side = 1024
    ramp = np.broadcast_to(np.linspace(0, 255, side)[:, None], (side, side)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(ramp if axis == 0 else ramp.T).save(data, "JPEG", quality=98)
    augment = Augment(image_size=(48, 48), crop_scale=(0.05, 0.5), channels=1, flip=False)
    for seed in range(8):
        lazy, exact = (
            make_views(image, {"images": View()}, augment, np.random.default_rng(seed))["images"].double()
            for image in (open_image(data.getvalue()), Image.fromarray(ramp if axis == 0 else ramp.T))
        )
        grey_per_pixel = (exact.max() - exact.min()) / 47
        assert abs(lazy.mean() - exact.mean()) < 0.5 * grey_per_pixel + 0.1


@pytest.mark.parametrize("side, least", [(60, 65.0), (300, 40.0), (800, 40.0)])
def test_views_come_close_to_those_of_the_full_resolution(side, least):
    """Decoding smaller is no poorer a filter: decibels against Pillow's decoding and resampling."""
    data = encoded(Image.fromarray(textured(side, side + side // 3)), "JPEG", quality=90)
    augment = Augment(image_size=(64, 64), flip=False)
    full, errors = load_pixels(open_image(data))[0], []
    for seed in range(6):
        view, generator = (np.random.default_rng(seed) for _ in range(2))
        view = make_views(open_image(data), {"images": View()}, augment, view)["images"]
        left, top, width, height = random_crop(full.size, augment, generator)
        exact = full.crop((left, top, left + width, top + height)).resize((64, 64), Image.Resampling.BICUBIC)
        errors.append(np.square(view.permute(1, 2, 0).numpy() - np.asarray(exact, dtype=float)).mean())
    assert 10 * np.log10(255**2 / np.mean(errors)) > least
