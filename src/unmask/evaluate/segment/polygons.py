"""Masks from COCO's files: every object is painted in the index of its category."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unmask.data.coco import CocoFile, read_coco
from unmask.data.outlines import object_mask
from unmask.errors import UserError
from unmask.evaluate.segment.layouts import split
from unmask.evaluate.segment.scenes import SceneError, Scenes
from unmask.evaluate.segment.score import IGNORED

log = logging.getLogger(__name__)

BACKGROUND = "background"


class Painted(Scenes):
    """Pictures and the objects in them.

    Index 0 is what no object covers, 1, 2, ... the categories in the order of their ids. Where objects
    overlap, the smaller one is in front. Crowds have no class, and so have objects with a box alone: nothing
    is painted for them.
    """

    def __init__(self, found: CocoFile, *, zero_is_no_class: bool) -> None:
        self.zero_is_no_class = zero_is_no_class
        self.classes = (*([] if zero_is_no_class else [BACKGROUND]), *found.names.values())
        self._numbers = {identity: number for number, identity in enumerate(found.names, start=1)}
        self._found, self._keys = found, tuple(found.pictures)

    def __len__(self) -> int:
        return len(self._keys)

    def picture(self, index: int) -> Path:
        return self._found.pictures[self._keys[index]].path

    def indices(self, index: int) -> np.ndarray:
        key = self._keys[index]
        height, width = self._found.pictures[key].size
        assert height is not None and width is not None, "pictures without a size are refused before"
        canvas = np.zeros((height, width), dtype=np.int64)
        shapes = []
        for one in self._found.annotations[key]:
            try:
                mask = object_mask(one.get("segmentation") or [], canvas.shape)
            except ValueError as error:
                raise SceneError(f"the annotation with id {one.get('id')} is none: {error}") from error
            shapes.append((IGNORED if one.get("iscrowd") else self._numbers[one["category_id"]], mask))
        for number, mask in sorted(shapes, key=lambda shape: -int(shape[1].sum())):
            canvas[mask] = number
        return canvas


def find_polygons(
    data: Path,
    annotations: Path,
    *,
    val_data: Path | None = None,
    val_annotations: Path | None = None,
    reduce_zero_label: bool = False,
) -> tuple[Scenes, Scenes]:
    """(training, validation) of COCO's files.

    Args:
        data: folder of the pictures.
        annotations: COCO's JSON.
        val_data: folder of the pictures to validate on; None is `data`.
        val_annotations: likewise their JSON; None lets a fifth of the pictures validate.
        reduce_zero_label: what no object covers has no class, instead of being "background".

    Raises:
        UserError: no such files, pictures that are missing, categories that were not trained, or under
            another name.
    """
    training = _read(annotations, data)
    if val_annotations is None:
        return split(Painted(training, zero_is_no_class=reduce_zero_label))
    validation = _read(val_annotations, val_data or data, trained=training.names)
    return (
        Painted(training, zero_is_no_class=reduce_zero_label),
        Painted(validation, zero_is_no_class=reduce_zero_label),
    )


def _read(path: Path, folder: Path, *, trained: Mapping[int, str] | None = None) -> CocoFile:
    found = read_coco(path, folder, trained=trained)
    if len(found.names) >= IGNORED:
        raise UserError(f"{path} has {len(found.names)} categories; there may be {IGNORED - 1}.")
    unsized = [key for key, picture in found.pictures.items() if None in picture.size]
    if unsized:
        raise UserError(
            f"{path}: picture {unsized[0]} has no height, or no width; masks are painted by them."
        )
    every = [one for own in found.annotations.values() for one in own]
    if bare := sum(not one.get("segmentation") for one in every):
        log.warning("%d objects in %s have no outline and are not painted", bare, path)
    return found
