"""Tables of colours made of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unmask import colours
from unmask.colours import cluster
from unmask.errors import UserError
from unmask.targets import read_colours

PALETTE = np.array([[10, 10, 10], [200, 50, 40], [30, 180, 60], [40, 60, 220], [240, 240, 240]])


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one colour each, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("flags")
    for index in range(40):
        Image.new("RGB", (50, 40), tuple(PALETTE[index % 5])).save(folder / f"{index:02d}.png")
    return folder


def test_the_colours_that_are_there(flags: Path, tmp_path: Path) -> None:
    path = colours(flags, out=tmp_path / "new" / "table.npy", count=5)
    expected = PALETTE[np.argsort(PALETTE.mean(1))] / 255
    np.testing.assert_allclose(read_colours(path, 3), expected, atol=1e-6)
    picture = np.asarray(Image.open(path.with_suffix(".png")))
    assert picture.shape[2] == 3 and (picture[0, 0] == PALETTE[0]).all()


def test_centres_are_means_of_what_is_nearest() -> None:
    generator = np.random.default_rng(0)
    points = generator.random((3000, 3))
    table = cluster(points, 12, generator)
    nearest = np.square(points[:, None] - table).sum(-1).argmin(1)
    means = np.stack([points[nearest == index].mean(0) for index in range(12)])
    assert np.abs(means - table).max() < 0.03  # after some rounds of Lloyd's algorithm they hardly move
    assert (np.diff(table.mean(1)) >= 0).all()


def test_the_seed_decides(flags: Path, tmp_path: Path) -> None:
    tables = [np.load(colours(flags, out=tmp_path / f"{index}.npy", count=3, seed=7)) for index in range(2)]
    assert np.array_equal(*tables)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("table.npy", {"count": 6}, "5 different colours, too few for 6"),
        ("table.npy", {"count": 1}, "count=1"),
        ("table.npy", {"pictures": 0}, "pictures=0"),
        ("table.txt", {}, "written as .npy"),
    ],
)
def test_mistakes_are_explained(name: str, options: dict, message: str, flags: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        colours(flags, out=tmp_path / name, **options)
    assert not any(tmp_path.iterdir())


def test_a_table_is_never_overwritten(flags: Path, tmp_path: Path) -> None:
    colours(flags, out=tmp_path / "table.npy", count=3)
    with pytest.raises(UserError, match="exists"):
        colours(flags, out=tmp_path / "table.npy", count=4)
    assert len(np.load(tmp_path / "table.npy")) == 3
