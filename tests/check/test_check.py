"""A check names what is wrong with the data, measures the speed, and writes nothing."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.data.conftest import encoded, smooth
from tests.engine.tiny import TINY
from unmask import cli
from unmask.check import CheckResult, Pace, check, page
from unmask.check import pace as pace_module
from unmask.check.survey import compare, fingerprint
from unmask.check.words import findings
from unmask.data.inspect import Facts
from unmask.errors import UserError

SMALL = {
    "image_size": 32,
    "encoder": "vit_tiny_patch16_224",
    "device": "cpu",
    "workers": 0,
    "overrides": TINY,
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "SECONDS", 0.05)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty sound pictures in two classes, and one or two of everything else."""
    root = tmp_path_factory.mktemp("mixed")
    for index in range(20):
        folder = root / ("b" if index % 4 else "a")
        folder.mkdir(exist_ok=True)
        Image.fromarray(smooth(48, 60, index)).save(folder / f"{index:02}.png")
    first = Image.fromarray(smooth(48, 60, 0))
    files = {
        "copy.png": (root / "a" / "00.png").read_bytes(),
        "again.jpg": encoded(first.resize((90, 72)), "JPEG", quality=80),
        "broken.jpg": b"nothing",
        "small.png": encoded(Image.fromarray(smooth(20, 60, 50)), "PNG"),
        "narrow.png": encoded(Image.fromarray(smooth(40, 300, 51)), "PNG"),
        "blank.png": encoded(Image.new("RGB", (48, 48), (9, 90, 9)), "PNG"),
    }
    for name, content in files.items():
        (root / "b" / name).write_bytes(content)
    return root


