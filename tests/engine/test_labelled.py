"""The loop for labels: what it promises to every task."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.labels import SAMPLES, STEPS, TinyTask, run, start
from tests.engine.test_distributed import codes, free_port, joined
from tests.engine.tiny import events, lines, same, training, weights
from unmask.engine.guard import MOST_REJECTED
from unmask.engine.lock import RunLock
from unmask.errors import UserError

OFTEN = {"checkpoint.every": 3, "checkpoint.keep": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": OFTEN,
    "accumulated_averaged": OFTEN | {"optim.accumulate": 2, "optim.ema": 0.9, "optim.clip": 0.5},
    "poly": OFTEN | {"schedule.kind": "poly", "schedule.power": 0.9, "schedule.warmup_steps": 3},
}


class Stopping(TinyTask):
    """Sends this process a signal while the n-th loss is computed."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._left = calls

    def losses(self, *inputs: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGTERM)
        return super().losses(*inputs)


def validations(out: Path) -> list[tuple[Any, ...]]:
    return [(line["step"], line["accuracy"], line["best"]) for line in lines(out) if "accuracy" in line]


def test_a_task_is_learned(tmp_path: Path) -> None:
    result = run(tmp_path / "run", settings={"schedule.steps": 150})
    assert result.interrupted is None and result.step == 150
    scores = [score for _, score, _ in validations(tmp_path / "run")]
    assert max(scores) >= 0.9 and len(scores) == 13  # of 25 epochs every second one, and the end
    assert events(tmp_path / "run")[0] == "start" and events(tmp_path / "run")[-1] == "end"
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (recipe["kind"], recipe["optim"]["layer_decay"]) == ("tiny", 0.5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [4, 13])
def test_stopped_and_resumed_is_as_never_stopped(tmp_path: Path, variant: str, step: int) -> None:
    settings = VARIANTS[variant]
    run(tmp_path / "whole", settings=settings)
    out = tmp_path / "stopped"
    calls = step * settings.get("optim.accumulate", 1)
    stopped = run(out, settings=settings, task=Stopping(calls))
    assert (stopped.interrupted, stopped.step) == (143, step)
    assert not (out / "result.txt").exists()  # nothing is concluded before the end
    run(out, resume=True)
    assert same(weights(tmp_path / "whole", STEPS), weights(out, STEPS))
    assert same(load_file(tmp_path / "whole" / "best.safetensors"), load_file(out / "best.safetensors"))
    assert training(tmp_path / "whole") == training(out)
    assert validations(tmp_path / "whole") == validations(out)
    assert (tmp_path / "whole" / "result.txt").read_text() == (out / "result.txt").read_text()


def test_warm_up_is_as_long_as_the_recipe_says(tmp_path: Path) -> None:
    run(tmp_path / "run", settings={"schedule.warmup_epochs": 60})  # of 100: 12 of 20 steps
    rates = [line["lr"] for line in lines(tmp_path / "run") if "lr" in line]
    assert rates[:12] == pytest.approx([0.01 * step / 12 for step in range(12)]) and rates[12] == 0.01


