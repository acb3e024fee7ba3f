"""Average precision as COCO counts it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from unmask.errors import UserError
from unmask.evaluate.detect.coco import Annotations, Photo
from unmask.evaluate.detect.found import Found, hits
from unmask.evaluate.detect.masks import NEEDED

# Our name of a figure -> torchmetrics'.
FIGURES = {
    "AP": "map",
    "AP50": "map_50",
    "AP75": "map_75",
    "AP_small": "map_small",
    "AP_medium": "map_medium",
    "AP_large": "map_large",
    "AR": "mar_100",
}
PREFIX = {"bbox": "", "segm": "mask_"}
SURE = 0.5  # score from which something counts as found in pictures and counts


def average_precision(
    found: Mapping[int | str, Found], annotations: Annotations, *, masks: bool, each_class: bool = False
) -> dict[str, Any]:
    """Figures in [0, 1], those of masks with `mask_` in front; a size of which there are no objects has none.

    Args:
        found: by the id of the picture; of pictures that are missing, nothing was found.
        masks: also of masks; objects without one do not count then, not for boxes either.
        each_class: also `classes`, a line for each: see `_classes`.

    Raises:
        UserError: masks are asked for, and no object has one.
    """
    if masks:
        annotations = annotations.with_masks()
    kinds: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm") if masks else ("bbox",)
    try:
        metric = MeanAveragePrecision(
            iou_type=kinds,
            backend="faster_coco_eval",
            class_metrics=each_class,
            sync_on_compute=False,  # every process has what all of them found
        )
    except ModuleNotFoundError as error:
        raise UserError(NEEDED) from error
    metric.warn_on_many_detections = False
    for photo in annotations.photos:
        own = found.get(photo.id, NOTHING)
        metric.update([_found(own, photo, masks)], [_truth(photo, masks)])
    values = {name: value for name, value in metric.compute().items() if isinstance(value, Tensor)}
    prefixes = {kind: f"{kind}_" if len(kinds) > 1 else "" for kind in kinds}
    figures: dict[str, Any] = {}
    for kind in kinds:
        for name, theirs in FIGURES.items():
            value = float(values[prefixes[kind] + theirs])
            if value >= 0:  # -1: nothing to find
                figures[PREFIX[kind] + name] = value
    if each_class:
        figures["classes"] = _classes(found, annotations, values, prefixes)
    return figures


def _classes(
    found: Mapping[int | str, Found],
    annotations: Annotations,
    values: Mapping[str, Tensor],
    prefixes: Mapping[Literal["bbox", "segm"], str],
) -> list[dict[str, Any]]:
    """Of each class: its objects, AP, and at a score of `SURE` and an IoU of 0.5 how many were found, missed,
    and false alarms."""
    count = len(annotations.names)
    there, got, alarms = (np.zeros(count, dtype=int) for _ in range(3))
    for photo in annotations.photos:
        own = found.get(photo.id, NOTHING).surest(SURE)
        owner, excused = hits(own, photo)
        np.add.at(there, [one.category for one in photo.instances if not one.crowd], 1)
        np.add.at(got, own.categories[owner >= 0], 1)
        np.add.at(alarms, own.categories[(owner < 0) & ~excused], 1)
    lines = []
    known = values["classes"].reshape(-1).tolist()
    for index, name in enumerate(annotations.names):
        line: dict[str, Any] = {"class": name, "objects": int(there[index])}
        for kind, prefix in prefixes.items():
            each = values[f"{prefix}map_per_class"].reshape(-1).tolist()
            precision = each[known.index(index)] if index in known else -1.0
            line[f"{PREFIX[kind]}AP"] = precision if precision >= 0 else None
        missed = int(there[index] - got[index])
        lines.append({**line, "found": int(got[index]), "missed": missed, "false_alarms": int(alarms[index])})
    return lines


NOTHING = Found(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros(0), ())


def _found(found: Found, photo: Photo, masks: bool) -> dict[str, Tensor]:
    plain = {
        "boxes": torch.from_numpy(found.boxes).float(),
        "labels": torch.from_numpy(found.categories),
        "scores": torch.from_numpy(found.scores).float(),
    }
    if not masks:
        return plain
    bitmaps = found.masks() if len(found) else np.zeros((0, *photo.size), dtype=bool)
    return {**plain, "masks": torch.from_numpy(bitmaps)}


def _truth(photo: Photo, masks: bool) -> dict[str, Tensor]:
    instances = photo.instances
    plain = {
        "boxes": torch.tensor([one.box for one in instances], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([one.category for one in instances], dtype=torch.int64),
        "iscrowd": torch.tensor([int(one.crowd) for one in instances], dtype=torch.int64),
        "area": torch.tensor([one.area for one in instances], dtype=torch.float32),
    }
    if not masks:
        return plain
    return {**plain, "masks": torch.from_numpy(_bitmaps(photo))}


def _bitmaps(photo: Photo) -> np.ndarray:
    found: Sequence[np.ndarray] = [one.outline.bitmap() for one in photo.instances if one.outline is not None]
    return np.stack(found) if found else np.zeros((0, *photo.size), dtype=bool)
