"""Smaller copies of pictures: sizes, folders, what is left alone, what is broken."""

import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unmask import cli
from unmask.data import open_source
from unmask.data.decode import decode
from unmask.errors import UserError
from unmask.shrink import reduced, shrink

ORIENTATION = 0x0112


def photo(width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    target = BytesIO()
    Image.fromarray(pixels).convert(mode).save(target, **{"format": "JPEG", **options})
    return target.getvalue()


def rotated(width: int, height: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return photo(width, height, exif=exif)


def test_the_shorter_side_is_the_one_that_was_asked_for() -> None:
    small = Image.open(BytesIO(reduced(photo(400, 300), 60) or b""))
    assert (small.size, small.format) == ((80, 60), "JPEG")
    assert reduced(photo(80, 60), 60) is None


def test_it_shows_the_same_picture_upright() -> None:
    content = rotated(400, 300)
    small = Image.open(BytesIO(reduced(content, 60) or b""))
    assert small.size == (60, 80) and ORIENTATION not in small.getexif()
    expected = decode(content).resize((60, 80), Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(small, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 2.0


@pytest.mark.parametrize("mode", ["I;16", "P", "CMYK"])
def test_what_would_lose_something_is_left_alone(mode: str) -> None:
    format = {"I;16": "PNG", "P": "PNG", "CMYK": "JPEG"}[mode]
    image = Image.fromarray(np.arange(40_000, dtype=np.uint16).reshape(200, 200))
    target = BytesIO()
    (image if mode == "I;16" else Image.new("RGB", (200, 200)).convert(mode)).save(target, format)
    assert reduced(target.getvalue(), 60) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_folders_and_labels_stay(tmp_path: Path, workers: int) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
            archive.writestr(name, photo(200, 100))
        archive.writestr("b/broken.jpg", photo(200, 100)[:50])
        archive.writestr("b/tiny.png", photo(20, 10, format="PNG"))
    result = shrink(tmp_path / "photos.zip", out=tmp_path / "small", side=50, workers=workers, progress=False)
    assert (result.images, result.smaller) == (4, 3) and result.after < result.before
    assert [name.rsplit(":", 1)[-1] for name in result.skipped] == ["b/broken.jpg"]
    source = open_source(tmp_path / "small")
    assert source.classes == ["a", "b"] and source.labels == [0, 0, 1, 1]
    assert decode(source.read(0)).size == (100, 50)


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(photo(200, 100))
    shrink(tmp_path / "photos", out=tmp_path / "small", side=50, workers=1, progress=False)
    before = (tmp_path / "small" / "a.jpg").stat().st_mtime_ns
    again = shrink(tmp_path / "photos", out=tmp_path / "small", side=50, workers=1, progress=False)
    assert (tmp_path / "small" / "a.jpg").stat().st_mtime_ns == before and again.images == 1


def test_not_into_itself_and_not_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match="inside the data"):
        shrink(tmp_path, out=tmp_path / "small", progress=False)
    with pytest.raises(UserError, match="None of the 1 images"):
        shrink(tmp_path, out=tmp_path.parent / "elsewhere", workers=1, progress=False)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(photo(200, 100))
    arguments = ["--data", tmp_path / "photos", "--out", tmp_path / "small", "--side", 50, "--workers", 1]
    monkeypatch.setattr(sys, "argv", ["unmask", "shrink", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0 and "1 of 1 pictures" in capfd.readouterr().out
