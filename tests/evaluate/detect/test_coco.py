"""Reading COCO's JSON: what is kept, what is skipped and counted, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.detect.made import annotation, corners, write_json, write_shapes
from unmask.errors import UserError
from unmask.evaluate.detect.coco import CUT, EMPTY, OUTSIDE, UNMASKED, read_annotations
from unmask.evaluate.detect.masks import run_lengths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of 40 x 30 pixels, a.png and b.png."""
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    return tmp_path


IMAGES = [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "b.png"}]


SMALLER = run_lengths(np.ones((10, 10), dtype=bool))  # for another picture


def written(folder: Path, *annotations: dict[str, Any], **more: Any) -> Path:
    return write_json(folder / "boxes.json", more.pop("images", IMAGES), annotations, **more)


def test_boxes_classes_and_pictures_without_any(folder: Path) -> None:
    file = written(folder, annotation(1, 1, 20, (4, 5, 10, 20)))
    found = read_annotations(file, folder)
    assert (found.names, found.ids) == (("disc", "square"), (10, 20))
    first, second = found.photos
    assert (first.id, first.size, first.path) == (1, (30, 40), folder / "a.png")
    (one,) = first.instances
    assert (one.box, one.category, one.area, one.crowd) == ((4, 5, 14, 25), 1, 200, False)
    assert second.instances == ()
    assert found.skipped == {}
    assert not found.masked


def test_what_is_skipped_or_cut_is_counted(folder: Path) -> None:
    boxes = [
        (4, 5, 0, 20),  # no width
        (4, 5, 10, -3),  # no height
        (50, 5, 10, 10),  # outside
        (-20, 5, 20, 10),  # outside: it only touches the edge
        (35, 25, 10, 10),  # over the corner
        (1, 1, 5, 5),
    ]
    entries = [annotation(number, 1, 10, box) for number, box in enumerate(boxes)]
    found = read_annotations(written(folder, *entries), folder)
    assert found.skipped == {EMPTY: 2, OUTSIDE: 2, CUT: 1}
    assert [one.box for one in found.photos[0].instances] == [(35, 25, 40, 30), (1, 1, 6, 6)]


def test_crowds_are_kept_apart(folder: Path) -> None:
    whole = np.ones((30, 40), dtype=bool)
    crowd = annotation(1, 1, 10, (0, 0, 40, 30), iscrowd=1, segmentation=run_lengths(whole))
    single = annotation(2, 1, 10, (0, 0, 5, 5), segmentation=[corners(0, 0, 5, 5)])
    found = read_annotations(written(folder, crowd, single), folder)
    assert [one.crowd for one in found.photos[0].instances] == [True, False]
    assert found.masked


def test_masks_of_all_three_kinds_are_the_same(folder: Path) -> None:
    drawn = np.zeros((30, 40), dtype=bool)
    drawn[5:25, 4:14] = True
    columns = drawn.T.reshape(-1)
    edges = np.flatnonzero(np.diff(columns.astype(int))) + 1
    counts = np.diff([0, *edges, columns.size]).tolist()
    kinds = [[corners(4, 5, 10, 20)], run_lengths(drawn), {"size": [30, 40], "counts": counts}]
    entries = [
        annotation(number, 1, 10, (4, 5, 10, 20), segmentation=kind) for number, kind in enumerate(kinds)
    ]
    found = read_annotations(written(folder, *entries), folder)
    for one in found.photos[0].instances:
        assert one.outline is not None
        assert np.array_equal(one.outline.bitmap(), drawn)


def test_objects_without_a_mask_are_left_out_where_masks_are_learned(folder: Path) -> None:
    masked = annotation(1, 1, 10, (0, 0, 5, 5), segmentation=[corners(0, 0, 5, 5)])
    others = [annotation(2, 1, 10, (0, 0, 9, 9)), annotation(3, 1, 10, (0, 0, 9, 9), segmentation=[[1, 2]])]
    others[1]["segmentation"] = [[1, 2, 3, 4]]  # two points are no polygon
    found = read_annotations(written(folder, masked, *others), folder)
    assert not found.masked
    learned = found.with_masks()
    assert (learned.objects, learned.skipped) == (1, {UNMASKED: 2})
    with pytest.raises(UserError, match=r"None of the objects .* --no-masks"):
        read_annotations(written(folder, others[0]), folder).with_masks()


