"""Where pictures come from: a folder, an archive, a list or a Python dataset, indexed once, read by number
from any process.

A source hands out the undecoded bytes of file ``index``. It holds no open handle and keeps its index in flat
arrays, so it can be forked or pickled into many workers without copying millions of Python objects.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.archives import Tar, Zip
from unmask.data.collections import Collection
from unmask.data.files import (
    ARRAYS,
    EXTENSIONS,
    SPLITS,
    Content,
    IndexedFiles,
    Source,
    pick_images,
    read_file,
    require_images,
)
from unmask.data.lists import EXTENSIONS as LISTS
from unmask.data.lists import Listed
from unmask.errors import UserError

log = logging.getLogger(__name__)


class Folder(IndexedFiles):
    """Every image below a folder, at any depth, sorted by path; hidden files and folders are ignored.

    Linked folders are followed, each real folder once, so links in a circle do no harm. A folder inside that
    may not be listed is left out with a warning.
    """

    separator = "/"

    def __init__(self, path: Path) -> None:
        try:
            names, others = _scan(path)
        except PermissionError as error:
            raise UserError(f"No permission to list the folder {path}; check its owner and mode.") from error
        require_images(path, names, others)
        super().__init__(path, names)

    def read(self, index: int) -> bytes:
        return read_file(Path(self.path, self.names[index]))


class Subset(Source):
    """Some files of another source, in the given order.

    Args:
        labels: one per index, to replace the source's own; needs ``classes``.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int] | np.ndarray,
        *,
        labels: list[int] | None = None,
        classes: list[str] | None = None,
    ) -> None:
        assert (labels is None) == (classes is None)
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        self.classes = source.classes if classes is None else classes
        if labels is not None:
            self.labels = labels
        elif source.labels is not None:
            self.labels = [source.labels[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __str__(self) -> str:
        return str(self.source)

    def read(self, index: int) -> Content:
        return self.source.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def open_source(data: Any, *, labelled: bool = False) -> Source:
    """Index the images of a folder, of a zip or tar (also gz, bz2, xz) archive, of a list, or of a dataset.

    The images of folders and archives are the files with one of ``EXTENSIONS``, in any case, at any depth,
    sorted by their path inside, so a folder and an archive of it give the same numbers; where there is none,
    those with one of ``ARRAYS``. Labels are the parent folders' names (``parent_labels``).

    Args:
        data: a path, an open source, or a Python dataset (see ``Collection``). A text file has one path a
            line, a table (.csv, .tsv) a column of them (see ``Listed``).
        labelled: labels are needed; of a dataset that has to be read for them, they are.

    Raises:
        UserError: nothing there, no permission, no archive, no image inside, nothing that is a dataset.
    """
    if isinstance(data, Source):
        return data
    if not isinstance(data, str | Path):
        return Collection(data, labelled=labelled)
    path = Path(data).expanduser()
    try:
        if path.is_dir():
            return Folder(path)
        if not path.is_file() and path.exists():
            raise UserError(f"{path} is neither a file nor a folder; give one of them.")
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError as error:
        raise UserError(f"There is no file or folder {path}; check the spelling.") from error
    except PermissionError as error:
        raise UserError(f"No permission to read {path}; check its owner and mode.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if path.name.lower().endswith(EXTENSIONS + ARRAYS):
        raise UserError(f"{path} is one picture; give a folder of pictures, or a zip or tar archive of one.")
    if path.name.lower().endswith(LISTS):
        return Listed(path)
    return Zip(path) if start.startswith(b"PK") else Tar(path)


def labels_of(source: Source) -> tuple[list[int], list[str]]:
    """(labels, classes) of a source that must have them.

    Raises:
        UserError: the source has no labels.
    """
    if source.labels is None or source.classes is None:
        where = f"{source.name(0)} and its neighbours" if len(source) else "The data"
        raise UserError(
            f"{where} carry no labels, and this needs them: put every image into a folder that is named "
            "after its class (class/picture.jpg), with two classes or more and no image outside; or give a "
            "table (.csv) with the columns path and label."
        )
    return source.labels, source.classes


def split(source: Source, *, fraction: float = 0.2, seed: int = 0) -> tuple[Subset, Subset]:
    """(train, validation): a random part of the files held out, the same one for the same seed.

    With labels every class gives about ``fraction`` of its files, at least one if it has two; both parts keep
    the order of the source.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, not {fraction}.")
    labels = np.zeros(len(source), dtype=np.int64) if source.labels is None else np.asarray(source.labels)
    held_out = np.zeros(len(source), dtype=bool)
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held_out[members[:count]] = True
    if not held_out.any():
        raise UserError(f"{len(source)} image(s) cannot be split into train and validation; give more.")
    return Subset(source, np.flatnonzero(~held_out)), Subset(source, np.flatnonzero(held_out))


def open_splits(data: Any, *, seed: int = 0) -> tuple[Subset, Subset]:
    """(train, validation), both labelled, with the same classes.

    Data that has ``train`` and one of ``validation``, ``val`` and ``test`` (the first of these that is
    there) is taken as it is: a folder or archive with such folders, a table with a column ``split``, a
    dictionary of datasets. Any other is split 80 : 20 in every class, the same way for the same seed.

    Raises:
        UserError: as ``open_source``; no labels; a class to validate that was never trained.
    """
    if isinstance(data, Mapping):
        return _given_splits(data)
    source = open_source(data, labelled=True)
    parts = source.parts() if isinstance(source, IndexedFiles) else {}
    held_out = _held_out(parts)
    if not isinstance(source, IndexedFiles) or held_out is None:
        labels_of(source)
        return split(source, seed=seed)
    chosen = [*parts["train"], *parts[held_out]]
    labelled = source.labels_among(chosen)
    if labelled is None:
        raise UserError(
            f"{data} has the parts train and {held_out}, but no class folders inside: they must hold "
            f"train/CLASS/picture.jpg and {held_out}/CLASS/picture.jpg, with two classes or more."
        )
    labels, classes = labelled
    count = len(parts["train"])
    require_trained(str(data), labels[:count], labels[count:], classes, held_out)
    return (
        Subset(source, parts["train"], labels=labels[:count], classes=classes),
        Subset(source, parts[held_out], labels=labels[count:], classes=classes),
    )


def _given_splits(data: Mapping[str, Any]) -> tuple[Subset, Subset]:
    held_out = _held_out(data)
    if held_out is None:
        raise UserError(
            f"A dictionary of datasets needs 'train' and one of 'validation', 'val' and 'test'; it has "
            f"{', '.join(map(repr, data)) or 'nothing'}."
        )
    train, validation = (open_source(data[name], labelled=True) for name in ("train", held_out))
    labels, classes = labels_of(train)
    own, names = labels_of(validation)
    numbers = {name: number for number, name in enumerate(classes)}
    for name in names:
        numbers.setdefault(name, len(numbers))
    translated = [numbers[names[label]] for label in own]
    require_trained("The data", labels, translated, list(numbers), held_out)
    return (
        Subset(train, range(len(train)), labels=labels, classes=classes),
        Subset(validation, range(len(validation)), labels=translated, classes=classes),
    )


def _held_out(parts: Mapping[str, Any]) -> str | None:
    """The part to validate on, where there is one to train on too."""
    return next((name for name in SPLITS[1:] if name in parts), None) if "train" in parts else None


def require_trained(
    data: str, trained: Sequence[int], validated: Sequence[int], classes: Sequence[str], part: str
) -> None:
    """
    Raises:
        UserError: a class that is judged was never trained.
    """
    unknown = sorted(set(validated) - set(trained))
    if unknown:
        names = ", ".join(classes[label] for label in unknown[:5])
        raise UserError(
            f"{data}: {len(unknown)} of the classes in {part} are not in train ({names}); both parts "
            "need the same classes."
        )


def _scan(root: Path) -> tuple[list[str], int]:
    """(sorted relative names of the images, number of other files)."""
    files: list[str] = []
    others = 0
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    linked: list[str] = []
    while folders or linked:
        # Real folders before linked ones: a folder that is reached both ways keeps its own name, and class.
        inside = folders.pop() if folders else linked.pop(0)
        try:
            status = Path(root, inside).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(Path(root, inside)), key=lambda entry: entry.name)
        except PermissionError:
            if not inside:
                raise
            log.warning("No permission to list the folder %s; its images are left out.", Path(root, inside))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = inside + entry.name
            kind = _kind(entry)
            if kind == "folder":
                (linked if entry.is_symlink() else folders).append(name + "/")
            elif kind == "file":
                files.append(name)
            else:
                others += 1
    images, no_images = pick_images(files)
    return images, others + no_images


def _kind(entry: os.DirEntry[str]) -> str:
    """folder, file or other; a broken link counts as a file, to be reported as one that cannot be read."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not Path(entry.path).exists() else "other"
    except OSError:
        return "file"
