"""Files that are either whole or not there, whenever the process ends."""

import os
import shutil
from pathlib import Path

LEFTOVER = ".tmp-"  # prefix of everything unfinished


def beside(path: Path) -> Path:
    """Where this process writes what is to become `path`; another one writes elsewhere."""
    return path.with_name(f"{LEFTOVER}{os.getpid()}-{path.name}")


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left unfinished in a folder; none if it is missing."""
    return sorted(folder.glob(f"{LEFTOVER}*"))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: write beside it, flush to the disk, rename."""
    unfinished = beside(path)
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    flush(path.parent)


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
