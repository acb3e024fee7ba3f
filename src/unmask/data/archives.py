"""Images inside zip and tar archives, read by offset: nothing is unpacked but compressed tars, once."""

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import struct
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.files import IndexedFiles, pick_images, require_images, require_reasonable, visible
from unmask.errors import UserError

ENCRYPTED = 1  # bit of an entry's flags
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = "{path} is damaged or incomplete ({error}); make or download it again."
_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


class Zip(IndexedFiles):
    """The images inside a zip file, read by offset."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
        except (zipfile.BadZipFile, EOFError) as error:
            raise UserError(_DAMAGED.format(path=path, error=error)) from error
        names, others = pick_images(name for name in entries if visible(name))
        require_images(path, names, others)
        chosen = [entries[name] for name in names]
        if all(entry.flag_bits & ENCRYPTED for entry in chosen):
            raise UserError(f"{path} is encrypted ({names[0]}); unpack it and give the folder.")
        if all(entry.compress_type not in READABLE for entry in chosen):
            raise UserError(
                f"{path} uses a zip compression other than 'store' and 'deflate' ({names[0]}); "
                "unpack it and give the folder."
            )
        super().__init__(path, names)
        self._index = np.array(
            [
                (entry.header_offset, entry.compress_size, entry.file_size, entry.CRC, entry.compress_type,
                 entry.flag_bits & ENCRYPTED)
                for entry in chosen
            ],
            dtype=np.int64,
        )  # fmt: skip

    def read(self, index: int) -> bytes:
        # By hand and not with ZipFile, which would parse the whole directory again in every worker.
        offset, packed, size, crc, method, encrypted = (int(value) for value in self._index[index])
        if encrypted:
            raise OSError("encrypted inside the zip file")
        if method not in READABLE:
            raise OSError("packed in another way than 'store' and 'deflate' inside the zip file")
        require_reasonable(max(packed, size))
        with self.path.open("rb") as file:
            file.seek(offset)
            header = file.read(30)
            if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
                raise OSError("the zip file has no entry where its directory says")
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            file.seek(offset + 30 + name_length + extra_length)
            data = file.read(packed)
        if method == zipfile.ZIP_DEFLATED:
            data = _inflate(data, size)
        if zlib.crc32(data) != crc:
            raise OSError("damaged inside the zip file (wrong checksum)")
        return data


def _inflate(data: bytes, size: int) -> bytes:
    """Unpacked, but never to more than the size that the directory tells: a bomb tells a small one."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflater.decompress(data, max(size, 1))
    except zlib.error as error:
        raise OSError(f"damaged inside the zip file ({error})") from error


class Tar(IndexedFiles):
    """The images inside a tar file, read by offset; hard links are the files that they name, symbolic links
    are left out. Nothing is unpacked by name, so no name (absolute, or with ..) can do harm.

    A compressed tar (gz, bz2, xz) allows no random access: it is decompressed once, at opening, into one
    temporary file (``TMPDIR`` says where), which is removed when the source is dropped or the program ends. A
    program that is killed with SIGKILL leaves that file behind.
    """

    def __init__(self, path: Path) -> None:
        self._plain = _decompress(path, owner=self)
        entries = _index_tar(path, self._plain)
        names, others = pick_images(name for name in entries if visible(name))
        require_images(path, names, others)
        super().__init__(path, names)
        self._index = np.array([entries[name] for name in names], dtype=np.int64)

    def read(self, index: int) -> bytes:
        offset, size = (int(value) for value in self._index[index])
        require_reasonable(size)
        with self._plain.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise OSError("the tar file ends in the middle of this image")
        return data


def _index_tar(path: Path, plain: Path) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) of the regular files in an uncompressed tar; the last of equal names wins.

    Args:
        path: what the person gave, for messages.
        plain: the uncompressed tar to read.
    """
    try:
        archive = tarfile.open(plain, "r:")  # noqa: SIM115, two kinds of error to tell apart
    except tarfile.ReadError as error:
        raise UserError(
            f"{path} is no folder and no archive that can be read ({error}); give a folder of pictures, "
            "a zip, tar, tar.gz, tar.bz2 or tar.xz archive of one, or a list of paths (.txt, .csv)."
        ) from error
    try:
        with archive:
            entries: dict[str, tuple[int, int]] = {}
            for member in archive:
                name = posixpath.normpath(member.name).lstrip("/")
                # Sparse files do not lie in one piece; no image is stored as one.
                if member.isreg() and not member.issparse():
                    entries[name] = (member.offset_data, member.size)
                elif member.islnk():
                    target = entries.get(posixpath.normpath(member.linkname).lstrip("/"))
                    if target is not None:
                        entries[name] = target
            return entries
    except tarfile.ReadError as error:
        raise UserError(_DAMAGED.format(path=path, error=error)) from error


def _decompress(path: Path, *, owner: object) -> Path:
    """The path itself, or that of a decompressed temporary copy that lives as long as ``owner`` does."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    handle, name = tempfile.mkstemp(prefix="unmask-", suffix=".tar")
    plain = Path(name)
    weakref.finalize(owner, _remove, plain, os.getpid())
    try:
        with opener(path) as packed, os.fdopen(handle, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(_DAMAGED.format(path=path, error=error)) from error
    except OSError as error:
        raise UserError(
            f"{path} could not be decompressed into {plain.parent} ({error}); set TMPDIR to a folder with "
            "more room, or unpack it yourself and give the folder."
        ) from error
    return plain


def _remove(plain: Path, process: int) -> None:
    # A forked worker holds a copy of the owner; dropping that copy must not take the file from the others.
    if os.getpid() == process:
        plain.unlink(missing_ok=True)
