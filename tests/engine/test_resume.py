"""Runs that are killed, stopped and taken up again."""

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.tiny import STEPS, events, lines, pictures, run, same, start, training, weights
from unmask.engine.signals import StopRequest
from unmask.errors import UserError

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"checkpoint.every": 4},
    "every_step": {"checkpoint.every": 1, "checkpoint.keep": 1},
    "accumulated_averaged": {
        "checkpoint.every": 5,
        "optim.accumulate": 2,
        "optim.ema": 0.9,
        "optim.clip": 0.5,
    },
    "probed": {"checkpoint.every": 5, "probe.every": 1},
    "stochastic": {"checkpoint.every": 4, "encoder.drop_path_rate": 0.3},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


def wait_for_step(process: BaseProcess, out: Path, step: int) -> None:
    while process.is_alive() and not any(line.get("loss") and line["step"] >= step for line in lines(out)):
        time.sleep(0.002)


def kill_and_resume(data: Path, folder: Path, variant: str, *, seed: int, workers: int = 0) -> None:
    """One uninterrupted run, and one that is killed at two random moments: the same weights, the same log."""
    generator = random.Random(seed)
    overrides = VARIANTS[variant]
    run(data, folder / "whole", overrides=overrides)
    out = folder / "killed"
    kills = sorted(generator.sample(range(1, STEPS), 2))
    for step in kills:
        process = start(data, out, overrides, resume=True, workers=workers)
        wait_for_step(process, out, step)
        time.sleep(generator.random() * 0.04)  # in the middle of a step, or of a checkpoint
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert "end" not in events(out)
    resumed = run(data, out, resume=True)
    assert resumed.interrupted is None and resumed.step == STEPS
    assert same(weights(folder / "whole"), weights(out))
    assert training(folder / "whole") == training(out)
    assert not list(out.rglob(".tmp-*"))


@pytest.mark.parametrize("variant", ["plain", "every_step", "accumulated_averaged", "probed"])
def test_killed_run_ends_with_the_same_bits(data: Path, tmp_path: Path, variant: str) -> None:
    kill_and_resume(data, tmp_path, variant, seed=len(variant))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_run_ends_with_the_same_bits_often(
    data: Path, tmp_path: Path, variant: str, seed: int
) -> None:
    kill_and_resume(data, tmp_path, variant, seed=100 + seed, workers=seed % 2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_exits_with_its_code(
    data: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run(data, tmp_path / "whole")
    out = tmp_path / "stopped"
    process = start(data, out, workers=1)
    wait_for_step(process, out, 3)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    stopped = lines(out)[-1]
    assert stopped["event"] == "stopped" and stopped["reason"] == number.name
    step = stopped["step"]
    assert 3 <= step < STEPS
    assert (out / "checkpoints" / f"step_{step:08d}" / "state.json").is_file()
    assert (out / "report.html").is_file()
    assert run(data, out, resume=True).interrupted is None
    assert same(weights(tmp_path / "whole"), weights(out))
    assert events(out) == ["start", "stopped", "resume", "end"]


def test_resumed_run_keeps_its_precision(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "whole", precision="bf16")
    out = tmp_path / "killed"
    process = start(data, out, {"checkpoint.every": 4}, precision="bf16")
    wait_for_step(process, out, 9)
    process.kill()
    process.join()
    run(data, out, resume=True)
    assert same(weights(tmp_path / "whole"), weights(out))


def test_second_ctrl_c_ends_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # as `timeout` sends it, to the process and to its group
        assert stop.exit_code == 143
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_signals_are_left_alone(data: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run, data, tmp_path / "run", steps=2).result()
    assert (result.step, result.interrupted) == (2, None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resume_cuts_what_was_logged_after_the_checkpoint(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(data, out, {"checkpoint.every": 7})
    wait_for_step(process, out, 12)
    process.kill()
    process.join()
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 13, "loss": 0.')  # a line that the kill cut
    run(data, out, resume=True)
    assert [line[0] for line in training(out)] == [float(step) for step in range(1, STEPS + 1)]


def test_resume_without_a_run_starts_one(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    assert run(data, out, resume=True, steps=3).step == 3
    assert events(out) == ["start", "end"]


@pytest.mark.parametrize("missing", [True, False])
def test_run_killed_after_its_last_checkpoint_gets_its_encoder(
    data: Path, tmp_path: Path, missing: bool
) -> None:
    out = tmp_path / "run"
    run(data, out, steps=4)
    encoder, card = out / "encoder.safetensors", json.loads((out / "encoder.json").read_text())
    whole = load_file(encoder)
    encoder.unlink()
    if missing:
        (out / "encoder.json").unlink()
    else:  # those of an earlier step
        save_file({name: value + 1 for name, value in whole.items()}, encoder)
        (out / "encoder.json").write_text(json.dumps({**card, "made_by": {"step": 2}}))
    log = (out / "log.jsonl").read_text().splitlines(keepends=True)
    assert '"end"' in log.pop()
    (out / "log.jsonl").write_text("".join(log))
    run(data, out, resume=True)
    assert same(whole, load_file(encoder))
    assert json.loads((out / "encoder.json").read_text()) == card
    assert events(out) == ["start", "resume", "end"]


def test_resume_of_a_finished_run_changes_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(data, out, steps=3)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = run(data, out, resume=True)
    assert (again.step, again.loss, again.interrupted) == (3, first.loss, None)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": STEPS + 1}, "schedule.steps is 3, not 25"),
        ({"lr": 0.5}, "optim.lr is None, not 0.5"),
        ({"overrides": {"method.mask_ratio": 0.5}}, "method.mask_ratio is 0.75, not 0.5"),
        ({"seed": 7}, "seed is 0, not 7"),
    ],
)
def test_resume_refuses_what_contradicts_the_run(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    out = tmp_path / "run"
    run(data, out, steps=3)
    with pytest.raises(UserError) as error:
        run(data, out, resume=True, **options)
    assert message in str(error.value)


def test_resume_accepts_what_agrees_with_the_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, steps=3)
    run(data, out, resume=True, steps=3, batch_size=8, image_size=(32, 32), encoder="vit_tiny_patch16_224")


def test_resume_refuses_another_number_of_images(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(data, out, {"checkpoint.every": 1})
    wait_for_step(process, out, 3)
    process.kill()
    process.join()
    with pytest.raises(UserError, match="started with 50 images, but --data has 49"):
        run(pictures(tmp_path / "fewer", 49), out, resume=True)


def test_leftover_of_a_killed_write_is_ignored_and_removed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, overrides={"checkpoint.every": 8, "checkpoint.keep": 3})
    folders = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert folders == ["step_00000008", "step_00000016", "step_00000024"]
    whole = weights(out)
    # As if killed while step 16 was saved and everything after it had never been.
    (out / "checkpoints" / "step_00000024").rename(out / "checkpoints" / ".tmp-step_00000024")
    (out / "checkpoints" / "step_00000016").rename(out / "checkpoints" / ".tmp-step_00000016")
    (out / "log.jsonl").write_text("".join((out / "log.jsonl").read_text().splitlines(keepends=True)[:-1]))
    run(data, out, resume=True)
    assert same(whole, weights(out))
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == folders


def test_seed_decides_everything(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(data, tmp_path / name, seed=seed, steps=3)
        torch.rand(7)  # whatever the process did before
    assert same(weights(tmp_path / "a", 3), weights(tmp_path / "b", 3))
    assert not same(weights(tmp_path / "a", 3), weights(tmp_path / "c", 3))
