"""Pictures with boxes, classes and masks, as COCO's JSON tells of them."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

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
        area: square pixels, by which COCO tells small from large objects; the mask's where the file says so.
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

    id: int | str
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
    file, folder = Path(file).expanduser(), Path(folder).expanduser()
    content = _read(file)
    names = _categories(content["categories"], file)
    if like is not None:
        names = _agreeing(names, like, file)
    counts: Counter[str] = Counter()
    images = _images(content["images"], file, folder, counts)
    numbers = {number: index for index, number in enumerate(names)}
    found: dict[Any, list[Instance]] = {key: [] for key in images}
    known = {entry["id"] for entry in content["images"]}
    for entry in content["annotations"]:
        _require(entry, ("id", "image_id", "category_id"), "annotation", file)
        where = f"{file}: annotation {entry['id']}"
        if entry["image_id"] not in known:
            raise UserError(f"{where} is on picture {entry['image_id']}, which the file does not have.")
        if entry["category_id"] not in numbers:
            raise UserError(
                f"{where} is of category {entry['category_id']}; the file's `categories` have "
                f"{', '.join(map(str, numbers))}."
            )
        if entry["image_id"] in images:  # and could be read
            size = images[entry["image_id"]][1]
            instance = _instance(entry, size, numbers[entry["category_id"]], counts, where)
            found[entry["image_id"]] += [instance] if instance else []
    photos = tuple(Photo(key, path, size, tuple(found[key])) for key, (path, size) in images.items())
    return Annotations(file, tuple(names.values()), tuple(names), photos, dict(counts))


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"There is no file {file}. Give COCO's JSON: images, annotations, categories.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no JSON, or not all of it ({error}).") from error
    parts = ("images", "annotations", "categories")
    missing = [part for part in parts if not isinstance(content, dict) or part not in content]
    if missing:
        raise UserError(
            f"{file} has no {' and no '.join(missing)}: it is not what COCO writes for instances. Needed is "
            "an object with the lists images, annotations and categories."
        )
    for part in parts:
        if not isinstance(content[part], list) or not all(isinstance(one, dict) for one in content[part]):
            raise UserError(f"{file}: {part} must be a list of objects.")
    return content


def _require(entry: Mapping[str, Any], keys: Sequence[str], what: str, file: Path) -> None:
    if missing := [key for key in keys if key not in entry]:
        raise UserError(f"{file}: {what} {entry.get('id', '?')} has no {' and no '.join(missing)}.")


def _categories(entries: Sequence[Mapping[str, Any]], file: Path) -> dict[int, str]:
    """Id -> name, by ascending ids."""
    names: dict[int, str] = {}
    for entry in entries:
        _require(entry, ("id", "name"), "category", file)
        if not isinstance(entry["id"], int):
            raise UserError(f"{file}: ids of categories must be whole numbers, not {entry['id']!r}.")
        if entry["id"] in names:
            raise UserError(f"{file} has category {entry['id']} twice.")
        names[entry["id"]] = str(entry["name"])
    if not names:
        raise UserError(f"{file} names no categories; there is nothing to tell apart.")
    return dict(sorted(names.items()))


def _agreeing(names: dict[int, str], like: Annotations, file: Path) -> dict[int, str]:
    """The training set's categories, if it has all of these."""
    known = dict(zip(like.ids, like.names, strict=True))
    for number, name in names.items():
        if known.get(number) != name:
            has = f"{known[number]!r}" if number in known else "no category of this id"
            raise UserError(
                f"{file} calls category {number} {name!r}; the training set {like.file} has {has}."
            )
    return known


def _images(
    entries: Sequence[Mapping[str, Any]], file: Path, folder: Path, counts: Counter[str]
) -> dict[Any, tuple[Path, tuple[int, int]]]:
    """Id -> path and size of every picture that can be read."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}, where the pictures of {file} should be.")
    if not entries:
        raise UserError(f"{file} names no pictures.")
    found: dict[Any, tuple[Path, tuple[int, int]]] = {}
    paths = {}
    for entry in entries:
        _require(entry, ("id", "file_name"), "picture", file)
        if entry["id"] in paths:
            raise UserError(f"{file} has picture {entry['id']} twice.")
        paths[entry["id"]] = folder / str(entry["file_name"])
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing):,} of the {len(paths):,} pictures that {file} names are not there, such as "
            f"{', '.join(map(str, missing[:3]))}. Is {folder} their folder?"
        )
    broken = []
    for entry in entries:
        path = paths[entry["id"]]
        size = _size(path)
        if size is None:
            broken.append(path)
        else:
            _same_size(entry, size, path, file)
            found[entry["id"]] = path, size
    if len(broken) > MAX_BAD * len(paths):
        raise UserError(
            f"{len(broken):,} of the {len(paths):,} pictures of {file} cannot be read, such as "
            f"{', '.join(map(str, broken[:3]))}; at most {MAX_BAD:.0%} may be broken."
        )
    if broken:
        counts[UNREADABLE] += len(broken)
    return found


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width, upright; only the file's header is read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = oriented_size(image)
    except Exception:  # a broken file makes Pillow raise almost anything
        return None
    return height, width


def _same_size(entry: Mapping[str, Any], size: tuple[int, int], path: Path, file: Path) -> None:
    said = entry.get("height", size[0]), entry.get("width", size[1])
    if said != size:
        raise UserError(
            f"{path} is {size[1]} x {size[0]} pixels (upright, by its EXIF orientation), but {file} says "
            f"{said[1]} x {said[0]}: its boxes are for another picture."
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
        area = (cut[2] - cut[0]) * (cut[3] - cut[1])
    return Instance(cut, category, float(area), bool(entry.get("iscrowd", 0)), outline)


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
