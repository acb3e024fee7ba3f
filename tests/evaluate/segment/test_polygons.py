"""Masks painted from COCO's files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unmask.errors import UserError
from unmask.evaluate.segment.polygons import find_polygons
from unmask.evaluate.segment.scenes import survey
from unmask.evaluate.segment.score import IGNORED


def square(left: int, top: int, side: int) -> list[list[int]]:
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 10, "height": 8},
            {"id": 9, "file_name": "b.png", "width": 6, "height": 6},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 30, "segmentation": square(1, 1, 2)},
            {"id": 2, "image_id": 7, "category_id": 20, "segmentation": square(0, 0, 5), "iscrowd": 0},
            {
                "id": 3,
                "image_id": 7,
                "category_id": 20,
                "iscrowd": 1,
                "segmentation": {"counts": [72, 8], "size": [8, 10]},
            },
        ],
        "categories": [{"id": 30, "name": "cat"}, {"id": 20, "name": "bird"}],
    }


def write(folder: Path, found: dict[str, Any], name: str = "train.json") -> Path:
    for picture in content()["images"]:
        Image.new("RGB", (picture["width"], picture["height"])).save(folder / picture["file_name"])
    (folder / name).write_text(json.dumps(found), encoding="utf-8")
    return folder / name


def test_objects_are_painted_smaller_ones_in_front(tmp_path: Path) -> None:
    path = write(tmp_path, content())
    training, validation = find_polygons(tmp_path, path, val_annotations=path)
    assert training.classes == ("background", "bird", "cat") == validation.classes  # in the order of the ids
    expected = np.zeros((8, 10), dtype=np.uint8)
    expected[0:5, 0:5] = 1
    expected[1:3, 1:3] = 2
    expected[:, 9] = IGNORED  # a crowd
    assert np.array_equal(training.read(0).mask, expected)
    assert not training.read(1).mask.any()  # without annotations all is background
    assert survey(training, part="training").tolist() == [80 + 36 - 8 - 25, 21, 4]


def test_the_background_can_be_no_class(tmp_path: Path) -> None:
    path = write(tmp_path, content())
    training, _ = find_polygons(tmp_path, path, val_annotations=path, reduce_zero_label=True)
    mask = training.read(0).mask
    assert training.classes == ("bird", "cat") and mask[0, 0] == 0 and mask[1, 1] == 1
    assert mask[7, 0] == IGNORED


def test_a_fifth_validates_where_nothing_else_is_given(tmp_path: Path) -> None:
    training, validation = find_polygons(tmp_path, write(tmp_path, content()))
    assert (len(training), len(validation)) == (1, 1)


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.pop(key)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("categories"), "has no categories"),
        (lambda found: found["images"].clear(), "names no pictures"),
        (lambda found: found["annotations"][0].update(category_id=5), "annotation 1 is of category 5"),
        (lambda found: found["annotations"][0].update(iscrowd="0"), "annotation 1: iscrowd must be 0 or 1"),
        (
            lambda found: found["images"][0].update(file_name="c.png"),
            "1 of the 2 pictures .* not there.*c.png",
        ),
        (lambda found: found["images"][0].update(height=0), "height must be a number of pixels, not 0"),
        (lambda found: found["images"][0].pop("width"), "picture 7 has no height, or no width"),
        (lambda found: found["images"][0].update(id=9), "picture 9 twice"),
        (lambda found: found["categories"][0].update(id=20), "category 20 twice"),
    ],
)
def test_what_is_no_such_file_is_explained(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    found = content()
    spoil(found)
    with pytest.raises(UserError, match=message):
        find_polygons(tmp_path, write(tmp_path, found))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        find_polygons(tmp_path, tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="no JSON"):
        find_polygons(tmp_path, tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="has no images"):
        find_polygons(tmp_path, tmp_path / "list.json")


def test_categories_that_were_never_trained_are_refused(tmp_path: Path) -> None:
    train = content()
    train["categories"].pop()
    train["annotations"] = train["annotations"][:1]
    path = write(tmp_path, train)
    with pytest.raises(UserError, match=r"val.json calls category 20 'bird'; the training set has no"):
        find_polygons(tmp_path, path, val_annotations=write(tmp_path, content(), "val.json"))


def test_the_same_ids_must_have_the_same_names_in_both_parts(tmp_path: Path) -> None:
    swapped = content()
    swapped["categories"] = [{"id": 30, "name": "bird"}, {"id": 20, "name": "cat"}]
    path, other = write(tmp_path, content()), write(tmp_path, swapped, "val.json")
    with pytest.raises(UserError, match=r"val.json calls category 20 'cat'; .* calls it 'bird'"):
        find_polygons(tmp_path, path, val_annotations=other)


def test_bad_outlines_and_sizes_are_found_by_the_survey(tmp_path: Path) -> None:
    found = content()
    found["annotations"][0]["segmentation"] = [[1, 2]]
    path = write(tmp_path, found)
    training, _ = find_polygons(tmp_path, path, val_annotations=path)
    with pytest.raises(UserError, match=r"a\.png: the annotation with id 1 is none: a polygon needs three"):
        survey(training, part="training")
    found = content()
    found["annotations"], found["images"][0]["width"] = [], 11
    training, _ = find_polygons(tmp_path, write(tmp_path, found), val_annotations=path)
    with pytest.raises(UserError, match="10 x 8 pixels, its mask 11 x 8"):
        survey(training, part="training")


def test_objects_with_a_box_alone_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = content()
    found["annotations"] = [
        {"id": 1, "image_id": 7, "category_id": 20, "bbox": [0, 0, 3, 3], "segmentation": []}
    ]
    path = write(tmp_path, found)
    training, _ = find_polygons(tmp_path, path, val_annotations=path)
    assert not training.read(0).mask.any() and "1 objects" in caplog.text
