"""The training loop for labels: fine-tuning, segmentation and detection."""

import math
import signal
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from rich.console import Console
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor

from unmask.engine.bad import note_bad
from unmask.engine.checkpoint import State, checkpoints, load_checkpoint, save_checkpoint
from unmask.engine.draws import NETWORK_STREAM, seed_generators, seed_of
from unmask.engine.files import put
from unmask.engine.guard import Guard, place_for, require_finite
from unmask.engine.labelled_setup import (
    BEST,
    LabelledJob,
    make_task_folder,
    prepare_task,
    saved_task_recipe,
)
from unmask.engine.launch import speaks
from unmask.engine.lock import RunLock
from unmask.engine.log import RunLog, is_logged
from unmask.engine.machine import Machine, attention, machine_name, peak_memory_mb
from unmask.engine.measure import Outcome, Speed
from unmask.engine.progress import ProgressLine
from unmask.engine.run import Run, require_equal, require_unchanged, saved_state
from unmask.engine.signals import StopRequest
from unmask.engine.step import apply
from unmask.engine.task import Process, Task
from unmask.errors import UserError
from unmask.recipes.tasks import TaskRecipe
from unmask.runs import read_log

__all__ = ["Process", "Task", "saved_task_recipe", "train_task"]

LOSS_STREAM = 6  # of random numbers, beside those of `labelled_loader` and `draws`
# Of the environment, so that what a run began with is known when it went on elsewhere.
LOGGED = ("device", "gpu", "processor", "processes", "precision", "compile", "torch")


def train_task(
    task: Task,
    recipe: TaskRecipe,
    folder: Path,
    machine: Machine,
    *,
    saved: TaskRecipe | None = None,
    overwrite: bool = False,
    data: str = "",
    progress: bool = True,
) -> Run:
    """Train a task's network into a run folder, or go on with that.

    Nothing is written before everything was checked. A run that was stopped or killed goes on from its newest
    checkpoint, in the middle of an epoch too; on a CPU with the same number of threads bit for bit as if
    never stopped, if the task keeps its contract. The weights that score best in a validation are kept as
    `best.safetensors`, and what the run ends with is made of them.

    Args:
        task: its model with the weights to start from.
        saved: the recipe of the run to go on with, of `saved_task_recipe`; None for a new one.
        overwrite: delete the run in `folder` first.
        data: what the log calls the data.
        progress: show on stderr how it goes.

    Raises:
        UserError: anything that a person can correct.
    """
    if saved is not None:
        require_equal(saved.model_dump(mode="json"), recipe.model_dump(mode="json"))
    state = State(images=task.samples()) if saved is None else saved_state(folder, task.samples())
    if saved is not None and read_log(folder / "log.jsonl").status == "finished":
        Console(stderr=True, quiet=not (progress and speaks())).print(
            f"The run in {folder} is finished; nothing is left to do.", soft_wrap=True
        )
        return Run.of(folder, state, total=state.step)
    resumed = saved is not None
    job = prepare_task(task, recipe, folder, machine, resumed=resumed)
    accelerator, main = job.accelerator, job.accelerator.is_main_process
    accelerator.wait_for_everyone()  # every process has looked at the folder before the first one writes
    with RunLock(folder, held=main):
        if main:
            require_unchanged(folder, state, resumed=resumed, overwrite=overwrite)
            make_task_folder(job, overwrite=overwrite)
        accelerator.wait_for_everyone()
        if state.step:
            load_checkpoint(accelerator, job.ema, checkpoints(folder / "checkpoints")[-1])
            job.loader.bad.update(state.bad)
        with (
            StopRequest(told=main) as stop,
            RunLog(folder, step=state.step, written=main) as log,
            ProgressLine(step=state.step, total=job.total, shown=progress and main) as shown,
        ):
            shown.say(_headline(job, state, resumed=resumed))
            facts = {"data": data, "images": state.images, "steps": job.total}
            known = {name: job.environment[name] for name in LOGGED}
            log.event("resume" if resumed else "start", state.step, **facts, **known)
            _carry_out(job, state, log, shown, stop)
            stopped = state.step < job.total
            if stopped:
                assert stop.signal is not None, "only a signal ends the loop early"
                log.event("stopped", state.step, reason=signal.Signals(stop.signal).name)
                shown.say(f"Stopped after step {state.step:,}. Go on with the same command and --resume.")
            else:
                log.event("end", state.step)
    accelerator.wait_for_everyone()  # what the first process handed over is there for all
    return Run.of(folder, state, total=job.total, interrupted=stop.exit_code if stopped else None)


def _carry_out(job: LabelledJob, state: State, log: RunLog, shown: ProgressLine, stop: StopRequest) -> None:
    """Train, save, and conclude what is complete.

    Raises:
        UserError: the run cannot go on, which its log says too.
    """
    try:
        _train(job, state, log, shown, stop)
        # Here and not in the loop: a run that was killed between its last step and its conclusion has no step
        # left to do.
        _save(job, state)
        if state.step == job.total:
            _conclude(job, state)
    except UserError as error:
        log.event("failed", state.step, reason=str(error))
        raise


def _headline(job: LabelledJob, state: State, *, resumed: bool) -> str:
    """What is about to be done, on what, and where it will lie."""
    trained = sum(parameter.numel() for parameter in job.parameters) / 1e6
    length = f"{job.total:,} steps of {job.recipe.optim.batch_size} ({len(job.loader):,} an epoch)"
    where = f"{state.images:,} samples, {length}, {machine_name(job.environment)} -> {job.folder}"
    what = f"{job.recipe.kind} ({job.recipe.name}), {trained:.1f} M parameters; {where}"
    return (f"Going on from step {state.step:,}: " if resumed else "") + what


