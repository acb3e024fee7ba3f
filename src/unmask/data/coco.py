"""COCO's JSON of objects: pictures, categories and annotations that belong together.

Microsoft COCO: Common Objects in Context. Tsung-Yi Lin et al. ECCV 2014, arXiv 1405.0312. What a task makes
of an annotation's box and mask is its own matter.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import UserError

Id = int | str
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class CocoPicture:
    """
    Attributes:
        size: height and width in pixels, as far as the file says so.
    """

    path: Path
    size: tuple[int | None, int | None]


@dataclass(frozen=True)
class CocoFile:
    """All of a file.

    Attributes:
        names: of the categories by their ids, ascending.
        pictures: by their ids; all are there.
        annotations: of each picture, perhaps none; of categories that are in `names`.
    """

    file: Path
    names: dict[int, str]
    pictures: dict[Id, CocoPicture]
    annotations: dict[Id, list[Entry]]

    def place(self, annotation: Entry) -> str:
        """How a complaint names an annotation."""
        return _place(annotation, self.file)


def read_coco(file: str | Path, folder: str | Path, *, trained: Mapping[int, str] | None = None) -> CocoFile:
    """Read COCO's JSON: `images`, `annotations` and `categories`.

    Args:
        folder: of the pictures, to which the file's names lead.
        trained: of a validation set, the `names` of the training set: its own must agree with them, and they
            are what the file gets.

    Raises:
        UserError: files that are missing or broken, ids that are there twice, categories or pictures that are
            not declared, categories that have another name than in training, an `iscrowd` that is not 0 or 1.
    """
    file, folder = Path(file).expanduser(), Path(folder).expanduser()
    content = _read(file)
    names = _categories(content["categories"], file)
    if trained is not None:
        names = _agreeing(names, trained, file)
    pictures = _pictures(content["images"], file, folder)
    annotations: dict[Id, list[Entry]] = {key: [] for key in pictures}
    for entry in content["annotations"]:
        where = _place(entry, file)
        _require(entry, ("image_id", "category_id"), where)
        if not _known(entry["image_id"], pictures):
            raise UserError(f"{where} is on picture {entry['image_id']!r}, which the file does not have.")
        if not _known(entry["category_id"], names):
            raise UserError(
                f"{where} is of category {entry['category_id']!r}; there are {', '.join(map(repr, names))}."
            )
        if entry.get("iscrowd") not in (None, 0, 1):
            raise UserError(f"{where}: iscrowd must be 0 or 1, not {entry['iscrowd']!r}.")
        annotations[entry["image_id"]].append(entry)
    return CocoFile(file, names, pictures, annotations)


def _place(annotation: Entry, file: Path) -> str:
    return f"{file}: annotation {annotation.get('id', '?')}"


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"There is no file {file}. Give COCO's JSON: images, annotations, categories.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
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


def _require(entry: Entry, keys: Sequence[str], where: str) -> None:
    if missing := [key for key in keys if key not in entry]:
        raise UserError(f"{where} has no {' and no '.join(missing)}.")


def _known(value: Any, ids: Mapping[Any, Any]) -> bool:
    return isinstance(value, int | float | str) and value in ids


def _categories(entries: Sequence[Entry], file: Path) -> dict[int, str]:
    """Id -> name, by ascending ids."""
    names: dict[int, str] = {}
    for entry in entries:
        _require(entry, ("id", "name"), f"{file}: category {entry.get('id', '?')}")
        if not isinstance(entry["id"], int):
            raise UserError(f"{file}: ids of categories must be whole numbers, not {entry['id']!r}.")
        if entry["id"] in names:
            raise UserError(f"{file} has category {entry['id']} twice.")
        names[entry["id"]] = str(entry["name"])
    if not names:
        raise UserError(f"{file} names no categories; there is nothing to tell apart.")
    return dict(sorted(names.items()))


def _agreeing(names: Mapping[int, str], trained: Mapping[int, str], file: Path) -> dict[int, str]:
    """The training set's categories, if it has all of these."""
    for number, name in names.items():
        if trained.get(number) != name:
            has = f"calls it {trained[number]!r}" if number in trained else "has no category of this id"
            raise UserError(f"{file} calls category {number} {name!r}; the training set {has}.")
    return dict(trained)


def _pictures(entries: Sequence[Entry], file: Path, folder: Path) -> dict[Id, CocoPicture]:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}, where the pictures of {file} should be.")
    if not entries:
        raise UserError(f"{file} names no pictures.")
    found: dict[Id, CocoPicture] = {}
    for entry in entries:
        where = f"{file}: picture {entry.get('id', '?')}"
        _require(entry, ("id", "file_name"), where)
        if not isinstance(entry["id"], int | str):
            raise UserError(f"{file}: ids of pictures must be whole numbers or text, not {entry['id']!r}.")
        if entry["id"] in found:
            raise UserError(f"{file} has picture {entry['id']} twice.")
        size = _side(entry, "height", where), _side(entry, "width", where)
        found[entry["id"]] = CocoPicture(folder / str(entry["file_name"]), size)
    missing = [picture.path for picture in found.values() if not picture.path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing):,} of the {len(found):,} pictures that {file} names are not there, such as "
            f"{', '.join(map(str, missing[:3]))}. Is {folder} their folder?"
        )
    return found


def _side(entry: Entry, name: str, where: str) -> int | None:
    value = entry.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or value != value // 1 or value < 1:
        raise UserError(f"{where}: {name} must be a number of pixels, not {value!r}.")
    return int(value)