def test_workers_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "none")
    run(tmp_path / "two", workers=2)
    assert same(weights(tmp_path / "none", STEPS), weights(tmp_path / "two", STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_and_resumed_is_as_never_killed(tmp_path: Path, variant: str, seed: int) -> None:
    generator, settings = random.Random(seed), VARIANTS[variant]
    run(tmp_path / "whole", settings=settings)
    out = tmp_path / "killed"
    for step in sorted(generator.sample(range(1, STEPS), 2)):
        process = start(out, settings, resume=True, workers=seed % 2)
        while process.is_alive() and not any(
            line.get("loss") and line["step"] >= step for line in lines(out)
        ):
            time.sleep(0.002)
        time.sleep(generator.random() * 0.02)
        process.kill()
        process.join()
    run(out, resume=True)
    assert same(weights(tmp_path / "whole", STEPS), weights(out, STEPS))
    assert validations(tmp_path / "whole") == validations(out)
    assert (tmp_path / "whole" / "result.txt").read_text() == (out / "result.txt").read_text()


def test_best_weights_are_kept_and_concluded_with(tmp_path: Path) -> None:
    task = TinyTask()
    task.scores = [0.1, 0.5, float("nan"), 0.3]
    out = tmp_path / "run"
    run(out, task=task, settings=OFTEN | {"checkpoint.keep": 9})  # six steps an epoch
    assert validations(out) == [(6, 0.1, True), (12, 0.5, True), (18, None, False), (20, 0.3, False)]
    assert same(load_file(out / "best.safetensors"), load_file(weights_of(out, 12)))
    best = sum(float(value.double().sum()) for value in load_file(out / "best.safetensors").values())
    step, total = (out / "result.txt").read_text().split()
    assert step == "12" and float(total) == pytest.approx(best, rel=1e-12)


def test_the_newest_checkpoint_alone_is_kept(tmp_path: Path) -> None:
    task, out = TinyTask(), tmp_path / "run"
    task.scores = [0.9, 0.5, 0.3, 0.3]
    run(out, task=task, settings={"checkpoint.every": 6})
    assert validations(out)[0] == (6, 0.9, True)
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step_{STEPS:08d}"]


def weights_of(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step_{step:08d}" / "model.safetensors"


def test_averaged_weights_are_judged(tmp_path: Path) -> None:
    task, out = TinyTask(), tmp_path / "run"
    task.scores = [0.1, 0.2, 0.3, 0.4]  # the last weights are the best
    run(out, task=task, settings={"optim.ema": 0.9})
    average = load_file(out / "checkpoints" / f"step_{STEPS:08d}" / "ema.safetensors")
    assert same(load_file(out / "best.safetensors"), average)
    assert not same(average, load_file(weights_of(out, STEPS)))


def test_steps_that_are_not_finite_are_left_out_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, task=TinyTask(broken=range(5, 7)))
    rejected = [line for line in lines(out) if line.get("event") == "rejected"]
    assert [line["step"] for line in rejected] == [5, 6]
    kept = load_file(out / rejected[0]["batch"])
    assert {name: tuple(value.shape) for name, value in kept.items()} == {
        "part.0.x": (8, 6),
        "part.0.y": (8,),
    }
    assert all(value.isfinite().all() for value in weights(out, STEPS).values())


def test_a_run_without_finite_steps_ends(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match=rf"for {MOST_REJECTED} steps in a row.*step_00000001\.safetensors"):
        run(out, task=TinyTask(broken=range(1, 1000)), settings={"schedule.steps": 60})
    assert events(out)[-1] == "failed"


def test_samples_that_cannot_be_read_are_replaced_and_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    task = TinyTask(unreadable=(3, 9))
    run(out, task=task)
    bad = {line["name"]: line["reason"] for line in lines(out) if line.get("event") == "bad_image"}
    assert bad == {"3.png": "cut off", "9.png": "cut off"}
    assert not {3, 9} & set(task.seen)
    with pytest.raises(UserError, match=r"of 50 files cannot be read.* may be bad\. Repair or remove them\."):
        run(tmp_path / "other", task=TinyTask(unreadable=tuple(range(30))))


def test_folders_are_looked_after(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(out)
    with pytest.raises(UserError, match="holds a run already"):
        run(out)
    again = run(out, resume=True)  # finished: nothing to do
    assert (again.step, again.loss) == (STEPS, first.loss)
    with pytest.raises(UserError, match=r"optim.layer_decay is 0.5, not 0.7"):
        run(out, resume=True, settings={"optim.layer_decay": 0.7})
    with pytest.raises(UserError, match="no setting 'layer_decai'"):
        run(tmp_path / "other", settings={"optim.layer_decai": 0.7})
    with pytest.raises(UserError, match=r"Did you mean optim.layer_decay\?"):
        run(tmp_path / "other", settings={"layer_decay": 0.7})
    (out / "notes.txt").write_text("mine")
    run(out, overwrite=True, settings={"schedule.steps": 2})
    assert events(out) == ["start", "validation", "end"] and (out / "notes.txt").is_file()
    with RunLock(tmp_path / "busy"):
        process = start(tmp_path / "busy")
        process.join()
        assert process.exitcode == 1  # UserError: another process is training there
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "recipe.json").write_text('{"name": "mae"}')
    with pytest.raises(UserError, match="holds a pre-training run"):
        run(tmp_path / "pretrained", overwrite=True)


def test_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"has {SAMPLES} samples, fewer than one batch of 64"):
        run(tmp_path / "run", settings={"optim.batch_size": 64})
    assert not (tmp_path / "run").exists()


def member(rank: int, count: int, port: int, out: Path, settings: dict[str, Any]) -> None:
    joined(rank, count, port)
    run(out, settings=settings, task=TinyTask(dropout=0.0, mixed=0.0))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "accumulated_averaged"])
def test_two_processes_train_as_one(tmp_path: Path, variant: str) -> None:
    settings = VARIANTS[variant] | {"optim.eps": 1e-3}
    run(tmp_path / "one", settings=settings, task=TinyTask(dropout=0.0, mixed=0.0))
    context = torch.multiprocessing.get_context("forkserver")
    port = free_port()
    processes = [
        context.Process(target=member, args=(rank, 2, port, tmp_path / "two", settings)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    assert codes(processes) == [0, 0]
    ours, theirs = weights(tmp_path / "one", STEPS), weights(tmp_path / "two", STEPS)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert validations(tmp_path / "one") == validations(tmp_path / "two")
    assert events(tmp_path / "two") == events(tmp_path / "one")  # written by one process


def test_signal_from_outside(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, {"schedule.steps": 100_000})
    while process.is_alive() and not any(line.get("step", 0) >= 3 for line in lines(out)):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130 and events(out)[-1] == "stopped"
