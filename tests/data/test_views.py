"""All views of a sample must show the same place; evaluation sees the centre."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.conftest import encoded, smooth
from unmask.data.decode import open_image
from unmask.data.views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augment,
    View,
    evaluation_view,
    make_views,
    normalise,
    random_crop,
)

PICTURE = Image.fromarray(smooth(150, 200))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 32)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_and_type(size, channels):
    augment = Augment(image_size=size, channels=channels)
    views = make_views(PICTURE, {"images": View(), "small": View(scale=0.5)}, augment, generator())
    assert views["images"].shape == (channels, *size)
    assert views["small"].shape == (channels, size[0] // 2, size[1] // 2)
    assert all(view.dtype == torch.uint8 and view.is_contiguous() for view in views.values())


def test_the_half_view_is_the_full_view_at_half_the_size():
    for seed in range(10):
        augment = Augment(image_size=(64, 64))
        views = make_views(PICTURE, {"images": View(), "small": View(scale=0.5)}, augment, generator(seed))
        pooled = torch.nn.functional.avg_pool2d(views["images"].float(), 2)
        assert difference(pooled, views["small"]) < 1.5


def test_one_seed_one_crop_and_other_seeds_others():
    augment = Augment(image_size=(32, 32))
    first, same, other = (
        make_views(PICTURE, {"images": View()}, augment, generator(seed))["images"] for seed in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_whole_picture_without_flip_is_a_plain_resize():
    augment = Augment(image_size=(75, 100), crop_scale=(1, 1), crop_ratio=(1, 1), flip=False)
    view = make_views(PICTURE, {"images": View(interpolation="bilinear")}, augment, generator())["images"]
    expected = np.asarray(PICTURE.resize((100, 75), Image.Resampling.BILINEAR))
    assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_half_of_the_samples_are_mirrored():
    augment = Augment(image_size=(30, 40), crop_scale=(1, 1), crop_ratio=(1, 1))
    plain = make_views(
        PICTURE,
        {"images": View()},
        Augment(image_size=(30, 40), crop_scale=(1, 1), crop_ratio=(1, 1), flip=False),
        generator(),
    )["images"]
    mirrored = 0
    for seed in range(200):
        view = make_views(PICTURE, {"images": View()}, augment, generator(seed))["images"]
        assert torch.equal(view, plain) or torch.equal(view.flip(-1), plain)
        mirrored += torch.equal(view.flip(-1), plain)
    assert 70 < mirrored < 130


@pytest.mark.parametrize("shift", [5, 12])
def test_a_shifted_view_is_a_window_of_the_same_canvas(shift):
    offsets = set()
    for seed in range(60):
        augment = Augment(image_size=(60, 60))
        views = make_views(
            PICTURE, {"images": View(), "shifted": View(shift=shift)}, augment, generator(seed)
        )
        places = [
            (down, right)
            for down in range(shift + 1)
            for right in range(shift + 1)
            if torch.equal(views["images"][:, down:, right:], views["shifted"][:, : 60 - down, : 60 - right])
        ]
        assert len(places) == 1
        offsets.add(places[0])
    assert len(offsets) > 20
    assert {down for down, _ in offsets} == {right for _, right in offsets} == set(range(shift + 1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_training_and_pillow_resample_alike(interpolation, channels):
    augment = Augment((37, 41), (1, 1), (200 / 150 * 37 / 41,) * 2, False, interpolation, channels)
    view = make_views(PICTURE, {"images": View()}, augment, generator())["images"]
    image = PICTURE.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    expected = np.atleast_3d(
        np.asarray(image.resize((41, 37), getattr(Image.Resampling, interpolation.upper())))
    )
    assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("side", [45, 46, 47, 48])
def test_scale_and_shift_together_keep_the_size(side):
    views = {"images": View(), "small": View(scale=0.5, shift=3), "large": View(scale=1.5, shift=1)}
    for seed in range(10):
        result = make_views(PICTURE, views, Augment(image_size=(side, side)), generator(seed))
        assert [view.shape[1:] for view in result.values()] == [
            (side, side), (round(side / 2),) * 2, (round(side * 1.5),) * 2,
        ]  # fmt: skip


def test_crops_cover_the_asked_areas_and_ratios():
    augment = Augment(image_size=(64, 64))
    areas, ratios, corners = [], [], set()
    for seed in range(2000):
        left, top, width, height = random_crop((400, 300), augment, generator(seed))
        assert left >= 0 and top >= 0 and left + width <= 400 and top + height <= 300
        areas.append(width * height / 120_000)
        ratios.append(width / height)
        corners.add((left, top))
    assert 0.19 < min(areas) < 0.22 and 0.9 < max(areas) <= 1.0
    assert 0.74 < min(ratios) < 0.77 and 1.30 < max(ratios) < 1.35
    assert len(corners) > 1500


def test_rectangular_images_are_not_squeezed():
    augment = Augment(image_size=(32, 128), crop_scale=(0.05, 0.2))
    ratios = [np.divide(*random_crop((800, 800), augment, generator(seed))[2:]) for seed in range(300)]
    assert min(ratios) > 4 * 0.74 and max(ratios) < 4 * 1.35
    assert abs(np.log(ratios).mean() - np.log(4)) < 0.05


def test_very_long_pictures_fall_back_to_the_centre():
    augment = Augment(image_size=(16, 16), crop_scale=(1, 1))
    assert random_crop((1000, 10), augment, generator()) == (493, 0, 13, 10)
    assert random_crop((10, 1000), augment, generator()) == (0, 493, 10, 13)
    assert random_crop((1, 1), augment, generator()) == (0, 0, 1, 1)
    assert make_views(Image.new("RGB", (1, 1)), {"images": View()}, augment, generator())["images"].shape == (
        3,
        16,
        16,
    )


def test_a_large_jpeg_gives_the_same_view_as_its_full_decoding():
    pixels = smooth(601, 803)
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    for seed in range(8):
        augment = Augment(image_size=(48, 48))
        views = {"images": View(), "small": View(scale=0.5)}
        lazy = make_views(open_image(data), views, augment, generator(seed))
        full = make_views(Image.fromarray(pixels), views, augment, generator(seed))
        one_pixel = difference(full["images"][:, 1:], full["images"][:, :-1])
        assert all(difference(lazy[name], full[name]) < one_pixel for name in views)


def test_evaluation_is_the_centre_at_the_usual_scale():
    view = evaluation_view(PICTURE, (56, 56))
    expected = PICTURE.resize((round(200 * 64 / 150), 64), Image.Resampling.BICUBIC)
    left, top = (expected.width - 56) // 2, 4
    expected = expected.crop((left, top, left + 56, top + 56))
    assert difference(view, torch.from_numpy(np.array(expected)).permute(2, 0, 1)) < 2
    mirrored = evaluation_view(PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (56, 56))
    assert difference(mirrored.flip(-1), view) < 0.1


def test_evaluation_covers_rectangles():
    whole = evaluation_view(PICTURE, (75, 100), crop_fraction=1.0)
    np.testing.assert_array_equal(
        whole.permute(1, 2, 0).numpy(), np.asarray(PICTURE.resize((100, 75), Image.Resampling.BICUBIC))
    )
    assert evaluation_view(PICTURE, (20, 90), channels=1).shape == (1, 20, 90)
    with pytest.raises(ValueError, match="crop_fraction"):
        evaluation_view(PICTURE, (20, 20), crop_fraction=1.5)


def test_evaluation_of_a_large_jpeg():
    pixels = smooth(600, 900)
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    lazy, full = (evaluation_view(image, (50, 70)) for image in (open_image(data), Image.fromarray(pixels)))
    assert difference(lazy, full) < 1


def test_normalise():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(normalise(images), (images / 255 - mean) / std)
    torch.testing.assert_close(normalise(images, (0.5,) * 3, (0.5,) * 3), images / 127.5 - 1)
    grey = normalise(images[:, :1])
    torch.testing.assert_close(grey, (images[:, :1] / 255 - mean.mean()) / std.mean())
    with pytest.raises(ValueError, match="mean has 3 values, but the images have 1 channels"):
        normalise(images[:, :1], IMAGENET_MEAN)
    with pytest.raises(ValueError, match="std must be positive"):
        normalise(images, None, (0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": (0, 8)},
        {"image_size": (8, 8), "crop_scale": (0.5, 0.2)},
        {"image_size": (8, 8), "crop_scale": (0.0, 0.2)},
        {"image_size": (8, 8), "crop_ratio": (2.0, 1.0)},
        {"image_size": (8, 8), "channels": 0},
        {"image_size": (8, 8), "interpolation": "nearest"},
    ],
)
def test_impossible_augmentations_are_refused(wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        Augment(**wrong)


@pytest.mark.parametrize("wrong", [{"scale": 0}, {"shift": -1}, {"interpolation": "cubic"}])
def test_impossible_views_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        View(**wrong)
