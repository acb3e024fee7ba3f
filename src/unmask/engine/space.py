"""Room on a disk."""

import contextlib
import shutil
from pathlib import Path


def disk_use(folder: Path) -> int:
    """Bytes that all files in it take on the disk, without holes; 0 if it is missing."""
    blocks = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process works in there
            blocks += file.stat().st_blocks
    return blocks * 512


def in_units(size: float) -> str:
    """Bytes, for a person."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder lies, or will."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
