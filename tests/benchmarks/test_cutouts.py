"""The generated set is as exact as it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.cutouts import CLASSES, PARTS, write_cutouts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cutouts(tmp_path_factory.mktemp("cutouts"), training=12, validation=4, seed=3)


def read(folder: Path, name: str, part: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}_{part}.json").read_text())


def decoded(run_lengths: dict[str, Any]) -> np.ndarray:
    inside = np.repeat(np.arange(len(run_lengths["counts"])) % 2, run_lengths["counts"])
    return inside.reshape(run_lengths["size"], order="F").astype(bool)


@pytest.mark.parametrize("part", PARTS)
def test_masks_boxes_and_indices_agree(folder: Path, part: str) -> None:
    exact = read(folder, "masks", part)
    found = {
        picture["id"]: np.zeros((picture["height"], picture["width"]), int) for picture in exact["images"]
    }
    for one in exact["annotations"]:
        mask = decoded(one["segmentation"])
        rows, columns = np.nonzero(mask)
        left, top, width, height = one["bbox"]
        assert (columns.min(), rows.min()) == (left, top)
        assert (columns.max() + 1, rows.max() + 1) == (left + width, top + height)
        assert mask.sum() == one["area"] > 50
        assert not found[one["image_id"]][mask].any()  # shapes do not overlap
        found[one["image_id"]][mask] = one["category_id"]
    for picture in exact["images"]:
        written = Image.open(folder / "annotations" / part / picture["file_name"].replace("jpg", "png"))
        assert np.array_equal(np.asarray(written), found[picture["id"]])
        assert Image.open(folder / "images" / part / picture["file_name"]).size == written.size


def test_polygons_are_the_outlines_of_the_masks(folder: Path) -> None:
    pairs = zip(
        read(folder, "masks", "training")["annotations"],
        read(folder, "instances", "training")["annotations"],
        strict=True,
    )
    for exact, outlined in pairs:
        assert {**exact, "segmentation": 0} == {**outlined, "segmentation": 0}
        mask, [polygon] = decoded(exact["segmentation"]), outlined["segmentation"]
        drawing = Image.new("L", (mask.shape[1] * 8, mask.shape[0] * 8))
        ImageDraw.Draw(drawing).polygon([8 * value for value in polygon], fill=1)
        drawn = np.asarray(drawing.resize((mask.shape[1], mask.shape[0]), Image.Resampling.NEAREST))
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9


def test_all_classes_occur_and_sides_differ(folder: Path) -> None:
    found = read(folder, "instances", "training")
    assert {one["category_id"] for one in found["annotations"]} == set(range(1, len(CLASSES)))
    assert len({(one["width"], one["height"]) for one in found["images"]}) > 6
    assert (folder / "classes.txt").read_text().split() == list(CLASSES)


def test_more_pictures_leave_the_first_ones_as_they_are(folder: Path, tmp_path: Path) -> None:
    write_cutouts(tmp_path, training=2, validation=1, seed=3)
    for path in sorted(tmp_path.rglob("*0*.*")):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()
    other = write_cutouts(tmp_path / "other", training=1, validation=1, seed=4)
    first = Path("images", "training", "00000.jpg")
    assert (other / first).read_bytes() != (folder / first).read_bytes()


def test_typical_colours_change_nothing_but_colours(tmp_path: Path) -> None:
    """Every shape's mean colour is nearest to those of its own class."""
    write_cutouts(tmp_path, training=30, validation=1, seed=3, typical_colours=True)
    colours: dict[int, list[np.ndarray]] = {}
    for number in range(30):
        mask = np.asarray(Image.open(tmp_path / "annotations" / "training" / f"{number:05}.png"))
        picture = Image.open(tmp_path / "images" / "training" / f"{number:05}.jpg").convert("HSV")
        hue = np.asarray(picture)[..., 0] / 256 * 2 * np.pi
        for kind in set(np.unique(mask)) - {0}:
            found = np.exp(1j * hue[mask == kind]).mean()
            colours.setdefault(int(kind), []).append(found / abs(found))
    for kind, found in colours.items():
        wanted = np.exp(2j * np.pi * kind / (len(CLASSES) - 1))
        assert np.abs(np.angle(np.array(found) / wanted)).mean() < 0.4
