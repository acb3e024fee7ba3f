"""What was found, missed and wrong can be told apart on the picture."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.evaluate.detect.made import annotation, write_json
from unmask.evaluate.detect.coco import Annotations, read_annotations
from unmask.evaluate.detect.found import Found
from unmask.evaluate.detect.masks import run_lengths
from unmask.evaluate.detect.pictures import ALARM, FOUND, MISSED, SIDE, panel, sheet

WIDTH, HEIGHT = 140, 70
FACTOR = SIDE // WIDTH


def scene(tmp_path: Path) -> Annotations:
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / "a.png")
    boxes = [annotation(1, 1, 10, (10, 20, 20, 20)), annotation(2, 1, 20, (60, 20, 20, 20))]
    images = [{"id": 1, "file_name": "a.png"}]
    return read_annotations(write_json(tmp_path / "a.json", images, boxes), tmp_path)


def colours_along(image: Image.Image, box: tuple[int, int, int, int]) -> set[tuple[int, ...]]:
    """Of the left edge of a box, away from its corners."""
    pixels = np.asarray(image.convert("RGB"))
    left, top, _, bottom = (edge * FACTOR for edge in box)
    return {tuple(map(int, one)) for one in pixels[top + 6 : bottom - 6, left]}


def test_each_kind_of_box_has_its_colour(tmp_path: Path) -> None:
    annotations = scene(tmp_path)
    found = Found(
        np.array([[10.0, 20, 30, 40], [100, 20, 130, 40], [100, 50, 120, 60]]),
        np.array([0, 1, 1]),
        np.array([0.9, 0.8, 0.3]),
    )
    image = panel(annotations.photos[0], found, annotations.names)
    assert colours_along(image, (10, 20, 30, 40)) == {FOUND}
    assert colours_along(image, (60, 20, 80, 40)) == {MISSED, (90, 90, 90)}  # dashes
    assert colours_along(image, (100, 20, 130, 40)) == {ALARM}
    assert colours_along(image, (100, 50, 120, 60)) == {(90, 90, 90)}  # not sure enough


def test_masks_are_tinted(tmp_path: Path) -> None:
    annotations = scene(tmp_path)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[20:40, 10:30] = True
    found = Found(np.array([[10.0, 20, 30, 40]]), np.array([0]), np.array([0.9]), (run_lengths(mask),))
    pixels = np.asarray(panel(annotations.photos[0], found, annotations.names))
    inside, outside = pixels[30 * FACTOR, 20 * FACTOR], pixels[30 * FACTOR, 45 * FACTOR]
    np.testing.assert_allclose(inside, 0.55 * 90 + 0.45 * np.array(FOUND), atol=1)
    assert outside.tolist() == [90, 90, 90]


def test_a_sheet_holds_all(tmp_path: Path) -> None:
    annotations = scene(tmp_path)
    image = sheet(annotations.photos * 4, {}, annotations)
    assert image.width == 3 * SIDE + 20
    assert image.height > 2 * SIDE * HEIGHT // WIDTH
