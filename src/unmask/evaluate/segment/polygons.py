"""Masks from COCO's files: every object is painted in the index of its category."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.outlines import object_mask
from unmask.errors import UserError
from unmask.evaluate.segment.layouts import split
from unmask.evaluate.segment.scenes import NAMED, SceneError, Scenes
from unmask.evaluate.segment.score import IGNORED

log = logging.getLogger(__name__)

BACKGROUND = "background"


class Painted(Scenes):
    """Pictures and the objects in them.

    Index 0 is what no object covers, 1, 2, ... the categories in the order of their ids. Where objects
    overlap, the smaller one is in front. Crowds have no class, and so have objects with a box alone: nothing
    is painted for them.
    """

    def __init__(
        self,
        pictures: list[dict[str, Any]],
        objects: dict[Any, list[dict[str, Any]]],
        folder: Path,
        categories: dict[int, str],
        *,
        zero_is_no_class: bool,
    ) -> None:
        self.zero_is_no_class = zero_is_no_class
        self.classes = (*([] if zero_is_no_class else [BACKGROUND]), *categories.values())
        self._numbers = {identity: number for number, identity in enumerate(categories, start=1)}
        self._pictures, self._objects, self._folder = pictures, objects, folder

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int) -> Path:
        return self._folder / self._pictures[index]["file_name"]

    def indices(self, index: int) -> np.ndarray:
        picture = self._pictures[index]
        size = int(picture["height"]), int(picture["width"])
        canvas = np.zeros(size, dtype=np.int64)
        shapes = []
        for one in self._objects.get(picture["id"], []):
            try:
                mask = object_mask(one.get("segmentation") or [], size)
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
        UserError: no such files, pictures that are missing, categories that were never trained.
    """
    training, categories = _read(annotations, data, None, reduce_zero_label)
    if val_annotations is None:
        return split(training)
    validation, _ = _read(val_annotations, val_data or data, categories, reduce_zero_label)
    return training, validation


def _read(
    path: Path, folder: Path, trained: dict[int, str] | None, reduce_zero_label: bool
) -> tuple[Scenes, dict[int, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pictures, annotations = list(content["images"]), list(content["annotations"])
        own = {one["id"]: str(one["name"]) for one in content["categories"]}
        categories = dict(sorted(own.items())) if trained is None else trained
        known = {one["id"] for one in pictures}
        strangers = [one for one in annotations if one["image_id"] not in known]
        homeless = [one for one in annotations if one["category_id"] not in categories]
        unsized = [one for one in pictures if min(int(one["height"]), int(one["width"])) < 1]
        files = [folder / one["file_name"] for one in pictures]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no COCO file with images, annotations and categories ({error!r})."
        ) from error
    if not 0 < len(categories) < IGNORED:
        raise UserError(f"{path} has {len(categories)} categories; needed are 1 to {IGNORED - 1}.")
    for wrong, what in ((strangers, "a picture"), (homeless, "a category")):
        if wrong:
            raise UserError(
                f"{path}: {len(wrong)} annotations are of {what} that is not listed (the first has the id "
                f"{wrong[0].get('id')})."
            )
    if not pictures or unsized:
        raise UserError(f"{path} lists no pictures, or some without a size.")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(files)} pictures that {path} lists are not in {folder} "
            f"({', '.join(file.name for file in missing[:NAMED])})."
        )
    objects: dict[Any, list[dict[str, Any]]] = {}
    for one in annotations:
        objects.setdefault(one["image_id"], []).append(one)
    if bare := sum(not one.get("segmentation") for one in annotations):
        log.warning("%d objects in %s have no outline and are not painted", bare, path)
    return Painted(pictures, objects, folder, categories, zero_is_no_class=reduce_zero_label), categories