def shown(result: CheckResult, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(page(result))
    return console.export_text()


def test_everything_that_is_odd_is_found(mixed: Path) -> None:
    before = sorted(mixed.rglob("*"))
    result = check(mixed, speed=False, progress=False, **SMALL)
    found = result.survey
    ends = lambda names: [Path(name).name for name in names]  # noqa: E731
    assert (found.images, found.looked_at) == (26, 26)
    assert {Path(name).name: reason for name, reason in found.bad.items()} == {
        "broken.jpg": "no picture that can be read"
    }
    assert [ends(group) for group in found.copies] == [["00.png", "copy.png"]]
    assert [ends(group) for group in found.alike] == [["00.png", "again.jpg"]]
    assert [ends(group) for group in found.disagreeing] == [["00.png", "copy.png"], ["00.png", "again.jpg"]]
    assert ends(found.small) == ["small.png"]
    assert ends(found.narrow) == ["narrow.png"]
    assert ends(found.blank) == ["blank.png"]
    assert found.formats == {"PNG": 24, "JPEG": 1}
    assert found.width == (48, 60, 300) and found.height == (20, 48, 72)
    assert result.classes == {"a": 5, "b": 21}
    assert result.pace is None
    text = re.sub(r"\s+", " ", shown(result))
    for sentence in (
        "1 of 26 pictures (3.8%) cannot be read; a run skips it.",
        "1 picture is an exact copy of another (a/00.png = b/copy.png).",
        "1 picture looks like another (a/00.png = b/again.jpg).",
        "2 groups of such pictures have different labels",
        "1 picture is smaller than 32 × 32 and will be enlarged (b/small.png).",
        "1 picture is more than four times as long as wide",
        "1 picture is of one colour",
        "2 classes of 5 to 21 images each",
    ):
        assert sentence in text
    assert sorted(mixed.rglob("*")) == before


def test_a_sample_is_the_same_for_the_same_seed(mixed: Path) -> None:
    chosen = [
        check(mixed, sample=9, speed=False, progress=False, seed=seed, **SMALL).survey for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0].looked_at == 9 and chosen[0].images == 26


def test_speed_is_measured_and_nothing_written(mixed: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = check(mixed, batch_size=8, epochs=3, progress=False, **SMALL)
    pace = result.pace
    assert pace is not None and pace.fits and pace.batch == pace.measured_batch == 8
    assert pace.steps == 9  # three batches of 8 in 26 images
    assert pace.seconds == pytest.approx(72 / pace.together, abs=0.06)
    assert min(pace.loader, pace.model, pace.together) > 0 and pace.memory_mb > 50
    assert 0 <= pace.data_wait <= 1
    assert list(tmp_path.iterdir()) == []
    assert re.search(r"Whole run +about \d+ s for 9 steps \(3 epochs\)", shown(result))


def test_slow_steps_are_measured_in_small_batches(mixed: Path, monkeypatch) -> None:
    monkeypatch.setattr(pace_module, "SLOWEST_STEP", 1e-9)
    pace = check(mixed, batch_size=16, steps=100, progress=False, **SMALL).pace
    assert pace is not None and (pace.batch, pace.measured_batch) == (16, 1)
    assert pace.steps == 100 and pace.seconds == pytest.approx(1600 / pace.together, abs=0.06)


def test_memory_that_does_not_suffice_is_said() -> None:
    pace = Pace(
        machine="GPU", workers=4, batch=256, measured_batch=64, fits=False, loader=900, model=1000,
        together=800, data_wait=0.2, memory_mb=9000, steps=10, seconds=3.2,
    )  # fmt: skip
    result = check([smooth(32, 32, seed) for seed in range(4)], speed=False, progress=False, **SMALL)
    said = [one.text for one in findings(result.survey, result.recipe, pace, None)]
    assert any("256 does not fit" in text and "optim.accumulate=4" in text for text in said)
    assert any("waits for the loader 20%" in text for text in said)


def test_recipes_that_cannot_run_are_a_finding(mixed: Path) -> None:
    result = check(mixed, batch_size=64, progress=False, **SMALL)
    assert result.pace is None
    assert result.findings[-1].level == "bad" and "fewer than one batch of 64" in result.findings[-1].text
    deep = [np.full((40, 40, 5), index, np.float32) for index in range(6)]
    result = check(deep, progress=False, **SMALL)
    assert len(result.survey.unfit) == 6 and "Set data.channels=5" in result.findings[-1].text
    result = check(deep, speed=False, progress=False, **(SMALL | {"overrides": TINY | {"data.channels": 5}}))
    assert not result.survey.unfit and result.statistics is not None and len(result.statistics.mean) == 5


def test_too_many_bad_ones_are_worse_than_some(tmp_path: Path) -> None:
    for index in range(8):
        Image.fromarray(smooth(40, 40, index)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    first = check(tmp_path, speed=False, progress=False, **SMALL).findings[0]
    assert first.level == "bad" and "a run would stop" in first.text
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="none of the 8 pictures"):
        check(tmp_path, progress=False, **SMALL)


def test_most_pictures_too_small_is_advice_about_the_size() -> None:
    pictures = [smooth(100, 120, seed) for seed in range(5)]
    (finding,) = check(pictures, speed=False, progress=False, image_size=224).findings[1:]
    assert "5 of 5 pictures are smaller than 224 × 224" in finding.text and "--image-size 96" in finding.text


def test_pictures_that_look_the_same_form_one_group() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(100, 30, (2, 3, 16, 16))
    noise = generator.normal(0, 0.5, (5, 3, 16, 16))
    stack = np.stack(
        [first, second, first + noise[0], first + noise[1], second + noise[2], np.full_like(first, 7)]
    )
    blank, alike = compare(list("abcdef"), stack)
    assert blank == ["f"] and alike == [["a", "c", "d"], ["b", "e"]]


def test_fingerprints() -> None:
    one = np.arange(12, dtype=np.uint8)
    assert fingerprint(one.reshape(3, 4)) != fingerprint(one.reshape(4, 3))
    assert fingerprint(b"a") == fingerprint(b"a") != fingerprint(b"b")
    images = [Image.fromarray(one.reshape(shape)) for shape in ((3, 4), (3, 4), (4, 3))]
    assert fingerprint(images[0]) == fingerprint(images[1]) != fingerprint(images[2])


def test_facts_fit_what_they_can_become() -> None:
    rgba = Facts(format="PNG", width=1, height=1, channels=4, alpha=True)
    assert all(rgba.fits(channels) for channels in (1, 3, 4)) and not rgba.fits(5)
    infrared = Facts(format="array", width=1, height=1, channels=4)
    assert infrared.fits(4) and not infrared.fits(3)


def test_command_line(mixed: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    target = tmp_path / "check.json"
    settings = [f"{key}={value}" for key, value in TINY.items()]
    options = [
        "--image-size",
        "32",
        "--encoder",
        "vit_tiny_patch16_224",
        "--batch-size",
        "8",
        "--workers",
        "0",
    ]
    arguments = ["check", *settings, "--data", str(mixed), "--json", str(target), "--device", "cpu", *options]
    monkeypatch.setattr(sys, "argv", ["unmask", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    printed = capfd.readouterr().out
    assert "26 images" in printed and "Images/s" in printed
    content = json.loads(target.read_text())
    assert content["survey"]["images"] == 26 and content["recipe"]["name"] == "mae"
    assert content["pace"]["batch"] == 8 and content["findings"][0]["level"] == "watch"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.jpg").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["unmask", "check", "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "none of the 1 pictures" in re.sub(r"\s+", " ", capfd.readouterr().err)
