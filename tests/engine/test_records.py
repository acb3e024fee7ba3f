"""What is found was written whole, for this place and mark; anything else is not found."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unmask.engine.records import Records

LENGTH = 40


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records(tmp_path / "folder" / "file", length=LENGTH)
    opened.open()
    yield opened
    opened.close()


def record(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, LENGTH, dtype=np.uint8)


def read(records: Records, place: int, mark: int) -> np.ndarray | None:
    into = np.empty(LENGTH, np.uint8)
    return into if records.read(place, mark, into) else None


def test_records_come_back_by_place_and_mark(records: Records) -> None:
    for place, mark in ((5, 7), (0, -1), (2, 1 << 62)):
        records.write(place, mark, record(place))
    for place, mark in ((5, 7), (0, -1), (2, 1 << 62)):
        assert np.array_equal(read(records, place, mark), record(place))
    assert read(records, 5, 8) is None, "another mark"
    assert read(records, 1, 7) is None, "a hole"
    assert read(records, 9, 7) is None, "beyond the end"
    records.write(5, 8, record(1))
    assert read(records, 5, 7) is None
    assert np.array_equal(read(records, 5, 8), record(1))


def test_what_others_wrote_is_found(records: Records) -> None:
    other = Records(records.path, length=LENGTH)
    other.open()
    records.write(1, 3, record(1))
    other.write(2, 3, record(2))
    assert np.array_equal(read(other, 1, 3), record(1))
    assert np.array_equal(read(records, 2, 3), record(2))
    other.close()


def test_a_record_that_is_cut_anywhere_is_not_found(records: Records) -> None:
    """A writer killed, or a system that failed, after any number of bytes."""
    records.write(1, 3, record(1))
    whole = records.path.read_bytes()
    for length in range(len(whole)):
        for rest in (b"", bytes(len(whole) - length)):
            records.path.write_bytes(whole[:length] + rest)
            found = read(records, 1, 3)
            assert found is None or np.array_equal(found, record(1))
    records.path.write_bytes(whole)
    assert read(records, 1, 3) is not None


def test_a_changed_byte_is_noticed(records: Records) -> None:
    records.write(0, 3, record(0))
    whole = bytearray(records.path.read_bytes())
    for position in range(LENGTH + 16):
        changed = bytearray(whole)
        changed[position] ^= 1
        records.path.write_bytes(changed)
        assert read(records, 0, 3) is None


def test_a_record_at_another_place_is_not_found(records: Records) -> None:
    records.write(0, 3, record(0))
    content = records.path.read_bytes().ljust(records.stride, b"\0")
    records.path.write_bytes(bytes(records.stride) + content)
    assert read(records, 1, 3) is None


def test_holes_take_no_room(records: Records) -> None:
    records.write(1 << 20, 3, record(0))
    status = records.path.stat()
    assert status.st_size > 40 << 20
    assert status.st_blocks * 512 < 1 << 20
