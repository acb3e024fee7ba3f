"""A file of records of equal length, each at its place, which several processes read and write at once."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

HEADER = struct.Struct("<qQ")  # mark, checksum
ALIGNMENT = 8


class Records:
    """Bytes by place and mark.

    A record is found if what was last written at its place has this mark, whole: a checksum over place, mark
    and bytes says so. Whatever a killed process, a crash of the system or two writers at once leave behind is
    therefore not found, and nothing has to be locked or flushed. Places never written take no room on a file
    system that knows holes.

    Args:
        length: bytes of a record.
    """

    def __init__(self, path: Path, *, length: int) -> None:
        self.path = path
        self.stride = -(-(HEADER.size + length) // ALIGNMENT) * ALIGNMENT  # bytes from place to place
        self._file: int | None = None

    def open(self) -> None:
        """To be called first; makes the file if it is missing, and its folder.

        Raises:
            OSError: it cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def close(self) -> None:
        """It can be opened again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def read(self, place: int, mark: int, into: UInt8[np.ndarray, " length"]) -> bool:
        """Whether it is there; `into`, contiguous, holds it then, else anything.

        Raises:
            OSError: of the system.
        """
        assert self._file is not None
        header = bytearray(HEADER.size)
        found = os.preadv(self._file, [header, into.data], place * self.stride)
        if found != HEADER.size + into.nbytes:
            return False
        return HEADER.unpack(header) == (mark, _checksum(place, mark, into))

    def write(self, place: int, mark: int, record: UInt8[np.ndarray, " length"]) -> None:
        """Put a contiguous record at its place.

        Args:
            mark: not 0, which is what holes hold.

        Raises:
            OSError: of the system; the disk is full, for instance.
        """
        assert self._file is not None and mark
        header = HEADER.pack(mark, _checksum(place, mark, record))
        os.pwritev(self._file, [header, record.data], place * self.stride)


def _checksum(place: int, mark: int, record: UInt8[np.ndarray, " length"]) -> int:
    return zlib.crc32(record.data, zlib.crc32(struct.pack("<qq", place, mark)))
