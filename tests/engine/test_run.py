"""Which folders a run may use, and that a mistake leaves no trace."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import events, pictures, run
from unmask.engine.run import MADE, clear
from unmask.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


def test_run_makes_what_it_says_and_only_that(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = run(data, out, steps=4, overrides={"checkpoint.pictures": 2})
    assert result.folder == out and result.step == result.total == 4
    assert result.loss is not None and result.seconds > 0
    assert {path.name for path in out.iterdir()} == set(MADE)
    pictured = sorted(path.name for path in (out / "images").iterdir())
    assert pictured == ["step_00000002.png", "step_00000004.png"]
    assert list((out / "metrics").glob("events.out.tfevents.*"))
    assert events(out) == ["start", "end"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": None, "overrides": {"schedule.stepz": 3}}, "stepz"),
        ({"batch_size": 64}, "50 images, fewer than one batch of 64"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"precision": "int8"}, "auto, fp32, bf16, fp16"),
        ({"device": "tpu"}, "auto, cpu or cuda"),
        ({"overrides": {"method.mask_rato": 0.5}}, "mask_ratio"),
        ({"overrides": {"optim.accumulate": 3}}, "cannot be split into 3"),
        ({"overrides": {"data.std": [0, 1, 1]}}, "std must be positive"),
        ({"image_size": (30, 30)}, "30"),
        ({"encoder": "vit_tny_patch16_224"}, "vit_tiny_patch16_224"),
        ({"resume": True, "overwrite": True}, "one of them"),
        ({"workers": -1}, "workers"),
    ],
)
def test_nothing_is_made_when_something_is_wrong(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        run(data, tmp_path / "run", **options)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_though_its_method_got_an_option_since(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, steps=4)
    recipe = json.loads((out / "recipe.json").read_text())
    del recipe["method"]["rounding"]
    (out / "recipe.json").write_text(json.dumps(recipe))
    assert run(data, out, resume=True).step == 4
    recipe["method"]["rounding"] = "mae_official"
    (out / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(UserError, match=r"method\.rounding is mae_official, not nearest"):
        run(data, out, resume=True, overrides={"method.rounding": "nearest"})


def test_missing_data_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        run(tmp_path / "nowhere", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_existing_run_is_refused_and_left_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, steps=2)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        run(data, out, steps=2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_overwrite_replaces_a_run_and_keeps_what_it_did_not_make(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, steps=4, overrides={"checkpoint.every": 1})
    (out / "notes.txt").write_text("mine")
    for made_of_it in ("export", "reconstructions"):
        (out / made_of_it).mkdir()
    run(data, out, steps=2, overwrite=True)
    assert not (out / "export").exists() and not (out / "reconstructions").exists()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_00000002"]
    assert len(list((out / "metrics").iterdir())) == 1
    assert (out / "notes.txt").read_text() == "mine"
    clear(out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_folder_that_is_no_run_is_never_touched(data: Path, tmp_path: Path, options: dict[str, bool]) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("mine")
    with pytest.raises(UserError, match="no run"):
        run(data, out, steps=2, **options)
    assert [path.name for path in out.iterdir()] == ["chapter.tex"]


def test_empty_folder_and_leftovers_of_a_killed_start_are_no_hindrance(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".tmp-1-recipe.json").write_text("{")
    assert run(data, out, steps=2).step == 2
    assert not list(out.glob(".tmp-*"))


def test_out_must_be_a_folder_that_can_be_written(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "run"):
        with pytest.raises(UserError, match="is a file"):
            run(data, out, steps=2)
    if os.geteuid() != 0:  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="no permission"):
            run(data, tmp_path / "run", steps=2)
        tmp_path.chmod(0o700)
