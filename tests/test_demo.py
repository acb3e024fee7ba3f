"""The demo from end to end; its figures are checked in the slow one."""

import json
from pathlib import Path

import pytest

from unmask import demo as module
from unmask.demo import demo


def scores(out: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["kind"]: line for line in lines if line.get("event") == "evaluation"}


def test_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EPOCHS", 1)
    out = tmp_path / "demo"
    assert demo(out=out, device="cpu") is None
    assert set(scores(out)) == {"knn", "linear"}
    assert str(out / "report.html") in capsys.readouterr().out
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    demo(out=tmp_path / "demo", device="cpu")
    linear = scores(tmp_path / "demo")["linear"]
    assert linear["score"] > linear["baselines"]["random initialisation"]