def _train(job: LabelledJob, state: State, log: RunLog, shown: ProgressLine, stop: StopRequest) -> None:
    """Steps from `state.step` on, until the run is complete or a signal comes; `state` is kept up to date."""
    batches = job.loader.batches(state.step)
    began = time.perf_counter() - state.seconds
    speed, guard, told = Speed(job.recipe.optim.batch_size), Guard(job.folder), 0
    job.model.train()
    while state.step < job.total and not told:
        with speed.waiting():
            parts = next(batches)
        job.scheduler.step_update(state.step)
        outcome = _update(job, parts, step=state.step, signal=stop.signal)
        state.step += 1
        state.loss, state.seconds = outcome.losses["loss"], time.perf_counter() - began
        if outcome.accepted:
            guard.accept()
            if job.ema is not None:
                job.ema.update(job.task.model, step=state.step)
        else:
            guard.reject()
            figures = {"loss": str(state.loss), "grad_norm": str(outcome.norm)}
            log.event("rejected", state.step, **figures, batch=_keep(job, state.step, parts))
            guard.require_few(state.step)
        logged = is_logged(state.step, job.total)
        together = logged or bool(outcome.signal)
        note_bad(job.accelerator, job.loader.bad, state, log, together=together)
        if logged:
            rates = {**speed.read(), "memory_mb": round(peak_memory_mb(job.accelerator.device), 1)}
            shown.rates(**rates)
            log.step(_line(job, state.step, outcome) | rates)
        shown.step(state.step, state.loss)
        # Before the checkpoint: a run that was killed in between would never be validated here.
        if state.step % job.validate_every == 0 or state.step == job.total:
            _validate(job, state, log, shown)
        if state.step % job.save_every == 0 and state.step < job.total:
            _save(job, state)
        # Processes stop at the same step: what counts is what all of them saw in its outcome.
        told = outcome.signal or (stop.signal or 0 if job.accelerator.num_processes == 1 else 0)
    stop.signal = told or stop.signal


def _update(job: LabelledJob, parts: list[Any], *, step: int, signal: int | None) -> Outcome:
    """One optimiser step; none if the loss or the gradient is not finite."""
    accelerator, optim, process = job.accelerator, job.recipe.optim, job.process.index
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        batch = send_to_device(part, accelerator.device, non_blocking=True)
        drawn = torch.Generator().manual_seed(seed_of(LOSS_STREAM, job.recipe.seed, step, process, number))
        seed_generators(NETWORK_STREAM, job.recipe.seed, step, process, number)
        with accelerator.accumulate(job.model), attention(accelerator.device, job.precision):
            losses = job.task.losses(job.model, batch, drawn)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / len(parts)
            accelerator.backward(losses["loss"])
    return apply(accelerator, job.optimiser, job.parameters, sums, clip=optim.clip, signal=signal)


def _validate(job: LabelledJob, state: State, log: RunLog, shown: ProgressLine) -> None:
    """Judge the weights; the best so far are kept."""
    score, began = job.task.score, time.perf_counter()
    job.result.eval()
    figures = job.task.validate(job.result, job.process)
    job.model.train()
    best = math.isfinite(figures[score]) and (state.best is None or figures[score] > state.best_score)
    if best:
        state.best, state.best_score = state.step, figures[score]
        if job.accelerator.is_main_process:
            put(job.folder / BEST, lambda path: save_model(job.result, str(path)))
        job.accelerator.wait_for_everyone()
    epoch = round(state.step / len(job.loader), 4)
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    seconds = round(time.perf_counter() - began, 2)
    log.event("validation", state.step, epoch=epoch, **finite, best=best, seconds=seconds)
    words = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    shown.say(f"Validation after epoch {epoch:.4g}: {words}{' (best so far)' if best else ''}")


def _save(job: LabelledJob, state: State) -> None:
    """A checkpoint; none if the weights are not finite."""
    require_finite(job.result, state.step)
    folder, keep = job.folder / "checkpoints", job.recipe.checkpoint.keep
    # The best weights lie in a file of their own, so their checkpoint need not stay.
    save_checkpoint(job.accelerator, job.ema, state, folder, keep=keep, best=None)


def _conclude(job: LabelledJob, state: State) -> None:
    """Hand over what the best weights give; the last ones if no validation gave a number."""
    if state.best is not None:
        load_model(job.result, str(job.folder / BEST))
    job.result.eval()
    job.task.conclude(job.result, job.folder, job.process, state)
    job.accelerator.wait_for_everyone()


def _keep(job: LabelledJob, step: int, parts: list[Any]) -> str | None:
    """The tensors of a batch that gave no finite numbers, to be looked at; each process keeps its own."""
    path = place_for(job.folder, step, job.accelerator.process_index)
    if path is None:
        return None
    put(path, lambda unfinished: save_file(_tensors(parts, "part"), unfinished))
    return str(path.relative_to(job.folder))


def _tensors(batch: Any, name: str) -> dict[str, Tensor]:
    """All tensors of a nested batch, by where they lie in it."""
    if isinstance(batch, Tensor):
        return {name: batch.cpu().contiguous()}
    if isinstance(batch, dict):
        inner = [(str(key), value) for key, value in batch.items()]
    elif isinstance(batch, list | tuple):
        inner = [(str(number), value) for number, value in enumerate(batch)]
    else:
        inner = []
    return {place: found for key, value in inner for place, found in _tensors(value, f"{name}.{key}").items()}


def _line(job: LabelledJob, step: int, outcome: Outcome) -> dict[str, float]:
    """A training line of the log; the learning rate is the head's, the highest."""
    line = {"step": step, "epoch": round(step / len(job.loader), 4), **outcome.losses}
    rate = max(group["lr"] for group in job.optimiser.param_groups)
    return line | {"lr": rate, "grad_norm": outcome.norm}
