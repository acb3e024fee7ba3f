"""COCO's JSON as every task reads it; what a broken one is told, tests of detection say."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unmask.data.coco import CocoPicture, read_coco
from unmask.errors import UserError

CATEGORIES = [{"id": 30, "name": "cat"}, {"id": 20, "name": "bird"}]


def written(folder: Path, annotations: list[dict[str, Any]], categories: list[dict[str, Any]]) -> Path:
    images = [{"id": 7, "file_name": "a.png", "width": 10, "height": 8.0}, {"id": "b", "file_name": "b.png"}]
    for name in ("a", "b"):
        Image.new("RGB", (10, 8)).save(folder / f"{name}.png")
    path = folder / "objects.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_what_belongs_together(tmp_path: Path) -> None:
    own = [{"image_id": "b", "category_id": 30}, {"id": 5, "image_id": "b", "category_id": 20, "iscrowd": 1}]
    found = read_coco(written(tmp_path, own, CATEGORIES), tmp_path)
    assert list(found.names.items()) == [(20, "bird"), (30, "cat")]
    assert found.pictures == {
        7: CocoPicture(tmp_path / "a.png", (8, 10)),
        "b": CocoPicture(tmp_path / "b.png", (None, None)),
    }
    assert found.annotations == {7: [], "b": own}
    assert found.place(own[1]) == f"{tmp_path / 'objects.json'}: annotation 5"


def test_a_validation_set_has_the_categories_of_training(tmp_path: Path) -> None:
    """In their order, also those that it does not name; never another name for the same id."""
    trained = {20: "bird", 30: "cat"}
    assert read_coco(written(tmp_path, [], CATEGORIES[:1]), tmp_path, trained=trained).names == trained
    swapped = [{"id": 20, "name": "cat"}, {"id": 30, "name": "bird"}]
    with pytest.raises(UserError, match=r"calls category 20 'cat'; the training set calls it 'bird'"):
        read_coco(written(tmp_path, [], swapped), tmp_path, trained=trained)
