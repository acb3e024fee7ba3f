"""Nothing in a folder or an archive may stop a run, be passed over in silence, or eat the memory."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encoded
from tests.data.test_sources import let_others_in, not_root
from tests.data.zoo import ARRAYS, ZOO, Case, npy
from unmask.data import Augment, DecodeError, EvaluationLoader, PretrainLoader, View, open_source
from unmask.data.inspect import look
from unmask.errors import UserError

GOOD = 12
BOMBS = (
    "600 megapixels",
    "4 gigapixels",
    "compressed comment",
    "sparse file",
    "zip: bomb",
    "zip: bomb that lies",
)
MOST_MEMORY = 150  # MB above what Python and PyTorch take

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def home(tmp_path: Path, case: Case) -> Path:
    """A folder of green pictures with the case among them, or the archive that it made of them."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for number in range(GOOD):
        (folder / f"good{number:02}.png").write_bytes(encoded(Image.new("RGB", (24, 20), "lime"), "PNG"))
    case.put(folder)
    return next((folder / name for name in ("all.zip", "all.tar") if (folder / name).exists()), folder)


@pytest.mark.parametrize("name", ZOO)
def test_inhabitant(tmp_path: Path, name: str) -> None:
    case = ZOO[name]
    source = open_source(home(tmp_path, case))
    loader = EvaluationLoader(source, (16, 16), batch_size=64, max_bad=0.5)
    ((images, _, _),) = loader
    odd = images[(images[:, 1] < 250).flatten(1).any(1) | (images[:, 0] > 5).flatten(1).any(1)]
    expected = case.pictures if case.outcome == "read" else 0
    assert len(odd) == expected
    assert len(images) == GOOD + expected
    assert len(source) == len(images) + (case.outcome == "skipped")
    assert len(loader.bad) == (case.outcome == "skipped")
    for reason in loader.bad.values():
        assert case.says in reason and reason
    if case.colour is not None:
        means = odd.float().mean((2, 3)).numpy()
        assert np.abs(means - case.colour).max() < 8
    augment, views = Augment(image_size=(16, 16)), {"images": View()}
    training = PretrainLoader(source, views, augment, batch_size=4, seed=0, workers=0, max_bad=0.5)
    batches = training.batches()
    for _ in range(8):
        assert next(batches)["images"].shape == (4, 3, 16, 16)
    assert training.bad == loader.bad
    for index in range(len(source)):
        try:
            facts = look(source.read(index))
        except (OSError, DecodeError):
            assert case.outcome == "skipped"
        else:
            assert facts.fits(3) and facts.width > 0 and facts.height > 0


def test_there_are_enough_of_them() -> None:
    assert len(ZOO) + len(ARRAYS) >= 80


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    data, reason = ARRAYS[name]
    for number in range(GOOD):
        (tmp_path / f"good{number:02}.npy").write_bytes(npy(np.full((8, 9, 3), 1.0, np.float32)))
    (tmp_path / "odd.npy").write_bytes(data)
    loader = EvaluationLoader(open_source(tmp_path), (4, 4), batch_size=64, bits=32, max_bad=0.5)
    ((images, _, _),) = loader
    assert not (tmp_path / "unpickled").exists()
    assert len(images) == GOOD + (reason is None)
    if reason is None:
        assert images[:-1].eq(1).all() and images[-1].eq(2).all()
    else:
        (said,) = loader.bad.values()
        assert reason in said


def test_unreadable_file(tmp_path: Path) -> None:
    folder = home(tmp_path, Case(lambda folder: (folder / "a.jpg").write_bytes(b""), "skipped"))
    let_others_in(folder)
    (folder / "a.jpg").chmod(0)
    with not_root():
        loader = EvaluationLoader(open_source(folder), (16, 16), batch_size=64)
        assert sum(len(images) for images, _, _ in loader) == GOOD
    assert list(loader.bad.values()) == ["Permission denied"]


def test_nothing_but_bad_ones_is_an_error_with_reasons(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"8 of 8 files cannot be read") as caught:
        list(EvaluationLoader(open_source(tmp_path), (16, 16), batch_size=8, max_bad=0.5))
    assert str(caught.value).count("jpg: no picture that can be read") == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing at all"):
        open_source(tmp_path / "empty")


def read_bombs(folder: Path) -> float:
    """Megabytes by which the most memory grew while all of them were read."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for place in sorted(folder.glob("*/zoo")):
        archive = place / "all.zip"
        source = open_source(archive if archive.exists() else place)
        loader = EvaluationLoader(source, (16, 16), batch_size=64, max_bad=0.5)
        assert len(list(loader)) == len(loader.bad) == 1, place
    unit = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / 2**20


def test_bombs_do_not_go_off(tmp_path: Path) -> None:
    for number, name in enumerate(BOMBS):
        (tmp_path / str(number)).mkdir()
        home(tmp_path / str(number), ZOO[name])
    # In a process of its own: the tests before this one may have used more memory already.
    code = "import sys; from pathlib import Path; from tests.data.test_zoo import read_bombs; "
    code += "print(read_bombs(Path(sys.argv[1])))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < MOST_MEMORY
