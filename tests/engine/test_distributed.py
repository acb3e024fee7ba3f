"""Several processes train as one does, stop together, and go on in any number."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine import tiny
from tests.engine.tiny import STEPS, TINY, events, lines, pictures, run, same, training, weights
from tests.tiny import tiny_method
from unmask.data import Augment, PretrainLoader, Source, View, open_source
from unmask.engine import pretrain as engine
from unmask.engine.draws import draws
from unmask.engine.machine import default_workers
from unmask.engine.setup import Job
from unmask.masking import BlockMask
from unmask.methods.base import Method
from unmask.methods.mae import MAE
from unmask.recipes.resolve import resolve_recipe

# Where the true gradient is 0 (the bias of keys), Adam divides rounding errors by their own size; a larger
# constant in the divisor leaves nothing of them, and the weights can be compared.
COMPARABLE = {"optim.eps": 1e-3, "schedule.warmup_epochs": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated_clipped_averaged": {"optim.accumulate": 2, "optim.clip": 0.5, "optim.ema": 0.9},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


def joined(rank: int, count: int, port: int) -> None:
    """Say in the environment, as a launcher does, which process of a run this is."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(number) for name, number in here.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def member(
    rank: int, count: int, port: int, broken: int | None, data: Path, out: Path, options: dict[str, Any]
) -> None:
    """One process of a run, as a launcher would start it; the last one's loss is no number at step `broken`.

    Each leaves beside the run what it holds whenever it saves.
    """
    joined(rank, count, port)
    save, forward = engine.save, MAE.forward

    def noted(job: Job, state: Any) -> None:
        save(job, state)
        average = {} if job.ema is None else job.ema.module.state_dict()
        torch.save((job.learner.state_dict(), average), out.with_name(f"{out.name}-{rank}.pt"))

    def broken_forward(self: MAE, images: Tensor, **inputs: Any) -> dict[str, Tensor]:
        losses = forward(self, images, **inputs)
        calls.append(None)
        return {"loss": losses["loss"] * torch.nan} if len(calls) == broken else losses

    calls: list[None] = []
    engine.save = noted
    if broken is not None and rank == count - 1:
        MAE.forward = broken_forward
    tiny.child(data, out, options.pop("overrides"), options)


