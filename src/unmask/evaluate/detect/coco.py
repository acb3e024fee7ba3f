"""Pictures with boxes, classes and masks, as COCO's JSON tells of them."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from unmask.data.coco import CocoFile, CocoPicture, Id, read_coco
from unmask.data.decode import FORMATS, oriented_size
from unmask.errors import UserError
from unmask.evaluate.detect.masks import Outline, read_outline

MAX_BAD = 0.01  # share of pictures that cannot be read, above which reading is an error

# What is left out, or changed, and counted.
EMPTY, OUTSIDE, CUT = "boxes without area", "boxes outside the picture", "boxes cut at the picture's edge"
UNMASKED, UNREADABLE = "objects without a mask", "pictures that cannot be read"


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        box: left, top, right, bottom in pixels, within the picture, of positive area.
        category: index into `Annotations.names`.
        area: square pixels, by which COCO tells small from large objects: as the file says; else of the
            mask, or of the box.
        crowd: a group that is not told apart: no target, and no false alarm where something is found in it.
        outline: polygons or run lengths; None if there is no mask.
    """

    box: tuple[float, float, float, float]
    category: int
    area: float
    crowd: bool = False
    outline: Outline | None = None


@dataclass(frozen=True)
class Photo:
    """A picture and what is on it, perhaps nothing.

    Attributes:
        size: height and width in pixels, upright.
    """

    id: Id
    path: Path
    size: tuple[int, int]
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Annotations:
    """All of a file.

    Attributes:
        names: of the categories, in the order of `ids`.
        ids: of the categories in the file, ascending.
        skipped: how often each kind of thing was left out or changed.
    """

    file: Path
    names: tuple[str, ...]
    ids: tuple[int, ...]
    photos: tuple[Photo, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def objects(self) -> int:
        """How many there are, crowds not counted."""
        return sum(not one.crowd for photo in self.photos for one in photo.instances)

    @property
    def unmasked(self) -> int:
        """How many objects have no mask; crowds are not asked."""
        every = (one for photo in self.photos for one in photo.instances)
        return sum(one.outline is None and not one.crowd for one in every)

    @property
    def masked(self) -> bool:
        """Whether there are objects, and all have masks."""
        return self.objects > 0 and not self.unmasked

    def with_masks(self) -> "Annotations":
        """Without the objects and crowds that have no mask, which are counted.

        Raises:
            UserError: no object has one.
        """
        photos = tuple(
            replace(photo, instances=tuple(one for one in photo.instances if one.outline is not None))
            for photo in self.photos
        )
        found = replace(self, photos=photos)
        if not found.objects:
            raise UserError(
                f"None of the objects in {self.file} has a mask (`segmentation`). For boxes alone say "
                "--no-masks (heads.masks=false)."
            )
        pairs = zip(self.photos, photos, strict=True)
        missing = sum(len(before.instances) - len(after.instances) for before, after in pairs)
        return replace(found, skipped={**self.skipped, UNMASKED: missing} if missing else self.skipped)


def read_annotations(file: str | Path, folder: str | Path, *, like: Annotations | None = None) -> Annotations:
    """Read COCO's JSON: `images`, `annotations` and `categories`.

    Boxes of no area, and those outside their picture, are left out; boxes that reach over its edge are cut;
    pictures without objects stay, as examples of nothing. All of this is counted in `skipped`.

    Args:
        folder: of the pictures, to which the file's names lead.
        like: the training set of a validation set: categories must be its own, and are numbered as there.

    Raises:
        UserError: files that are missing or broken, pictures of another size than the file says, categories
            or pictures that are not declared.
    """
    trained = None if like is None else dict(zip(like.ids, like.names, strict=True))
    found = read_coco(file, folder, trained=trained)
    counts: Counter[str] = Counter()
    numbers = {number: index for index, number in enumerate(found.names)}
    photos = []
    for key, (path, size) in _readable(found, counts).items():
        instances = [
            _instance(entry, size, numbers[entry["category_id"]], counts, found.place(entry))
            for entry in found.annotations[key]
        ]
        photos.append(Photo(key, path, size, tuple(one for one in instances if one is not None)))
    names = tuple(found.names.values())
    return Annotations(found.file, names, tuple(found.names), tuple(photos), dict(counts))


def _readable(found: CocoFile, counts: Counter[str]) -> dict[Id, tuple[Path, tuple[int, int]]]:
    """Id -> path and size of every picture that can be read."""
    sizes = {key: _size(picture.path) for key, picture in found.pictures.items()}
    broken = [found.pictures[key].path for key, size in sizes.items() if size is None]
    if len(broken) > MAX_BAD * len(sizes):
        raise UserError(
            f"{len(broken):,} of the {len(sizes):,} pictures of {found.file} cannot be read, such as "
            f"{', '.join(map(str, broken[:3]))}; at most {MAX_BAD:.0%} may be broken."
        )
    if broken:
        counts[UNREADABLE] += len(broken)
    readable = {key: (found.pictures[key], size) for key, size in sizes.items() if size is not None}
    for picture, size in readable.values():
        _require_size(picture, size, found.file)
    return {key: (picture.path, size) for key, (picture, size) in readable.items()}


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width, upright; only the file's header is read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = oriented_size(image)
    except Exception:  # a broken file makes Pillow raise almost anything
        return None
    return height, width


def _require_size(picture: CocoPicture, size: tuple[int, int], file: Path) -> None:
    height, width = picture.size
    if (height or size[0], width or size[1]) != size:
        raise UserError(
            f"{picture.path} is {size[1]} x {size[0]} pixels (upright, by its EXIF orientation), but {file} "
            f"says {width or size[1]} x {height or size[0]}: its boxes are for another picture."
        )


def _instance(
    entry: Mapping[str, Any], size: tuple[int, int], category: int, counts: Counter[str], where: str
) -> Instance | None:
    """One object, or None, counted, if nothing of it is left."""
    outline = read_outline(entry.get("segmentation"), size, where)
    box = _corners(entry, outline, where)
    if box is None or box[2] <= box[0] or box[3] <= box[1]:
        counts[EMPTY] += 1
        return None
    height, width = size
    cut = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        counts[OUTSIDE] += 1
        return None
    counts[CUT] += cut != box
    counts += Counter()  # drops what is zero
    area = entry.get("area", 0)
    if not isinstance(area, int | float) or not area > 0:
        area = 0 if outline is None else outline.bitmap().sum()
        area = area or (cut[2] - cut[0]) * (cut[3] - cut[1])
    return Instance(cut, category, float(area), bool(entry.get("iscrowd")), outline)


def _corners(
    entry: Mapping[str, Any], outline: Outline | None, where: str
) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom by `bbox` (left, top, width, height); without one, of the mask."""
    if "bbox" not in entry:
        if outline is None:
            raise UserError(f"{where} has neither a bbox nor a segmentation.")
        return outline.bounds()
    box = entry["bbox"]
    numbers = isinstance(box, list) and all(isinstance(value, int | float) for value in box)
    if not numbers or len(box) != 4 or not all(map(math.isfinite, box)):
        raise UserError(f"{where}: bbox must be four numbers (left, top, width, height), not {box!r}.")
    left, top, width, height = map(float, box)
    return left, top, left + width, top + height
