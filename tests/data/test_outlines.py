"""COCO's polygons and run lengths as masks."""

import numpy as np
import pytest

from unmask.data.outlines import object_mask

# Three of four corners of a 4 x 6 picture, as COCO's own encoder writes them.
SHAPE = np.zeros((4, 6), dtype=bool)
SHAPE[0, 0] = SHAPE[1:3, 2:5] = SHAPE[3, 5] = True


def runs(mask: np.ndarray) -> list[int]:
    inside = mask.flatten(order="F").astype(int)
    changes = np.flatnonzero(np.diff(np.r_[0, inside])).tolist()
    return np.diff([0, *changes, inside.size]).tolist()


def test_polygons_along_pixel_edges_are_exact() -> None:
    mask = object_mask([[1, 1, 4, 1, 4, 3, 1, 3], [5, 0, 6, 0, 6, 1, 5, 1]], (4, 6))
    expected = np.zeros((4, 6), dtype=bool)
    expected[1:3, 1:4] = expected[0, 5] = True
    assert np.array_equal(mask, expected)


def test_a_pixel_belongs_to_what_covers_at_least_half_of_it() -> None:
    assert object_mask([[0, 0, 1.75, 0, 1.75, 1, 0, 1]], (1, 3)).tolist() == [[True, True, False]]
    assert object_mask([[0, 0, 1.25, 0, 1.25, 1, 0, 1]], (1, 3)).tolist() == [[True, False, False]]
    area = object_mask([[10.0, 10.0, 90.0, 20.0, 50.0, 80.0]], (100, 100)).sum()
    assert abs(area - 2600) < 30  # half the cross product of two sides


def test_what_leaves_the_picture_is_cut_off() -> None:
    assert object_mask([[-5, -5, 2, -5, 2, 2, -5, 2]], (3, 3)).sum() == 4
    assert not object_mask([[7, 7, 9, 7, 9, 9]], (3, 3)).any()
    assert not object_mask([], (3, 3)).any()


def test_run_lengths_as_numbers_and_as_text() -> None:
    numbers = runs(SHAPE)
    assert np.array_equal(object_mask({"counts": numbers, "size": [4, 6]}, (4, 6)), SHAPE)
    # By hand: 0, 1, 8, then each the difference to the run before the last; all within four bits and sign.
    text = "".join(
        chr(48 + ((length - (numbers[place - 2] if place > 2 else 0)) & 31))
        for place, length in enumerate(numbers)
    )
    assert np.array_equal(object_mask({"counts": text, "size": [4, 6]}, (4, 6)), SHAPE)
    assert np.array_equal(object_mask({"counts": text.encode(), "size": [4, 6]}, (4, 6)), SHAPE)


def test_text_of_the_official_library() -> None:
    coco = pytest.importorskip("faster_coco_eval.core.mask")
    mask = np.random.default_rng(0).random((120, 90)) < 0.02
    mask[20:100, 30:70] = True  # long runs need several symbols
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(object_mask(text, (120, 90)), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, 1, 1]], "three corners or more"),
        ([[0, 0, 1, 1, 2]], "flat list of numbers"),
        ([["a", 0, 1, 1, 2, 2]], "flat list of numbers"),
        ([[0, 0, 1, float("nan"), 2, 2]], "all finite"),
        ("polygon", "neither a list"),
        ({"counts": [3], "size": [2, 2]}, "cover 3 pixels, but the picture has 4"),
        ({"counts": [2, -1, 3], "size": [2, 2]}, "not numbers of pixels"),
        ({"counts": [4], "size": [1, 4]}, "picture of 4 x 1 pixels, but this one has 2 x 2"),
        ({"counts": [4]}, "size .height, width. and counts"),
        ({"counts": "\x01", "size": [2, 2]}, "cannot be read .*symbol"),
        ({"counts": "R", "size": [2, 2]}, "not complete"),
    ],
)
def test_what_is_no_outline_is_explained(segmentation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        object_mask(segmentation, (2, 2))
