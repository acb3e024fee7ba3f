"""Runs with labels side by side, by what they started from."""

import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unmask.compare import compare
from unmask.compare.evaluations import summary
from unmask.errors import UserError


def encoder(folder: Path, method: str, name: str = "vit_tiny_patch16_224") -> Path:
    folder.mkdir(parents=True)
    card = {"architecture": {"model_name": name}, "made_by": {"method": method}}
    (folder / "encoder.json").write_text(json.dumps(card))
    return folder


def evaluation(
    folder: Path,
    kind: str,
    start: Any,
    score: float,
    *,
    seed: int,
    random: bool = False,
    steps: int = 50,
    **recipe: Any,
) -> Path:
    """A finished run as each of the three commands leaves it."""
    folder.mkdir(parents=True)
    sections: dict[str, dict[str, Any]] = {
        "finetune": {"start": {"name": str(start), "random": random}},
        "segment": {"start": str(start), "network": {"random": random}},
        "detect": {"start": {"subject": str(start), "random": random}},
    }
    figures: dict[str, dict[str, Any]] = {
        "finetune": {"score": score, "judged_by": "test", "test": {"standard_error": 0.02}},
        "segment": {"miou": score},
        "detect": {"AP": score},
    }
    (folder / "recipe.json").write_text(json.dumps({"kind": kind, "seed": seed, **sections[kind], **recipe}))
    (folder / "metrics.json").write_text(json.dumps({"kind": kind, **figures[kind]}))
    log = [
        {"event": "start", "step": 0, "data": "/data/birds"},
        {"step": steps, "loss": 1.0},
        {"event": "end"},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two methods, of the first two pre-trainings, and random weights, of two seeds each."""
    found = []
    scores = {"mae": (0.7, 0.8), "simmim": (0.62, 0.66), "random": (0.5, 0.56)}
    for method, own in scores.items():
        for seed, score in enumerate(own):
            start = encoder(tmp_path / f"{method}-{seed}", "mae" if method == "random" else method)
            out = tmp_path / "out" / f"{method}-{seed}"
            found.append(evaluation(out, "finetune", start, score, seed=seed, random=method == "random"))
    return found


def test_runs_are_put_together_by_what_they_started_from(runs: list[Path]) -> None:
    found = compare(runs)
    assert found.labelled and found.path is None
    by_start = {row["start"]: row for row in found.rows}
    assert list(by_start) == ["random weights", "SimMIM", "MAE"]  # the best last
    mae = by_start["MAE"]
    assert mae["scores"] == [0.7, 0.8] and mae["seeds"] == [0, 1] and mae["mean"] == pytest.approx(0.75)
    assert mae["spread"] == pytest.approx(0.1 / math.sqrt(2))
    # Paired by seed: differences 0.20 and 0.24.
    assert mae["gain"] == pytest.approx(0.22) and mae["gain_error"] == pytest.approx(0.02)
    assert by_start["random weights"]["gain"] is None


def test_all_three_kinds_are_read(tmp_path: Path) -> None:
    start = encoder(tmp_path / "mae", "mae")
    folders = []
    for kind in ("finetune", "segment", "detect"):
        for random in (False, True):
            out = tmp_path / f"{kind}-{random}"
            folders.append(evaluation(out, kind, start, 0.4 - 0.1 * random, seed=0, random=random))
    rows = compare(folders).rows
    assert [(row["kind"], row["start"], row["mean"]) for row in rows] == [
        (kind, start, pytest.approx(score))
        for kind in ("detect", "finetune", "segment")
        for start, score in (("random weights", 0.3), ("MAE", 0.4))
    ]
    assert [row["gain"] for row in rows if row["start"] == "MAE"] == [pytest.approx(0.1)] * 3
    console = Console(width=160, record=True, file=StringIO())
    console.print(*summary(rows))
    text = console.export_text()
    assert "finetune on birds, top-1" in text and "segment on birds, mIoU" in text and "+10.0 %" in text


def test_other_lengths_and_encoders_are_no_baseline(tmp_path: Path) -> None:
    start = encoder(tmp_path / "mae", "mae")
    other = encoder(tmp_path / "swin", "simmim", "swin_tiny_patch4_window7_224")
    folders = [
        evaluation(tmp_path / "a", "finetune", start, 0.7, seed=0),
        evaluation(tmp_path / "b", "finetune", start, 0.5, seed=0, random=True, steps=99),
        evaluation(tmp_path / "c", "finetune", other, 0.4, seed=0, random=True),
        evaluation(tmp_path / "d", "finetune", "vit_tiny_patch16_224.augreg_in21k", 0.9, seed=0),
    ]
    rows = {row["runs"][0][-1]: row for row in compare(folders).rows}
    assert all(row["gain"] is None for row in rows.values())
    assert (rows["d"]["start"], rows["d"]["encoder"]) == (
        "vit_tiny_patch16_224.augreg_in21k",
        "vit_tiny_patch16_224",
    )


def test_other_settings_are_other_experiments(tmp_path: Path) -> None:
    start = encoder(tmp_path / "mae", "mae")
    folders = []
    for fraction, random, score in ((0.1, False, 0.5), (1.0, False, 0.9), (0.1, True, 0.4), (1.0, True, 0.6)):
        own = {
            "name": "mae_few",
            "data": {"fraction": fraction},
            "optim": {"layer_decay": 1 if random else 0.7},
        }
        out = tmp_path / f"{fraction}-{random}"
        folders.append(evaluation(out, "finetune", start, score, seed=0, random=random, **own))
    found = {row["start"]: (row["mean"], row["gain"]) for row in compare(folders).rows}
    assert found == {
        "random weights, fraction 0.1": (0.4, None),
        "random weights, fraction 1": (0.6, None),
        "MAE, fraction 0.1": (0.5, pytest.approx(0.1)),
        "MAE, fraction 1": (0.9, pytest.approx(0.3)),
    }


def test_seeds_of_a_pre_training_are_one_experiment_and_lengths_are_not(tmp_path: Path) -> None:
    folders = []
    for epochs, seed in ((10, 0), (10, 1), (40, 0), (40, 1)):
        start = encoder(tmp_path / f"mae-{epochs}-{seed}", "mae")
        schedule = {"epochs": epochs, "steps": None, "warmup_epochs": epochs / 20}
        places = {"teacher": f"/runs/{seed}/teacher"}  # each run's own
        recipe = {"name": "mae", "seed": seed, "schedule": schedule, "method": {"name": "mae", **places}}
        (start / "recipe.json").write_text(json.dumps(recipe))
        out = tmp_path / "out" / f"{epochs}-{seed}"
        folders.append(evaluation(out, "finetune", start, 0.5 + epochs / 100, seed=0))
    found = {row["start"]: len(row["runs"]) for row in compare(folders).rows}
    assert found == {"MAE, pre-training epochs 10": 2, "MAE, pre-training epochs 40": 2}


def test_the_same_experiment_twice_is_refused(tmp_path: Path) -> None:
    start = encoder(tmp_path / "mae", "mae")
    folders = [evaluation(tmp_path / name, "finetune", start, 0.5, seed=0) for name in "ab"]
    with pytest.raises(UserError, match="are the same experiment with the same seed, 0"):
        compare(folders)


def test_a_baseline_of_another_method_has_the_same_budget(tmp_path: Path) -> None:
    mae, simmim = (encoder(tmp_path / name, name) for name in ("mae", "simmim"))
    folders = [
        evaluation(tmp_path / "a", "finetune", mae, 0.4, seed=0, random=True, name="mae_few"),
        evaluation(tmp_path / "b", "finetune", simmim, 0.7, seed=0, name="simmim_few"),
    ]
    assert compare(folders).rows[1]["gain"] == pytest.approx(0.3)


def test_pages(runs: list[Path], tmp_path: Path) -> None:
    page = compare(runs, out=tmp_path / "page.html").path
    assert page is not None
    text = page.read_text()
    assert "75.0 ± 7.1 %" in text and "+22.0 ± 2.0 %" in text and "finetune on birds, top-1" in text
    table = compare(runs, out=tmp_path / "table.md").path
    assert table is not None
    assert "| MAE | vit_tiny_patch16_224 | 2 | 50 | 75.0 ± 7.1 % | +22.0 ± 2.0 % |" in table.read_text()


def test_mistakes_are_named(runs: list[Path], tmp_path: Path) -> None:
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    (pretrained / "recipe.json").write_text('{"name": "mae"}')
    with pytest.raises(UserError, match="compare runs of one kind"):
        compare([runs[0], pretrained])
    with pytest.raises(UserError, match="needs two runs"):
        compare(runs[:1])
    with pytest.raises(UserError, match="leave --pictures out"):
        compare(runs, pictures=["a.jpg"], out=tmp_path / "page.html")
    with pytest.raises(UserError, match=r"name in \.html or \.md"):
        compare(runs, out=tmp_path / "page.png")
    (runs[1] / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"has no result yet \(metrics.json\)"):
        compare(runs)
