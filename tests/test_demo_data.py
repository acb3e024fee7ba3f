"""The bundled demo pictures: complete, small, listed with their sources, and split without overlap."""

import csv
import hashlib
import io
import zipfile
from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from unmask.demo_data import demo_archive

CLASSES = {
    "birds", "bugs", "buildings", "flags", "food", "mammals", "music",
    "people", "pictograms", "plants", "signs", "tools", "vehicles",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    """Entry name -> RGB pixels."""
    with zipfile.ZipFile(demo_archive()) as archive:
        assert archive.testzip() is None
        images = {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    return {name: np.asarray(image.convert("RGB")) for name, image in images.items()}


def test_counts_by_class_and_split(pictures: dict[str, np.ndarray]) -> None:
    counts = Counter(PurePosixPath(name).parts[:2] for name in pictures)
    assert {part for part, _ in counts} == {"train", "validation"}
    for part in ("train", "validation"):
        assert {name for other, name in counts if other == part} == CLASSES
    assert 1000 <= len(pictures) <= 1500
    for name in CLASSES:
        train, validation = counts["train", name], counts["validation", name]
        assert train + validation >= 40
        assert 0.17 <= validation / (train + validation) <= 0.23


def test_sizes(pictures: dict[str, np.ndarray]) -> None:
    assert demo_archive().stat().st_size <= 5_000_000
    assert {pixels.shape for pixels in pictures.values()} == {(96, 96, 3)}
    for name, pixels in pictures.items():
        drawn = (pixels.min(axis=2) < 225).mean()
        assert drawn > 0.02, f"{name} is almost empty"


def test_archive_is_stored_with_a_fixed_date() -> None:
    with zipfile.ZipFile(demo_archive()) as archive:
        entries = archive.infolist()
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)


def test_every_picture_has_its_own_source(pictures: dict[str, np.ndarray]) -> None:
    with demo_archive().with_name("sources.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == sorted(pictures)
    assert len({row["source"] for row in rows}) == len(rows)
    for row in rows:
        assert PurePosixPath(row["picture"]).name == PurePosixPath(row["source"]).name


def test_splits_share_no_picture(pictures: dict[str, np.ndarray]) -> None:
    digests = {name: hashlib.sha256(pixels.tobytes()).hexdigest() for name, pixels in pictures.items()}
    assert len(set(digests.values())) == len(pictures)
    thumbnails = {
        part: np.stack([
            pixels.reshape(16, 6, 16, 6, 3).mean(axis=(1, 3)).ravel()
            for name, pixels in pictures.items()
            if name.startswith(f"{part}/")
        ])
        for part in ("train", "validation")
    }  # fmt: skip
    for picture in thumbnails["validation"]:
        nearest = np.abs(thumbnails["train"] - picture).mean(axis=1).min()
        assert nearest > 2, "a validation picture is a near copy of a training picture"


def test_source_note_names_counts_and_licence(pictures: dict[str, np.ndarray]) -> None:
    note = demo_archive().with_name("SOURCE.md").read_text(encoding="utf-8")
    train = sum(name.startswith("train/") for name in pictures)
    assert f"{len(pictures):,} drawings in {len(CLASSES)} classes" in note
    assert f"{train} to train on and {len(pictures) - train} to validate on" in note
    assert "Public Domain Dedication" in note
