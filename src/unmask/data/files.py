"""What every source of pictures shares: numbered files, their names, their labels."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from unmask.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
SPLIT_NAMES = frozenset({"train", "validation", "val", "test"})


class Source(ABC):
    """Numbered image files.

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
    def read(self, index: int) -> bytes:
        """The file's bytes; raises OSError when they cannot be had."""

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
        name = f"{self.path}{self.separator}{self.names[index]}"
        return name.encode("utf-8", "backslashreplace").decode()


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


def pick_images(entries: Iterable[str]) -> tuple[list[str], int]:
    """(sorted names of the images, number of other files) among an archive's entries."""
    shown = [
        name for name in entries if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    ]
    names = sorted(name for name in shown if name.lower().endswith(EXTENSIONS))
    return names, len(shown) - len(names)


def require_images(path: Path, names: list[str], others: int) -> None:
    if not names:
        wanted = " ".join(extension[1:] for extension in EXTENSIONS)
        seen = f"only {others} other file{'s' * (others != 1)}" if others else "nothing at all"
        raise UserError(f"{path} holds no image: found {seen}; looked at any depth for {wanted}.")
