"""Pictures of segmentations."""

import numpy as np
from PIL import Image

from unmask.evaluate.segment.pictures import GREY, RIGHT, WRONG, as_picture, mistakes, overlay, palette, sheet
from unmask.evaluate.segment.score import IGNORED


def test_classes_have_colours_that_can_be_told_apart() -> None:
    colours = palette(150)
    assert len({tuple(colour) for colour in colours[:150].tolist()}) == 150
    assert tuple(colours[IGNORED]) == GREY
    first = colours[:8].astype(int)
    distances = np.abs(first[:, None] - first[None]).sum(-1)[~np.eye(8, dtype=bool)]
    assert distances.min() > 60


def test_an_overlay_is_the_classes_colour_over_grey() -> None:
    picture = np.full((2, 2, 3), 100, dtype=np.uint8)
    mask = np.array([[0, 1], [1, IGNORED]], dtype=np.uint8)
    colours = palette(2)
    found = overlay(picture, mask, colours)
    assert np.array_equal(found[0, 1], np.rint(0.38 * 100 + 0.62 * colours[1].astype(float)))
    assert np.array_equal(found[0, 1], found[1, 0]) and not np.array_equal(found[0, 0], found[0, 1])


def test_mistakes_are_red_right_pixels_green_and_those_without_a_class_grey() -> None:
    black = np.zeros((1, 3, 3), dtype=np.uint8)
    found = mistakes(black, np.array([[1, 1, IGNORED]]), np.array([[1, 0, 1]]))
    expected = [np.rint(0.62 * np.array(colour)) for colour in (RIGHT, WRONG, GREY)]
    assert np.abs(found[0] - np.array(expected)).max() <= 1


def test_the_sheet_has_a_row_for_every_scene_and_names_what_is_in_them() -> None:
    generator = np.random.default_rng(0)
    rows = []
    for height, width in ((60, 80), (90, 30)):
        truth = generator.integers(0, 3, size=(height, width))
        truth[0] = IGNORED
        rows.append((generator.integers(0, 256, size=(height, width, 3)).astype(np.uint8), truth, truth % 2))
    one, two = sheet(rows[:1], ("a", "b", "c")), sheet(rows, ("a", "b", "c"))
    assert two.height > one.height + 200 and two.width == one.width
    legend = np.asarray(two)[-30:].reshape(-1, 4)
    for number in (0, 1, 2, IGNORED):
        assert (legend[:, :3] == palette(3)[number]).all(1).any()
    names = [f"a class with a long name, number {number}" for number in range(9)]
    every = np.arange(9).repeat(20).reshape(12, 15)
    longer = sheet([(np.zeros((12, 15, 3), dtype=np.uint8), every, every)], names)
    short = sheet([(np.zeros((12, 15, 3), dtype=np.uint8), every, every)], "abcdefghi")
    assert longer.height > short.height  # the legend takes more lines


def test_pictures_of_any_kind_can_be_shown() -> None:
    deep = np.linspace(0, 60000, 12).reshape(3, 4, 1).astype(np.uint16)
    shown = as_picture(deep)
    assert shown.shape == (3, 4, 3) and shown.min() == 0 and shown.max() == 255
    five = np.zeros((3, 4, 5), dtype=np.uint8)
    assert Image.fromarray(as_picture(five)).size == (4, 3)