def launch(
    data: Path,
    out: Path,
    overrides: dict[str, Any] | None = None,
    *,
    count: int = 2,
    broken: int | None = None,
    **options: Any,
) -> list[BaseProcess]:
    """Processes of one run."""
    port = free_port()
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    options["overrides"] = overrides or {}
    processes = [
        context.Process(target=member, args=(rank, count, port, broken, data, out, options))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def codes(processes: Sequence[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def held(out: Path, rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a process held when the run ended: its weights, its averaged ones."""
    return torch.load(out.with_name(f"{out.name}-{rank}.pt"))


def assert_close(first: Path, second: Path) -> None:
    """Two runs differ by rounding alone."""
    ours, theirs = torch.tensor(training(first)), torch.tensor(training(second))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(first), weights(second), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_train_as_one(data: Path, tmp_path: Path, variant: str) -> None:
    overrides = COMPARABLE | VARIANTS[variant]
    run(data, tmp_path / "one", overrides=overrides)
    assert codes(launch(data, tmp_path / "two", overrides)) == [0, 0]
    assert_close(tmp_path / "one", tmp_path / "two")
    assert events(tmp_path / "two") == ["start", "end"]  # written by one process
    facts = lines(tmp_path / "two")[0]
    assert (facts["event"], facts["processes"]) == ("start", 2)
    for ours, theirs in zip(held(tmp_path / "two", 0), held(tmp_path / "two", 1), strict=True):
        assert same(ours, theirs)
    assert bool(held(tmp_path / "two", 1)[1]) == ("optim.ema" in overrides)


def test_runs_that_differ_are_told_apart(data: Path, tmp_path: Path) -> None:
    for name, options in (("one", {}), ("half", {"batch_size": 4}), ("other", {"seed": 1})):
        run(data, tmp_path / name, overrides=COMPARABLE, **options)
    for name in ("half", "other"):
        with pytest.raises(AssertionError):
            assert_close(tmp_path / "one", tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 8])
def test_many_processes_train_as_one(data: Path, tmp_path: Path, count: int) -> None:
    run(data, tmp_path / "one", overrides=COMPARABLE)
    assert codes(launch(data, tmp_path / "many", COMPARABLE, count=count)) == [0] * count
    assert_close(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
def test_a_contrast_sees_the_images_of_all_processes(data: Path, tmp_path: Path) -> None:
    """BatchNorms, contrast and queue of CMAE: with half of the batch each, the loss would be another one."""
    projections = {"method.projection_dim": 16, "method.projection_hidden": 32, "method.feature_depth": 1}
    overrides = COMPARABLE | projections | {"method.mask_size": 16, "method.queue": 12}
    run(data, tmp_path / "one", method="cmae", overrides=overrides, steps=12)
    assert codes(launch(data, tmp_path / "two", overrides, method="cmae", steps=12)) == [0, 0]
    ours, theirs = (torch.tensor(training(tmp_path / name)) for name in ("one", "two"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    own, shared = (weights(tmp_path / name, 12) for name in ("one", "two"))
    torch.testing.assert_close(own, shared, rtol=1e-3, atol=1e-5)
    assert same(*(held(tmp_path / "two", rank)[0] for rank in (0, 1)))
    moved = {name for name in own if name.endswith("running_mean") and own[name].any()}
    assert len(moved) == 3 and own["queue"].shape == (12, 16)


@pytest.mark.slow
def test_masks_that_a_teacher_decides_do_not_depend_on_processes(data: Path, tmp_path: Path) -> None:
    """MILAN: the noise is drawn for the batch, and weighed where the images are."""
    overrides = COMPARABLE | {"method.teacher": "random:vit_tiny_patch16_224", "method.sampling": "attention"}
    run(data, tmp_path / "one", method="milan", overrides=overrides, steps=12)
    assert codes(launch(data, tmp_path / "two", overrides, method="milan", steps=12)) == [0, 0]
    ours, theirs = (torch.tensor(training(tmp_path / name)) for name in ("one", "two"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        weights(tmp_path / "one", 12), weights(tmp_path / "two", 12), rtol=1e-4, atol=2e-6
    )


def wait_for_step(processes: list[BaseProcess], out: Path, step: int) -> None:
    while processes[0].is_alive() and not any(
        line.get("loss") and line["step"] >= step for line in lines(out)
    ):
        time.sleep(0.002)


def test_a_signal_to_one_process_stops_all_and_any_number_goes_on(data: Path, tmp_path: Path) -> None:
    overrides = COMPARABLE | {"optim.ema": 0.9}
    run(data, tmp_path / "one", overrides=overrides)
    assert codes(launch(data, tmp_path / "two", overrides)) == [0, 0]
    out = tmp_path / "stopped"
    processes = launch(data, out, overrides)
    wait_for_step(processes, out, 3)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGTERM)
    assert codes(processes) == [143, 143]
    stopped = lines(out)[-1]
    assert (stopped["event"], stopped["reason"]) == ("stopped", "SIGTERM")
    assert 3 <= stopped["step"] < STEPS
    assert (out / "checkpoints" / f"step_{stopped['step']:08d}" / "state.json").is_file()
    alone = Path(shutil.copytree(out, tmp_path / "alone"))
    assert codes(launch(data, out, resume=True)) == [0, 0]
    assert same(weights(tmp_path / "two"), weights(out))  # the same number: bit for bit
    assert training(tmp_path / "two") == training(out)
    run(data, alone, resume=True)  # another number: but for rounding
    assert_close(tmp_path / "one", alone)
    assert [line["processes"] for line in lines(alone) if line.get("event") in ("start", "resume")] == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_processes_killed_at_any_moment_end_with_the_same_bits(data: Path, tmp_path: Path, seed: int) -> None:
    overrides = {"checkpoint.every": 3, "encoder.drop_path_rate": 0.3, "optim.ema": 0.9}
    assert codes(launch(data, tmp_path / "whole", overrides)) == [0, 0]
    processes = launch(data, tmp_path / "killed", overrides)
    wait_for_step(processes, tmp_path / "killed", 5 + 4 * seed)
    time.sleep(0.01 * seed)
    for process in processes:
        process.kill()
    codes(processes)
    assert codes(launch(data, tmp_path / "killed", resume=True)) == [0, 0]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert training(tmp_path / "whole") == training(tmp_path / "killed")


def test_a_loss_that_is_no_number_in_one_process_is_left_out_by_all(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert codes(launch(data, out, {"optim.clip": 1.0}, broken=4, steps=6)) == [0, 0]
    rejected = [line for line in lines(out) if line.get("event") == "rejected"]
    assert [(line["step"], line["loss"]) for line in rejected] == [(4, "nan")]
    ours, theirs = held(out, 0)[0], held(out, 1)[0]
    assert same(ours, theirs) and all(value.isfinite().all() for value in ours.values())


def test_files_that_any_process_could_not_read_are_noted_once(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures")
    broken = {f"{index:03d}.png" for index in (3, 17, 31)}
    for name in broken:
        (folder / name).write_bytes(b"no picture")
    out = tmp_path / "run"
    assert codes(launch(folder, out, steps=12)) == [0, 0]  # two epochs
    noted = [Path(line["name"]).name for line in lines(out) if line.get("event") == "bad_image"]
    assert len(noted) == len(set(noted)) and set(noted) <= broken
    state = json.loads((out / "checkpoints" / "step_00000012" / "state.json").read_text())
    assert [Path(name).name for name in state["bad"]] == noted
    run(folder, tmp_path / "one", steps=12)
    assert set(noted) == {
        Path(line["name"]).name for line in lines(tmp_path / "one") if line.get("event") == "bad_image"
    }
    assert noted


class Recording(Source):
    """Another source, and which of its files were asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> bytes:
        self.asked.append(index)
        return self.source.read(index)

    def name(self, index: int) -> str:
        return self.source.name(index)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_epoch_shows_each_image_to_one_process(data: Path, count: int) -> None:
    asked = []
    for rank in range(count):
        source = Recording(open_source(data))
        shared = {"batch_size": 6 // count, "rank": rank, "world_size": count, "seed": 0, "workers": 0}
        loader = PretrainLoader(source, {"images": View()}, Augment(image_size=(16, 16)), **shared)
        batches = loader.batches()
        for _ in range(len(loader)):
            next(batches)
        asked += source.asked
    assert len(asked) == len(set(asked)) == 48  # of 50: whole batches


def drawn(job: Any, count: int, parts: int, *, step: int) -> Tensor:
    """Masks of a batch of 8, in the order of the images, as `count` processes draw them in `parts` each."""
    recipe = resolve_recipe("mae", batch_size=8, steps=9, overrides={"optim.accumulate": parts})
    images = torch.zeros(8, 3, 64, 64).chunk(count * parts)
    rows = []
    for process in range(count):
        accelerator = SimpleNamespace(process_index=process)
        here = SimpleNamespace(recipe=recipe, accelerator=accelerator, learner=job)
        for part in range(parts):
            views = {"images": images[process * parts + part]}
            rows.append(draws(here, views, step=step, part=part)["mask"].hidden)  # type: ignore[arg-type]
    return torch.cat(rows)


@pytest.mark.parametrize("sampler", ["random", "block", "ragged"])
def test_a_mask_depends_on_the_place_in_the_batch_alone(sampler: str) -> None:
    method: Method = tiny_method("simmim", "vit")
    if sampler != "random":
        method.masking = BlockMask(count=20, min_block=4, official=sampler == "ragged")
    whole = drawn(method, 1, 1, step=5)
    assert len({tuple(row.tolist()) for row in whole}) == 8
    for count, parts in ((1, 4), (2, 1), (2, 2), (8, 1)):
        torch.rand(7)  # whatever was drawn before
        assert torch.equal(drawn(method, count, parts, step=5), whole)
    assert not torch.equal(drawn(method, 1, 1, step=6), whole)


def test_the_network_draws_other_numbers_in_each_process() -> None:
    method = tiny_method("mae", "vit")
    recipe = resolve_recipe("mae", batch_size=8, steps=9)
    values = []
    for process, step in ((0, 0), (1, 0), (0, 1), (0, 0)):
        accelerator = SimpleNamespace(process_index=process)
        here = SimpleNamespace(recipe=recipe, accelerator=accelerator, learner=method)
        draws(here, {"images": torch.zeros(4, 3, 64, 64)}, step=step, part=0)  # type: ignore[arg-type]
        values.append(torch.rand(()).item())
    assert len(set(values)) == 3 and values[0] == values[3]


def test_processes_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.engine.machine.cores", lambda: 8)
    found = []
    for count in (1, 2, 4, 8):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
        found.append(default_workers())
    assert found == [4, 3, 1, 0]


# What a launcher starts: the command line, as a program of its own.
COMMAND = [
    *("pretrain", "mae", "--encoder", "vit_tiny_patch16_224", "--image-size", "32", "--batch-size", "8"),
    *("--device", "cpu", "--workers", "0", *(f"{key}={value}" for key, value in TINY.items())),
]


def torchrun(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "unmask.cli", *COMMAND, "--data", str(data), "--out", str(out), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_sigterm_to_the_launcher_stops_all_at_one_step(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with torchrun(data, out, "--steps", "100000") as launcher:
        while launcher.poll() is None and len(lines(out)) < 4:
            time.sleep(0.02)
        launcher.terminate()
        _, said = launcher.communicate()
    stopped = lines(out)[-1]
    assert (stopped["event"], stopped["reason"]) == ("stopped", "SIGTERM")
    assert (out / "checkpoints" / f"step_{stopped['step']:08d}" / "state.json").is_file()
    for sentence in ("2 x CPU", "Stopping after this step", f"Stopped after step {stopped['step']}"):
        assert said.count(sentence) == 1, said


@pytest.mark.slow
def test_a_mistake_is_said_once(data: Path, tmp_path: Path) -> None:
    with torchrun(data, tmp_path / "run", "--steps", "2", "--batch-size", "9") as launcher:
        _, said = launcher.communicate()
    assert launcher.returncode != 0 and not (tmp_path / "run").exists()
    assert said.count("a batch of 9 images cannot be shared by 2 processes") == 1
    assert re.search(r"exitcode\s*: 2\b", said)


def test_a_mistake_that_one_process_met_alone_is_said_by_it() -> None:
    code = """if True:
        import sys, time
        from unmask import cli
        time.sleep = lambda seconds: print("waited", seconds, file=sys.stderr)
        cli.fail("the disk of this machine only", debug=False)
    """
    for rank, first in (("0", "Error:"), ("1", "waited 10.0")):
        alone = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"LOCAL_RANK": rank},
            capture_output=True,
            text=True,
            check=False,
        )
        assert alone.returncode == 2
        assert alone.stderr.startswith(first) and alone.stderr.count("Error: the disk") == 1
