"""Files that are either whole or not there, whenever the process ends."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

LEFTOVER = ".tmp-"  # prefix of everything unfinished


def beside(path: Path) -> Path:
    """Where this process writes what is to become `path`; another one writes elsewhere."""
    return path.with_name(f"{LEFTOVER}{os.getpid()}-{path.name}")


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left unfinished in a folder; none if it is missing."""
    return sorted(folder.glob(f"{LEFTOVER}*"))


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step, see `put`."""
    put(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a file beside `path`, then put it in place: readers see the old or the new one."""
    unfinished = beside(path)
    try:
        write(unfinished)
        flush(unfinished)
        unfinished.replace(path)
        flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def put_all(folder: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill an empty folder, then put all its files into `folder`; none of them if it fails.

    Other files of the folder stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=LEFTOVER, dir=folder) as part:
        write(Path(part))
        for file in sorted(Path(part).iterdir()):
            put(folder / file.name, file.rename)


def publish(unfinished: Path, path: Path) -> None:
    """Give a finished folder its name, after its content is on the disk."""
    for file in unfinished.iterdir():
        flush(file)
    flush(unfinished)
    unfinished.rename(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a folder with all that it holds; a link only itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
