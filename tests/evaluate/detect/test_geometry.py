"""Boxes and masks go where the pixels go."""

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.detect.made import corners
from unmask.evaluate.detect.coco import Instance
from unmask.evaluate.detect.geometry import JITTER, Placement, drawn, fitted, visible
from unmask.evaluate.detect.masks import Outline, tight_box
from unmask.evaluate.detect.samples import batched, place

CANVAS = (64, 80)


def scene(size: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[Image.Image, Instance]:
    """A white rectangle on black."""
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    outline = Outline(size, polygons=(tuple(corners(left, top, right - left, bottom - top)),))
    return Image.fromarray(pixels), Instance(tuple(map(float, box)), 1, 1.0, outline=outline)


@pytest.mark.parametrize("jitter", JITTER)
@pytest.mark.parametrize("size", [(48, 64), (97, 61), (200, 300)])
def test_a_box_stays_tight(jitter: str, size: tuple[int, int]) -> None:
    """The bright pixels on the canvas, the box and the mask are the same place, whatever was drawn."""
    box = (size[1] // 5, size[0] // 3, size[1] // 2, size[0] * 4 // 5)
    picture, instance = scene(size, box)
    seen = flipped = cropped = 0
    for seed in range(60):
        placement = drawn(size, CANVAS, np.random.default_rng(seed), scale=JITTER[jitter], flip=True)
        sample = place([instance], picture, placement, masks=True)
        assert sample.pixels.shape[1:] == placement.crop
        assert all(side <= room for side, room in zip(placement.crop, CANVAS, strict=True))
        bright = sample.pixels[0].numpy() > 127
        expected = tight_box(bright)
        if not len(sample.boxes):
            assert expected is None or min(expected[2] - expected[0], expected[3] - expected[1]) <= 2
            continue
        assert expected is not None
        np.testing.assert_allclose(sample.boxes[0], expected, atol=1)
        assert sample.masks is not None
        assert (
            np.array_equal(sample.masks[0].numpy(), bright)
            or (sample.masks[0].numpy() != bright).mean() < 0.02
        )
        assert sample.labels.tolist() == [2]
        seen += 1
        flipped += placement.flipped
        cropped += placement.crop != placement.scaled
    assert seen > 20
    assert 0 < flipped < 60
    assert (cropped > 0) == (jitter == "large_scale")


def test_scaling_is_exact() -> None:
    """Twice as large, mirrored: every edge is where it must be, to the last digit."""
    placement = Placement((10, 20), (20, 40), (4, 6), (16, 30), flipped=True)
    boxes = placement.boxes(np.array([[5.0, 3.0, 9.0, 8.0]]))
    # x: 2 * (5, 9) - 6 = (4, 12), mirrored in 30 (18, 26); y: 2 * (3, 8) - 4 = (2, 12)
    np.testing.assert_array_equal(boxes, [[18, 2, 26, 12]])
    np.testing.assert_allclose(placement.back(boxes), [[5, 3, 9, 8]])


def test_there_and_back() -> None:
    generator = np.random.default_rng(0)
    for size in ((37, 91), (480, 640), (20, 20)):
        low = generator.uniform(0, 0.5, (50, 2)) * np.array(size[::-1])
        boxes = np.concatenate(
            [low, low + generator.uniform(0.1, 0.5, (50, 2)) * np.array(size[::-1])], axis=1
        )
        placement = fitted(size, CANVAS)
        assert max(a / b for a, b in zip(placement.scaled, CANVAS, strict=True)) == 1
        np.testing.assert_allclose(placement.back(placement.boxes(boxes)), boxes, atol=1e-9)


def test_large_scale_jitter_covers_its_range() -> None:
    sides = [
        drawn((64, 80), CANVAS, np.random.default_rng(seed), scale=JITTER["large_scale"], flip=False).scaled[
            0
        ]
        for seed in range(300)
    ]
    assert min(sides) == pytest.approx(6.4, abs=3)
    assert max(sides) == pytest.approx(128, abs=3)
    assert np.mean(sides) == pytest.approx(64 * 1.05, abs=10)  # five standard errors


def test_the_shorter_side_is_drawn_as_far_as_the_longer_one_fits() -> None:
    """A photograph's is 480 to 800 pixels, and 800 to be judged; a panorama's long side fills the canvas."""
    canvas = (1344, 1344)
    draws = [
        drawn(
            (480, 640),
            canvas,
            np.random.default_rng(seed),
            scale=(1.0, 1.0),
            flip=False,
            short_side=(480, 800),
        )
        for seed in range(200)
    ]
    sides = [min(one.scaled) for one in draws]
    assert (min(sides), max(sides)) == (pytest.approx(480, abs=10), pytest.approx(800, abs=10))
    assert all(one.crop == one.scaled for one in draws)
    assert fitted((480, 640), canvas, short_side=800).scaled == (800, 1067)
    assert fitted((300, 1200), canvas, short_side=800).scaled == (336, 1344)


def test_the_same_generator_draws_the_same() -> None:
    def draw(seed: int) -> Placement:
        return drawn((48, 64), CANVAS, np.random.default_rng(seed), scale=(0.1, 2.0), flip=True)

    assert draw(3) == draw(3)
    assert len({draw(seed) for seed in range(10)}) == 10


def test_what_a_crop_leaves_of_an_object_has_the_box_of_its_mask() -> None:
    """An L whose foot is cut off: the box of what is left is that of the upright part."""
    mask = np.zeros((1, 10, 10), dtype=bool)
    mask[0, :, 2:4] = True
    boxes, left = visible(np.array([[2.0, 0.0, 9.0, 10.0]]), mask, (10, 10))
    np.testing.assert_array_equal(boxes, [[2, 0, 4, 10]])
    assert left.tolist() == [True]
    untouched, _ = visible(np.array([[1.5, 0.5, 9.0, 9.5]]), mask, (10, 10))
    np.testing.assert_array_equal(untouched, [[1.5, 0.5, 9.0, 9.5]])


def test_crowds_and_what_is_outside_are_no_targets() -> None:
    picture, instance = scene((40, 40), (5, 5, 15, 15))
    crowd = Instance((0.0, 0.0, 40.0, 40.0), 0, 1600.0, crowd=True)
    placement = Placement((40, 40), (40, 40), (0, 20), (40, 20))
    assert len(place([instance, crowd], picture, placement, masks=False).boxes) == 0
    whole = place([instance, crowd], picture, fitted((40, 40), (40, 40)), masks=False)
    assert whole.boxes.tolist() == [[5, 5, 15, 15]]
    assert whole.masks is None


def test_a_batch_is_nothing_beside_its_pictures() -> None:
    samples = [
        place([], Image.new("RGB", size), fitted(size[::-1], (32, 32)), masks=False)
        for size in ((32, 16), (8, 32))
    ]
    batch = batched(samples, (32, 32), mean=(0.5, 0.25, 1.0))
    assert batch["sizes"] == [(16, 32), (32, 8)]
    assert batch["images"][0, :, 20, 5].tolist() == [128, 64, 255]
    assert batch["images"][0, :, 5, 5].tolist() == [0, 0, 0]
    assert batch["targets"][0]["boxes"].shape == (0, 4)
