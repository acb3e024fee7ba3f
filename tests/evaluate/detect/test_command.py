"""`unmask evaluate detect`: what is printed, and what is refused."""

import json
import sys
from pathlib import Path

import pytest

from tests.evaluate.detect.made import SMALL, write_shapes
from unmask import cli
from unmask.evaluate.detect.table import summary

SETTINGS = [f"heads.{name}={value}" for name, value in SMALL.items()]


def arguments(root: Path, *more: str) -> list[str]:
    return [
        *("unmask", "evaluate", "detect", "random:vit_tiny_patch16_224", "--image-size", "64"),
        *("--data", str(root / "a"), "--annotations", str(root / "a.json")),
        *("--val-annotations", str(root / "a.json"), "--out", str(root / "run")),
        *("--steps", "1", "--batch-size", "2", "--workers", "0", "--device", "cpu", *more, *SETTINGS),
    ]


def test_figures_and_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "a", "a.json", masks="runs")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", arguments(tmp_path, "--cascade"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    printed = capsys.readouterr().out
    for words in (
        "8 objects on 4 pictures",
        "boxes",
        "masks",
        "disc",
        "square",
        "false alarms",
        "detections.png",
    ):
        assert words in printed
    assert '"kind": "cascade"' in (tmp_path / "run" / "recipe.json").read_text()


def test_only_pictures_that_are_there_are_named(tmp_path: Path) -> None:
    metrics = {"validation": {"objects": 1, "pictures": 1}, "AP": 0.5, "classes": []}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert not any(isinstance(part, str) for part in summary(tmp_path))
    (tmp_path / "detections.png").touch()
    assert list(summary(tmp_path))[-1] == str(tmp_path / "detections.png")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe", "vitdet"], "no recipe of a detector is called 'vitdet'"),
        (["--val-data", "none"], "There is no folder none"),
        (["heads.kind=two"], "heads.kind='two'"),
        (["--masks"], "None of the objects in"),
    ],
)
def test_mistakes(
    more: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_shapes(tmp_path / "a", "a.json")
    monkeypatch.setattr(sys, "argv", arguments(tmp_path, *more))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
