"""What every source of pictures shares: numbered files, their names, their labels."""

import contextlib
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unmask.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
ARRAYS = (".npy",)
MAX_BYTES = 1 << 30  # of a file; a bitmap of as many pixels as a picture may have is no larger
SPLITS = ("train", "validation", "val", "test")
SPLIT_NAMES = frozenset(SPLITS)


# A picture that was not decoded yet (a file's bytes), or one that somebody else has decoded.
Content = bytes | Image.Image | np.ndarray


class Source(ABC):
    """Numbered pictures.

    Attributes:
        labels: class number of every file, or None when the files carry no labels.
        classes: class names in the order of the numbers, or None.
    """

    labels: list[int] | None = None
    classes: list[str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    def __str__(self) -> str:
        """What it is called in logs and reports."""
        return type(self).__name__

    @abstractmethod
    def read(self, index: int) -> Content:
        """The file's bytes, or a ready picture; raises OSError when they cannot be had."""

    @abstractmethod
    def name(self, index: int) -> str:
        """A path for messages; printable whatever bytes the file name holds."""


class Names(Sequence[str]):
    """Many strings in two flat arrays.

    A worker that merely looks at a Python string writes its reference count and so copies the memory page;
    with a million file names every worker would end up with its own copy of the list. Bytes of a name that
    are no UTF-8 are kept (surrogateescape).
    """

    def __init__(self, names: list[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start = self._ends[index - 1] if index else 0
        return self._bytes[start : self._ends[index]].tobytes().decode("utf-8", "surrogateescape")


class IndexedFiles(Source):
    """Sorted relative names below one path, with labels from the parent folders."""

    separator = ":"  # between the archive and the name inside, in messages

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        self.names = Names(names)
        labelled = parent_labels(names)
        if labelled is not None:
            self.labels, self.classes = labelled

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        return str(self.path)

    def name(self, index: int) -> str:
        return printable(f"{self.path}{self.separator}{self.names[index]}")

    def parts(self) -> dict[str, list[int]]:
        """Indices by first folder; folders that wrap the whole, as archives often have, do not count."""
        folders = [name.split("/")[:-1] for name in self.names]
        depth = 0
        while all(len(inside) > depth + 1 and inside[depth] == folders[0][depth] for inside in folders):
            depth += 1
        parts: dict[str, list[int]] = {}
        for index, inside in enumerate(folders):
            if len(inside) > depth:
                parts.setdefault(inside[depth].lower(), []).append(index)
        return parts

    def labels_among(self, indices: Sequence[int]) -> tuple[list[int], list[str]] | None:
        """(labels, classes) of some files, as if there were no others."""
        return parent_labels([self.names[index] for index in indices])


def printable(name: str) -> str:
    """A file name for messages, whatever bytes it holds."""
    return name.encode("utf-8", "backslashreplace").decode()


def numbered(labels: Sequence[str]) -> tuple[list[int], list[str]]:
    """(number of every label, class names): the names in order, by value if all are whole numbers."""
    classes = sorted(set(labels))
    with contextlib.suppress(ValueError):
        classes.sort(key=int)
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[label] for label in labels], classes


def parent_labels(names: Sequence[str]) -> tuple[list[int], list[str]] | None:
    """(label of every name, class names), taken from the parent folders, or None.

    None when an image lies outside any folder, when there are fewer than two classes, and when the folders
    are just the splits of an unlabelled set (train, validation, val, test).
    """
    if not all("/" in name for name in names):
        return None
    parents = [name.rsplit("/", 2)[-2] for name in names]
    classes = sorted(set(parents))
    if len(classes) < 2 or {name.lower() for name in classes} <= SPLIT_NAMES:
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[parent] for parent in parents], classes


def read_file(path: Path) -> bytes:
    """The bytes of a regular file: anything else could be endless, or wait for ever.

    Raises:
        OSError: it cannot be read, is no regular file, or is far larger than any picture.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("no regular file (a folder, pipe, socket or device)")
    require_reasonable(status.st_size)
    return path.read_bytes()


def require_reasonable(size: int) -> None:
    """
    Raises:
        OSError: no picture has so many bytes.
    """
    if size > MAX_BYTES:
        raise OSError(f"{size:,} bytes, more than the {MAX_BYTES:,} allowed")


def pick_images(names: Iterable[str]) -> tuple[list[str], int]:
    """(sorted names of the images, number of other files).

    Arrays (.npy) are images only where there is no picture beside them: next to pictures they hold
    embeddings, masks or labels as a rule.
    """
    entries = list(names)
    for extensions in (EXTENSIONS, ARRAYS):
        images = sorted(name for name in entries if name.lower().endswith(extensions))
        if images:
            break
    return images, len(entries) - len(images)


def visible(name: str) -> bool:
    """Whether an archive's entry is neither hidden nor one of macOS' shadows of files."""
    parts = [part for part in name.split("/") if part != ".."]
    return not any(part.startswith((".", "__MACOSX")) for part in parts)


def require_images(path: Path, names: list[str], others: int) -> None:
    if not names:
        wanted = " ".join(extension[1:] for extension in EXTENSIONS + ARRAYS)
        seen = f"only {others} other file{'s' * (others != 1)}" if others else "nothing at all"
        raise UserError(f"{path} holds no image: found {seen}; looked at any depth for {wanted}.")
