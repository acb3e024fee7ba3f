"""Lines of the log, and what is cut from it."""

import json
from itertools import pairwise
from pathlib import Path

from unmask.engine.log import RunLog, cut, is_logged


def test_first_and_last_steps_and_a_bounded_number_between_are_logged() -> None:
    for total in (1, 7, 300, 4_000, 200_000):
        logged = [step for step in range(1, total + 1) if is_logged(step, total)]
        assert logged[: min(10, total)] == list(range(1, min(10, total) + 1))
        assert logged[-1] == total
        assert min(total, 1000) <= len(logged) <= 2100
        assert max((b - a for a, b in pairwise(logged)), default=1) <= 100


def test_cut_keeps_what_lies_before_and_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    kept = ['{"event": "start", "step": 0}', '{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.5}']
    later = ['{"step": 3, "loss": 1.0}', '{"event": "bad_image", "step": 3, "name": "x.png"}']
    evaluation = '{"event": "evaluation", "kind": "knn", "score": 0.5, "step": 3}'
    path.write_text("\n".join([*kept, *later, evaluation, '{"step": 4, "lo']))
    cut(path, 2)
    assert path.read_text().splitlines() == [*kept, evaluation]
    assert list(tmp_path.iterdir()) == [path]


def test_lines_are_readable_at_once_and_always_json(tmp_path: Path) -> None:
    with RunLog(tmp_path, step=0) as log:
        log.event("start", 0, data="photos")
        log.step({"step": 1, "loss": float("nan"), "lr": 0.1})
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "start" and lines[0]["data"] == "photos"
    assert lines[1]["loss"] is None and lines[1]["lr"] == 0.1
    assert all(line["time"] > 1.7e9 for line in lines)


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, step=0, written=False) as log:
        log.event("start", 0)
        log.step({"step": 1, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []
