"""Arrays are cropped, resized and brought to a depth as 8-bit pictures are, without losing any."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.conftest import encoded, smooth
from tests.data.test_native import deep_png
from unmask.data.arrays import open_picture, resize, resize_box, to_channels, to_depth
from unmask.data.decode import DecodeError
from unmask.data.views import Augment, View, as_fractions, evaluation_view, make_views, normalise

PIXELS = smooth(60, 80)


def test_depths() -> None:
    eight = np.array([[[0], [128], [255]]], np.uint8)
    sixteen = np.array([[[0], [128 * 257], [65535]]], np.uint16)
    np.testing.assert_array_equal(to_depth(eight, 16), sixteen)
    np.testing.assert_array_equal(to_depth(sixteen, 8), eight)
    assert to_depth(sixteen, 32).tolist() == sixteen.tolist() and to_depth(sixteen, 32).dtype == np.float32
    assert to_depth(eight > 100, 8).tolist() == [[[0], [255], [255]]]
    np.testing.assert_array_equal(to_depth(sixteen.astype(np.int64), 16), sixteen)
    for wrong in (sixteen.astype(np.float32), sixteen.astype(np.int32) - 1, sixteen.astype(np.int32) + 1):
        with pytest.raises(DecodeError, match="no agreed range in 16 bits"):
            to_depth(wrong, 16)


def test_what_is_not_finite_becomes_the_mean_of_its_channel() -> None:
    values = np.array([[[1.0, np.nan], [3.0, 5.0], [np.inf, 7.0]]])
    assert to_depth(values, 32).tolist() == [[[1, 6], [3, 5], [2, 7]]]


def test_channels() -> None:
    grey = np.full((2, 2, 1), 1000, np.uint16)
    assert to_channels(grey, 3).tolist() == np.full((2, 2, 3), 1000).tolist()
    assert to_channels(grey, 4)[0, 0].tolist() == [1000, 1000, 1000, 65535]
    colour = np.array([[[1000, 2000, 4000]]], np.uint16)
    assert to_channels(colour, 1).tolist() == [[[299 + 1174 + 456]]]
    for found, wanted in ((5, 3), (3, 5), (2, 3), (1, 2)):
        with pytest.raises(DecodeError, match=f"{found} channels?, and data.channels is {wanted}"):
            to_channels(np.zeros((2, 2, found)), wanted)


def test_eight_bit_pictures_are_not_decoded_twice() -> None:
    picture = open_picture(encoded(Image.fromarray(PIXELS), "JPEG"))
    assert isinstance(picture, Image.Image)
    array = open_picture(encoded(Image.fromarray(PIXELS), "PNG"), 3, 16)
    np.testing.assert_array_equal(array, PIXELS.astype(np.uint16) * 257)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_every_depth_is_resized_alike(interpolation: str, kind: type) -> None:
    unit = {np.uint8: 1, np.uint16: 257.0, np.float32: 1 / 255}[kind]
    values = (PIXELS * unit).astype(kind)
    for size in ((23, 31), (90, 130)):
        expected = np.asarray(
            Image.fromarray(PIXELS).resize(size[::-1], getattr(Image.Resampling, interpolation.upper()))
        )
        found = resize(values, size, interpolation).permute(1, 2, 0).double() / unit
        assert found.dtype == torch.float64 and found.shape == (*size, 3)
        assert np.abs(found.numpy().clip(0, 255) - expected).max() < 1.6


def test_sixteen_bits_do_not_wrap_at_edges() -> None:
    edge = np.zeros((8, 8, 1), np.uint16)
    edge[:, 4:] = 65535
    for interpolation in ("bicubic", "lanczos"):
        large = resize(edge, (32, 32), interpolation)[0].int()
        assert large.diff(dim=-1).min() > -8000 and large.max() == 65535 and large.min() == 0


def test_part_of_a_picture_with_edges_between_pixels() -> None:
    ramp = np.tile(np.arange(16, dtype=np.float32)[None, :, None], (4, 1, 2))
    found = resize_box(ramp, (2.5, 0.0, 10.5, 4.0), (2, 8), "bilinear")
    assert torch.allclose(found[0, 0], torch.arange(8) + 2.5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_of_an_array_are_those_of_the_picture(flip: bool, channels: int) -> None:
    image = Image.fromarray(PIXELS if channels == 3 else PIXELS[..., 0])
    data = encoded(image, "PNG")
    views = {"small": View(scale=0.5, shift=6), "whole": View(interpolation="bilinear")}
    for seed in range(4):
        made = [
            make_views(picture, views, augment, np.random.default_rng(seed))
            for picture, augment in (
                (open_picture(data, channels), Augment((32, 40), flip=flip, channels=channels)),
                (open_picture(data, channels, 16), Augment((32, 40), flip=flip, channels=channels, bits=16)),
                (open_picture(data, channels, 32), Augment((32, 40), flip=flip, channels=channels, bits=32)),
            )
        ]
        for name in views:
            assert [one[name].dtype for one in made] == [torch.uint8, torch.uint16, torch.float32]
            assert (made[0][name] - made[1][name].double() / 257).abs().max() < 1.1
            assert (made[1][name].double() / 257 - made[2][name].clamp(0, 255)).abs().max() < 0.01
    centre = [
        evaluation_view(open_picture(data, channels, bits), (32, 32), channels=channels)
        for bits in (8, 16, 32)
    ]
    assert (centre[0] - centre[1].double() / 257).abs().max() < 1.1
    assert (centre[1].double() / 257 - centre[2].clamp(0, 255)).abs().max() < 0.01


def test_sixteen_bits_arrive_on_the_device() -> None:
    pytest.importorskip("imagecodecs")
    values = np.random.default_rng(0).integers(30000, 30040, (16, 16, 3), dtype=np.uint16)
    picture = open_picture(deep_png(values), 3, 16)
    view = make_views(
        picture, {"images": View()}, Augment((16, 16), (1.0, 1.0), (1.0, 1.0), flip=False, bits=16),
        np.random.default_rng(0),
    )["images"][None]  # fmt: skip
    mean, std = (30020 / 65535,) * 3, (1e-4,) * 3
    assert np.unique(view.numpy()).size == 40  # in 8 bits it would be one grey
    expected = (torch.from_numpy(values.astype(np.float64)).permute(2, 0, 1) / 65535 - mean[0]) / 1e-4
    assert (normalise(view, mean, std)[0] - expected).abs().max() < 1e-3
    assert torch.allclose(as_fractions(view)[0].double(), expected * 1e-4 + mean[0])
    floats = torch.rand(2, 5, 4, 4) * 1000
    assert torch.allclose(normalise(floats, (500.0,) * 5, (10.0,) * 5), (floats - 500) / 10, atol=1e-4)
    assert as_fractions(floats).equal(floats)
