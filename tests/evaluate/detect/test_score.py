"""Average precision: perfect detections have 1.0, and what COCO does not count is not counted."""

import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image

from tests.evaluate.detect.made import annotation, corners, write_json, write_shapes
from unmask.evaluate.detect.coco import Annotations, read_annotations
from unmask.evaluate.detect.found import Found, coco_results, hits
from unmask.evaluate.detect.masks import run_lengths
from unmask.evaluate.detect.score import PREFIX, average_precision


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    return read_annotations(write_shapes(tmp_path / "a", "a.json", masks="runs", count=3), tmp_path / "a")


def perfect(annotations: Annotations, score: float = 0.9) -> dict[int | str, Found]:
    found = {}
    for photo in annotations.photos:
        single = [one for one in photo.instances if not one.crowd]
        runs = tuple(run_lengths(one.outline.bitmap()) for one in single if one.outline is not None)
        found[photo.id] = Found(
            np.array([one.box for one in single]).reshape(-1, 4),
            np.array([one.category for one in single], dtype=np.int64),
            np.full(len(single), score),
            runs if len(runs) == len(single) else None,
        )
    return found


def test_perfect_predictions_have_an_ap_of_one(annotations: Annotations) -> None:
    figures = average_precision(perfect(annotations), annotations, masks=True, each_class=True)
    for name in ("AP", "AP50", "AP75", "AP_small", "AR", "mask_AP", "mask_AP50", "mask_AP75"):
        assert figures[name] == pytest.approx(1.0)
    assert "AP_large" not in figures  # there is nothing large
    assert figures["classes"] == [
        {"class": name, "objects": 3, "AP": 1.0, "mask_AP": 1.0, "found": 3, "missed": 0, "false_alarms": 0}
        for name in ("disc", "square")
    ]


def test_boxes_a_little_off_pass_only_the_lower_thresholds(annotations: Annotations) -> None:
    """Every box is wider by half: an overlap of 2 / 3 passes .5, .55, .6 and .65 of ten thresholds."""
    found = perfect(annotations)
    for own in found.values():
        own.boxes[:, 2] += 0.5 * (own.boxes[:, 2] - own.boxes[:, 0])
    figures = average_precision(found, annotations, masks=False)
    assert figures["AP50"] == pytest.approx(1.0)
    assert figures["AP75"] == 0
    assert figures["AP"] == pytest.approx(0.4)


def test_wrong_classes_and_nothing_at_all_have_zero(annotations: Annotations) -> None:
    found = perfect(annotations)
    swapped = {key: Found(own.boxes, 1 - own.categories, own.scores) for key, own in found.items()}
    assert average_precision(swapped, annotations, masks=False)["AP50"] < 0.2
    figures = average_precision({}, annotations, masks=True, each_class=True)
    assert figures["AP"] == figures["mask_AP"] == 0
    assert [line["missed"] for line in figures["classes"]] == [3, 3]


def test_objects_without_a_mask_do_not_count_where_masks_do(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    masked = annotation(1, 1, 10, (0, 0, 20, 20), segmentation=[corners(0, 0, 20, 20)])
    file = write_json(
        tmp_path / "a.json",
        [{"id": 1, "file_name": "a.png"}],
        [masked, annotation(2, 1, 10, (30, 0, 20, 20))],
    )
    annotations = read_annotations(file, tmp_path)
    found = perfect(annotations.with_masks())
    figures = average_precision(found, annotations, masks=True)
    assert (figures["AP"], figures["mask_AP"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert average_precision(found, annotations, masks=False)["AP"] < 0.6


def one_picture(
    tmp_path: Path, *boxes: tuple[int, int, int, int], crowd: tuple[int, ...] = ()
) -> Annotations:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    entries = [
        annotation(
            number,
            1,
            10,
            box,
            segmentation=[corners(*box)] if number not in crowd else run_lengths(filled(box)),
            iscrowd=int(number in crowd),
        )
        for number, box in enumerate(boxes)
    ]
    return read_annotations(
        write_json(tmp_path / "a.json", [{"id": 1, "file_name": "a.png"}], entries), tmp_path
    )


def filled(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
    return mask


def as_found(*boxes: tuple[float, float, float, float], scores: tuple[float, ...] = ()) -> Found:
    return Found(
        np.array(boxes, dtype=float).reshape(-1, 4),
        np.zeros(len(boxes), dtype=np.int64),
        np.array(scores or [0.9] * len(boxes)),
    )


def test_what_is_found_in_a_crowd_is_no_false_alarm(tmp_path: Path) -> None:
    annotations = one_picture(tmp_path, (0, 0, 10, 10), (20, 0, 40, 40), crowd=(1,))
    found = as_found((0, 0, 10, 10), (25, 5, 35, 15), scores=(0.8, 0.9))
    figures = average_precision({1: found}, annotations, masks=False, each_class=True)
    assert figures["AP"] == pytest.approx(1.0)
    (line,) = [line for line in figures["classes"] if line["objects"]]
    assert (line["objects"], line["found"], line["missed"], line["false_alarms"]) == (1, 1, 0, 0)
    owner, excused = hits(found, annotations.photos[0])
    assert (owner.tolist(), excused.tolist()) == ([0, -1], [False, True])


def test_an_object_is_found_once_and_by_the_surest(tmp_path: Path) -> None:
    annotations = one_picture(tmp_path, (0, 0, 20, 20), (30, 0, 20, 20))
    found = as_found((1, 0, 21, 20), (0, 0, 20, 20), (40, 20, 50, 40), scores=(0.9, 0.6, 0.7))
    owner, excused = hits(found, annotations.photos[0])
    assert owner.tolist() == [0, -1, -1]
    assert not excused.any()
    (disc, _) = average_precision({1: found}, annotations, masks=False, each_class=True)["classes"]
    assert (disc["found"], disc["missed"], disc["false_alarms"]) == (1, 1, 2)


def test_predictions_in_cocos_format_score_the_same_there(annotations: Annotations, tmp_path: Path) -> None:
    """The file that others read, by COCO's own evaluation: boxes that are off, one too many, one of another
    class."""
    found = perfect(annotations)
    generator = np.random.default_rng(0)
    for own in found.values():
        own.boxes[:] = (own.boxes + generator.normal(0, 2, own.boxes.shape)).clip(0, (64, 48) * 2).round(2)
        own.scores[:] = generator.random(len(own)).round(5)
    found[1].categories[0] = 1 - found[1].categories[0]
    ours = average_precision(found, annotations, masks=True)
    (tmp_path / "predictions.json").write_text(json.dumps(coco_results(found, annotations)))
    truth = COCO(str(annotations.file))
    for kind, prefix in PREFIX.items():
        theirs = COCOeval_faster(truth, truth.loadRes(str(tmp_path / "predictions.json")), kind)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        for name, figure in zip(("AP", "AP50", "AP75", "AP_small"), theirs.stats[:4], strict=True):
            assert 0 < figure < 1
            assert ours[prefix + name] == pytest.approx(figure, abs=1e-5)


def test_the_surest() -> None:
    found = as_found((0, 0, 1, 1), (0, 0, 2, 2), scores=(0.3, 0.8)).surest(0.5)
    assert found.boxes.tolist() == [[0, 0, 2, 2]]
    with pytest.raises(ValueError, match="boxes alone"):
        found.masks()
