"""Pictures named in a text file or a table."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unmask.data.files import ARRAYS, IndexedFiles, numbered, printable, read_file
from unmask.data.files import EXTENSIONS as PICTURES
from unmask.errors import UserError

TABLES = (".csv", ".tsv")
EXTENSIONS = (".txt", ".lst", *TABLES)
PATHS = ("path", "image", "file", "filename", "filepath", "image_path", "file_name")
LABELS = ("label", "class", "category", "target")
SPLIT = "split"
LOOKED_AT = 20  # files that should be there, to tell a wrong folder from a missing file


class Row(NamedTuple):
    """A line of a list; label and part are None where there is no such column."""

    line: int
    path: str
    label: str | None = None
    part: str | None = None


class Listed(IndexedFiles):
    """The images named in a text file or a table, in its order.

    Paths are relative to the list's own folder, or absolute. A text file has one a line; spaces around it,
    empty lines and lines that start with # do not count. A table (.csv with commas or semicolons, .tsv) has
    them in the column path, image or file, else in its first; a column label, if there is one, names the
    classes, and a column split the parts to train and to validate on. Without a label the parent folder is
    the label, as it is in folders.

    Raises:
        UserError: no text, a line without a path, a label or its end; nothing named; no named file there.
    """

    separator = " -> "

    def __init__(self, path: Path) -> None:
        rows = list(_table(path) if path.name.lower().endswith(TABLES) else _lines(path))
        if not rows:
            raise UserError(f"{path} names no picture; write one path a line.")
        self._folder = path.parent
        _require_some(path, rows)
        super().__init__(path, [row.path for row in rows])
        self._parts = [row.part for row in rows]
        self._labelled = rows[0].label is not None
        if self._labelled:
            self.labels, self.classes = numbered([row.label or "" for row in rows])

    def read(self, index: int) -> bytes:
        return read_file(Path(self._folder, self.names[index]))

    def name(self, index: int) -> str:
        return printable(str(Path(self._folder, self.names[index])))

    def parts(self) -> dict[str, list[int]]:
        if self._parts[0] is None:
            return super().parts()
        parts: dict[str, list[int]] = {}
        for index, part in enumerate(self._parts):
            parts.setdefault((part or "").lower(), []).append(index)
        return parts

    def labels_among(self, indices: Sequence[int]) -> tuple[list[int], list[str]] | None:
        if not self._labelled:
            return super().labels_among(indices)
        assert self.labels is not None and self.classes is not None
        return [self.labels[index] for index in indices], self.classes


def _text(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data[:4096]:
        raise UserError(f"{path} is no list in UTF-8 text; save it as UTF-8, or give it another extension.")
    return data.decode("utf-8-sig", "surrogateescape")  # file names may be any bytes


def _lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        name = line.strip()
        if name and not name.startswith("#"):
            yield Row(number, name)


def _table(path: Path) -> Iterator[Row]:
    text = _text(path)
    first = text.split("\n", 1)[0]
    delimiter = max("\t;,", key=first.count) if any(mark in first for mark in "\t;,") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; is a quotation mark not closed?"
        ) from error
    if not rows:
        return
    header = [name.lower() for name in rows[0][1]]
    paths = _column(header, PATHS)
    labels = parts = None
    if paths is not None or not header[0].endswith(PICTURES + ARRAYS):
        labels, parts = _column(header, LABELS), _column(header, (SPLIT,))
        rows = rows[1:]
    for number, cells in rows:
        row = [_cell(path, number, cells, place) for place in (paths or 0, labels, parts)]
        yield Row(number, row[0] or "", row[1], row[2])


def _column(header: list[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _cell(path: Path, line: int, cells: list[str], place: int | None) -> str | None:
    if place is None:
        return None
    if place >= len(cells) or not cells[place]:
        raise UserError(
            f"{path}, line {line}: column {place + 1} is empty or missing; fill it in, or remove the line."
        )
    return cells[place]


def _require_some(path: Path, rows: list[Row]) -> None:
    """A wrong folder shows at once; single missing files are counted as bad when they are read."""
    chosen = [rows[int(place)] for place in np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows)))]
    try:
        found = any(Path(path.parent, row.path).exists() for row in chosen)
    except OSError:  # a name longer than any file's
        found = False
    if not found:
        row = chosen[0]
        raise UserError(
            f"{path}, line {row.line}: there is no file {printable(str(Path(path.parent, row.path)))}, nor "
            "the others looked at. Paths in a list are relative to the list's own folder, or absolute."
        )