def test_the_mask_of_a_crowd_is_none_to_learn_from(folder: Path) -> None:
    outline = run_lengths(np.ones((30, 40), dtype=bool))
    crowd = annotation(1, 1, 10, (0, 0, 40, 30), iscrowd=1, segmentation=outline)
    found = read_annotations(written(folder, crowd, annotation(2, 1, 10, (0, 0, 9, 9))), folder)
    assert (found.objects, found.unmasked, found.masked) == (1, 1, False)
    with pytest.raises(UserError, match="None of the objects"):
        found.with_masks()


def test_what_is_null_is_not_said(folder: Path) -> None:
    images = [{"id": 1, "file_name": "a.png", "width": None, "height": None}]
    file = written(folder, annotation(1, 1, 10, (0, 0, 9, 9), iscrowd=None), images=images)
    (photo,) = read_annotations(file, folder).photos
    assert (photo.size, photo.instances[0].crowd) == ((30, 40), False)


def test_a_box_that_is_missing_is_that_of_the_mask(folder: Path) -> None:
    own = annotation(1, 1, 10, (0, 0, 1, 1), segmentation=[corners(4, 5, 10, 20)])
    del own["bbox"]
    assert read_annotations(written(folder, own), folder).photos[0].instances[0].box == (4, 5, 14, 25)


def test_an_area_that_is_missing_is_that_of_the_mask(folder: Path) -> None:
    triangle = annotation(1, 1, 10, (0, 0, 20, 20), segmentation=[[0, 0, 20, 0, 0, 20]])
    entries = [triangle, annotation(2, 1, 10, (0, 0, 20, 20))]
    for entry in entries:
        del entry["area"]
    masked, plain = read_annotations(written(folder, *entries), folder).photos[0].instances
    assert masked.area == pytest.approx(200, abs=20)
    assert plain.area == 400


def test_validation_counts_classes_as_training_does(folder: Path) -> None:
    train = read_annotations(written(folder, annotation(1, 1, 20, (0, 0, 5, 5))), folder)
    one_class = written(folder, annotation(1, 1, 20, (0, 0, 5, 5)), categories=[{"id": 20, "name": "square"}])
    validation = read_annotations(one_class, folder, like=train)
    assert validation.names == ("disc", "square")
    assert validation.photos[0].instances[0].category == 1
    other = written(folder, categories=[{"id": 20, "name": "cross"}])
    with pytest.raises(UserError, match=r"20 'cross'.*'square'"):
        read_annotations(other, folder, like=train)


