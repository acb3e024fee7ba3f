"""Pre-training: the loop, written once for all methods and tokenizers."""

import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Int64, Shaped
from rich.console import Console
from torch import Tensor

from unmask.data import Source, open_source
from unmask.encoders.base import ImageSize
from unmask.engine.bad import note_bad
from unmask.engine.checkpoint import State, checkpoints, load_checkpoint
from unmask.engine.draws import draws
from unmask.engine.guard import Guard, keep
from unmask.engine.launch import speaks
from unmask.engine.lock import RunLock
from unmask.engine.log import RunLog, is_logged
from unmask.engine.machine import CACHE_SIZE, Machine, attention, peak_memory_mb
from unmask.engine.measure import Outcome, Speed
from unmask.engine.probes import Probes
from unmask.engine.progress import ProgressLine, headline
from unmask.engine.run import (
    Run,
    continued,
    require_apart,
    require_same,
    require_unchanged,
    saved_recipe,
    saved_state,
)
from unmask.engine.saving import save, save_best, save_pictures
from unmask.engine.settle import in_words, settle, settled_as
from unmask.engine.setup import Job, make_folder, prepare
from unmask.engine.signals import StopRequest
from unmask.engine.step import apply
from unmask.engine.watch import Watch
from unmask.errors import UserError
from unmask.recipes.base import AnyPlan, Recipe
from unmask.recipes.build import lacking, with_paths_from
from unmask.recipes.resolve import resolve_recipe
from unmask.runs import location, read_log

# Of the environment, so that what a run began with is known when it went on elsewhere.
LOGGED = ("device", "gpu", "processor", "processes", "precision", "compile", "torch")


def pretrain(
    method_or_recipe: str | Recipe,
    *,
    data: Any,
    out: str | Path,
    encoder: str | None = None,
    image_size: ImageSize | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    compile: bool | None = None,
    checkpointing: bool = False,
    cache: str | Path | None = None,
    cache_size: float = CACHE_SIZE,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Run:
    """Pre-train an encoder on unlabelled images, into a run folder.

    Nothing is written before everything was checked. A run that was stopped or killed goes on with `resume`
    from its newest checkpoint, in the middle of an epoch too; on a CPU with the same number of threads bit
    for bit as if never stopped. A method that needs a tokenizer, where none is named, gets one that is
    trained on the same images first, in the folder `tokenizer` of the run's folder.

    Args:
        method_or_recipe: a method ("mae"), a published run, the path of a recipe.json, or a recipe.
        data: folder, zip or tar of images, a list of them (.txt, .csv), an open source, or a Python dataset:
            a list, array, tensor, map-style torch Dataset or Hugging Face Dataset of images.
        out: the run's folder, new or empty unless `resume` or `overwrite`.
        encoder: timm's name; this, the options up to `lr`, and `seed` replace what the recipe says.
        lr: peak learning rate; None is the recipe's, scaled to the batch.
        device: "auto", "cpu" or "cuda".
        precision: of the forward pass: "auto", "fp32", "bf16" or "fp16"; weights are kept in fp32.
        workers: processes that decode images; None leaves a core to the training, 0 decodes between steps.
        compile: the model by torch.compile, which rounds differently; None is what a run to go on with did,
            and no for a new one.
        checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        cache: folder in which is kept what a teacher or tokenizer says of fixed crops (`data.crops`), so that
            later epochs, and other runs, need not ask it again; None keeps nothing.
        cache_size: GB that the folder may come to hold, but never more than half of what is free.
        resume: go on with the run in `out`, or start it if there is none.
        overwrite: delete the run in `out` first.
        overrides: dotted key -> value for all else: "method.mask_ratio", "checkpoint.every", ...
        progress: show on stderr how it goes.

    Raises:
        UserError: anything that a person can correct.
    """
    folder = Path(out)
    saved = saved_recipe(folder, resume=resume, overwrite=overwrite)
    if saved is not None and not isinstance(saved, Recipe):
        raise UserError(
            f"--out {folder} holds a tokenizer, {saved.name}: go on with it by `unmask tokenizer`"
        )
    source = open_source(data)
    require_apart(folder, source)
    asked = continued(saved, method_or_recipe)
    if isinstance(asked, Recipe) and encoder == asked.encoder.name:
        encoder = None
    options: dict[str, Any] = {"images": len(source), "image_size": image_size, "seed": seed, "lr": lr}
    options |= {"epochs": epochs, "steps": steps, "batch_size": batch_size, "overrides": overrides}
    recipe = with_paths_from(resolve_recipe(asked, encoder=encoder, **options), folder)
    machine = Machine(
        device=device,
        precision=precision,
        workers=workers,
        compile=compile,
        checkpointing=checkpointing,
        cache=None if cache is None else Path(cache),
        cache_size=cache_size,
    )
    where = location(data if isinstance(data, str | Path) else source)
    task = Task(folder, source, where, machine, progress, clears=folder if overwrite else None)
    if saved is None and (lacks := lacking(recipe)):
        # Imported late: it trains by what is defined here.
        from unmask.engine.first_stage import train_first

        recipe, first = train_first(recipe, lacks, task, epochs=epochs, steps=steps)
        if first.interrupted is not None:
            return first
        task = replace(task, clears=None, stage="Stage 2 of 2: ")
    return carry_out(recipe, saved, task)


@dataclass(frozen=True)
class Task:
    """Where and on what something is trained, beside its recipe.

    Attributes:
        data: what logs call the source.
        progress: show how it goes.
        clears: a folder whose run is deleted first.
        stage: said in front of the first line.
    """

    folder: Path
    source: Source
    data: str
    machine: Machine
    progress: bool
    clears: Path | None = None
    stage: str = ""


def carry_out(recipe: AnyPlan, saved: AnyPlan | None, task: Task) -> Run:
    """Train what a recipe says into a run folder, or go on with that.

    Args:
        saved: the recipe of the run to go on with; None for a new one.

    Raises:
        UserError: anything that a person can correct.
    """
    folder, source = task.folder, task.source
    if saved is None:
        recipe = settle(recipe, source)
    else:
        recipe = settled_as(recipe, saved)
        require_same(saved, recipe)
    state = State(images=len(source)) if saved is None else saved_state(folder, len(source))
    if saved is not None and read_log(folder / "log.jsonl").status == "finished":
        Console(stderr=True, quiet=not (task.progress and speaks())).print(
            f"{task.stage}The run in {folder} is finished; nothing is left to do.", soft_wrap=True
        )
        return Run.of(folder, state, total=state.step)
    job = prepare(recipe, source, folder, task.machine, resumed=saved is not None)
    return _run(job, state, task, resumed=saved is not None)


def _run(job: Job, state: State, task: Task, *, resumed: bool) -> Run:
    """Make or reopen the folder, train, hand over."""
    accelerator, main = job.accelerator, job.accelerator.is_main_process
    probes = Probes(job)
    accelerator.wait_for_everyone()  # every process has looked at the folder before the first one writes
    with RunLock(job.folder, held=main):
        if main:
            require_unchanged(job.folder, state, resumed=resumed, overwrite=task.clears is not None)
            make_folder(job, clears=task.clears)
        accelerator.wait_for_everyone()
        if state.step:
            load_checkpoint(accelerator, job.ema, checkpoints(job.folder / "checkpoints")[-1])
            job.loader.bad.update(state.bad)
        with (
            StopRequest(told=main) as stop,
            RunLog(job.folder, step=state.step, written=main) as log,
            ProgressLine(step=state.step, total=job.total, shown=task.progress and main) as shown,
            job.caches or nullcontext(),
        ):
            shown.say(task.stage + headline(job, state, resumed=resumed))
            for words in (in_words(job.recipe.data), *job.introductions):
                if words:
                    shown.say(words)
            facts = {"data": task.data, "images": state.images, "steps": job.total}
            machine = {name: job.environment[name] for name in LOGGED}
            log.event("resume" if resumed else "start", state.step, **facts, **machine)
            watch = Watch(job, probes, log, shown)
            try:
                train(job, state, log, shown, stop, watch)
                # Here and not in the loop: a run that was killed between its last checkpoint and its encoder
                # has no step left to do.
                save(job, state)
            except UserError as error:
                log.event("failed", state.step, reason=str(error))
                watch.conclude(state.step)
                _report(job, shown)
                raise
            watch.conclude(state.step)
            if main:
                job.kind.conclude(job, job.result, state.step)
            stopped = state.step < job.total
            if stopped:
                assert stop.signal is not None, "only a signal ends the loop early"
                log.event("stopped", state.step, reason=signal.Signals(stop.signal).name)
                shown.say(f"Stopped after step {state.step:,}. Go on with the same command and --resume.")
            else:
                log.event("end", state.step)
            _report(job, shown)
    accelerator.wait_for_everyone()  # what the first process handed over is there for all
    return Run.of(job.folder, state, total=job.total, interrupted=stop.exit_code if stopped else None)


def _report(job: Job, shown: ProgressLine) -> None:
    if job.accelerator.is_main_process:
        # Imported late: matplotlib would delay the first step by half a second.
        from unmask.report import write_report

        shown.say(f"Report: {write_report(job.folder)}")


def train(job: Job, state: State, log: RunLog, shown: ProgressLine, stop: StopRequest, watch: Watch) -> None:
    """Steps from `state.step` on, until the run is complete or a signal comes; `state` is kept up to date.

    What was reached is saved now and then, but not at the end.
    """
    batches = job.loader.batches(state.step)
    began = time.perf_counter() - state.seconds
    watch.begin(state)
    speed, guard = Speed(job.recipe.optim.batch_size), Guard(job.folder)
    told = 0
    job.model.train()
    while state.step < job.total and not told:
        with speed.waiting():
            batch = next(batches)
        job.scheduler.step_update(state.step)
        outcome = update(job, batch, marks=batch.marks, step=state.step, signal=stop.signal)
        state.step += 1
        state.loss, state.seconds = outcome.losses["loss"], time.perf_counter() - began
        if outcome.accepted:
            guard.accept()
            job.learner.after_step(state.step, job.total)
            if job.ema is not None:
                job.ema.update(job.learner, step=state.step)
        else:
            guard.reject()
            kept = keep(job, state.step, outcome, batch)
            figures = {"loss": str(state.loss), "grad_norm": str(outcome.norm)}
            log.event("rejected", state.step, **figures, batch=kept)
            guard.require_few(state.step)
        logged = is_logged(state.step, job.total)
        together = logged or bool(outcome.signal)
        note_bad(job.accelerator, job.loader.bad, state, log, together=together)
        if logged:
            rates = {**speed.read(), "memory_mb": round(peak_memory_mb(job.accelerator.device), 1)}
            rates |= {} if job.caches is None else job.caches.rate()
            shown.rates(**rates)
        shown.step(state.step, state.loss)
        if logged:
            log.step(_line(job, state.step, outcome) | rates)
        if state.step % job.draw_every == 0 or state.step == job.total:
            save_pictures(job, state)
        best = watch.probe(state)
        if best:
            save_best(job, state)
        if best or (state.step % job.save_every == 0 and state.step < job.total):
            save(job, state)
        watch.look(state.step)
        # Processes stop at the same step: what counts is what all of them saw in its outcome.
        told = outcome.signal or (stop.signal or 0 if job.accelerator.num_processes == 1 else 0)
    stop.signal = told or stop.signal


def update(
    job: Job,
    views: Mapping[str, Shaped[Tensor, "B C H W"]],
    *,
    marks: Int64[Tensor, "B _"] | None = None,
    step: int = 0,
    signal: int | None = None,
) -> Outcome:
    """One optimiser step; none if the loss or the gradient is not finite.

    Args:
        marks: of the crops; what was said of them may then be known (`Batch`).
        step: optimiser steps done before, from which the masks follow.
        signal: that told this process to stop, for the others to know.
    """
    optim, accelerator = job.recipe.optim, job.accelerator
    sums: dict[str, Tensor] = {}
    for part in range(optim.accumulate):
        pixels = {name: view.chunk(optim.accumulate)[part] for name, view in views.items()}
        images = {name: job.as_input(name, view) for name, view in pixels.items()}
        drawn = draws(job, images, step=step, part=part)
        with accelerator.accumulate(job.model), attention(accelerator.device, job.precision):
            known: Mapping[str, Any] = {}
            if job.caches is not None and marks is not None:
                known = job.caches.answers(images, marks.chunk(optim.accumulate)[part])
            losses = job.model(**{**images, **known}, **drawn)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / optim.accumulate
            accelerator.backward(losses["loss"])
    return apply(accelerator, job.optimiser, job.parameters, sums, clip=optim.clip, signal=signal)


def _line(job: Job, step: int, outcome: Outcome) -> dict[str, float]:
    """A training line of the log."""
    line = {"step": step, "epoch": round(step / len(job.loader), 4), **outcome.losses}
    return line | {"lr": job.optimiser.param_groups[0]["lr"], "grad_norm": outcome.norm}