def test_upright_size_counts(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.new("RGB", (40, 30)).save(folder / "c.jpg", exif=exif)
    images = [{"id": 1, "file_name": "c.jpg", "width": 30, "height": 40}]
    assert read_annotations(written(folder, images=images), folder).photos[0].size == (40, 30)
    images[0] |= {"width": 40, "height": 30}
    with pytest.raises(UserError, match=r"30 x 40 pixels.*says 40 x 30"):
        read_annotations(written(folder, images=images), folder)


def test_few_broken_pictures_are_skipped(tmp_path: Path) -> None:
    file = write_shapes(tmp_path / "train", "train.json", count=100)
    (tmp_path / "train" / "train-7.png").write_bytes(b"no picture")
    found = read_annotations(file, tmp_path / "train")
    assert len(found.photos) == 99
    assert found.skipped == {"pictures that cannot be read": 1}
    (tmp_path / "train" / "train-8.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2 of the 100 pictures .* cannot be read"):
        read_annotations(file, tmp_path / "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "has no categories"),
        (lambda content: content["annotations"][0].pop("category_id"), "annotation 1 has no category_id"),
        (lambda content: content["annotations"][0].update(category_id=7), "category 7; there are 10, 20"),
        (
            lambda content: content["annotations"][0].update(category_id="10"),
            "category '10'; there are 10, 20",
        ),
        (lambda content: content["annotations"][0].update(category_id=[1]), r"of category \[1\]"),
        (lambda content: content["annotations"][0].update(image_id=[1]), r"on picture \[1\], which"),
        (lambda content: content["annotations"][0].update(iscrowd="0"), "iscrowd must be 0 or 1, not '0'"),
        (lambda content: content["images"][0].update(id=[1]), r"ids of pictures .* not \[1\]"),
        (lambda content: content["images"][0].update(width="40"), "picture 1: width must be .*, not '40'"),
        (lambda content: content["annotations"][0].update(image_id=7), "picture 7, which"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, 3]), "four numbers"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, 3, None]), "four numbers"),
        (lambda content: content["annotations"][0].pop("bbox"), "neither a bbox nor"),
        (
            lambda content: content["annotations"][0].update(segmentation={"size": [9, 9], "counts": [81]}),
            "mask is for a picture of 9 x 9 pixels, but this one has 40 x 30",
        ),
        (
            lambda content: content["annotations"][0].update(segmentation={"size": [30, 40], "counts": [7]}),
            "cover 7 pixels, but the picture has 1,200",
        ),
        *(
            (lambda content, mask=mask: content["annotations"][0].update(segmentation=mask), message)
            for mask, message in (
                ([[1, 2, 3]], "annotation 1: a polygon is a flat list .*3 values"),
                ([[[4, 5], [14, 5], [14, 25], [4, 25]]], r"flat list of numbers .* not \[\[4, 5\]"),
                ([[[4, 5]] * 6], "flat list of numbers"),
                ([[1, 2, "a", 4, 5, 6]], "flat list of numbers .*'a'"),
                ([[1, 2, None, 4, 5, 6]], "flat list of numbers .*None"),
                ({"size": [], "counts": [1200]}, r"annotation 1: .* size \(height, width\) and counts"),
                ({"size": [30, 40], "counts": ["a"]}, r"not numbers of pixels: \['a'\]"),
                ({"size": [30, 40], "counts": [1201, -1]}, "not numbers of pixels"),
                ({"size": [30, 40], "counts": "zzz"}, "annotation 1: .* cannot be read .*symbol 'z'"),
                ({"size": [30, 40], "counts": "P"}, "cannot be read .*not complete"),
                ({"size": [30, 40], "counts": SMALLER["counts"]}, "cover 100 pixels, but .* has 1,200"),
            )
        ),
        (lambda content: content["annotations"][0].update(segmentation="here"), "polygons or run lengths"),
        (lambda content: content["images"][1].update(file_name="c.png"), "1 of the 2 pictures.*c.png"),
        (lambda content: content["images"][1].update(id=1), "picture 1 twice"),
        (lambda content: content["images"].clear(), "names no pictures"),
        (lambda content: content["categories"].clear(), "names no categories"),
        (lambda content: content["categories"][0].update(id=10), "category 10 twice"),
        (lambda content: content.update(images={}), "images must be a list"),
    ],
)
def test_messages(change: Callable[[dict[str, Any]], None], message: str, folder: Path) -> None:
    file = written(folder, annotation(1, 1, 20, (4, 5, 10, 20)))
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_annotations(file, folder)


def test_files_that_are_none(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*none.json"):
        read_annotations(folder / "none.json", folder)
    file = written(folder)
    with pytest.raises(UserError, match="no folder"):
        read_annotations(file, folder / "none")
    file.write_text(file.read_text()[:-5])
    with pytest.raises(UserError, match="no JSON"):
        read_annotations(file, folder)
    file.write_text("[1, 2]")
    with pytest.raises(UserError, match="has no images and no annotations and no categories"):
        read_annotations(file, folder)
