"""Everything that a run with labels needs, checked and built before a file is written."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from unmask.engine.files import write_text
from unmask.engine.labelled_loader import LabelledLoader
from unmask.engine.layer_decay import layered_groups
from unmask.engine.machine import (
    Machine,
    Precision,
    choose_device,
    choose_precision,
    default_workers,
    describe,
    make_accelerator,
)
from unmask.engine.optim import build_optimiser, build_scheduler, require_shareable, total_steps
from unmask.engine.run import clear, goes_on, tidy
from unmask.engine.setup import steps_between_checkpoints
from unmask.engine.task import Process, Task
from unmask.errors import UserError
from unmask.recipes.tasks import AnyTaskRecipe, TaskRecipe, read_task_recipe
from unmask.runs import read_json, task_of

BEST = "best.safetensors"
MADE = ("recipe.json", "environment.json", "log.jsonl", "metrics", "checkpoints", "failures", BEST)
VALIDATIONS = 20  # over a run, at most, unless it says how often


def saved_task_recipe(
    kind: type[AnyTaskRecipe], folder: Path, *, resume: bool, overwrite: bool, asked: str | None = None
) -> AnyTaskRecipe | None:
    """The recipe of the run to go on with, or None for a new one. Changes nothing.

    Args:
        asked: name of a recipe; None takes any that there is.

    Raises:
        UserError: the folder may not be used so; it holds a run of another kind, or with another recipe.
    """
    found, own = task_of(folder), kind.model_fields["kind"].default
    if (folder / "recipe.json").is_file() and found != own:
        what = "a pre-training run" if found is None else f"what `unmask evaluate {found}` trained"
        raise UserError(f"--out {folder} holds {what}; give another folder")
    if not goes_on(folder, resume=resume, overwrite=overwrite):
        return None
    saved = read_task_recipe(kind, folder)
    if asked not in (None, saved.name):
        raise UserError(
            f"--resume goes on with a run as it was started, and the recipe of this one is {saved.name}, not "
            f"{asked}. Leave --recipe out, or start a new run in another folder."
        )
    return saved


@dataclass(frozen=True, kw_only=True)
class LabelledJob:
    """The parts of one run.

    Attributes:
        precision: of the forward pass.
        model: the task's, as Accelerate wraps it.
        ema: moving average of its weights; None without.
        parameters: those that are trained.
        total: optimiser steps of the run.
        process: this one, as the task knows it.
        environment: the machine, for environment.json.
    """

    folder: Path
    recipe: TaskRecipe
    task: Task
    loader: LabelledLoader
    accelerator: Accelerator
    precision: Precision
    model: nn.Module
    ema: ModelEmaV3 | None
    parameters: list[nn.Parameter]
    optimiser: Optimizer
    scheduler: Scheduler
    total: int
    process: Process
    environment: dict[str, Any]

    @property
    def result(self) -> nn.Module:
        """What is judged and kept: the average of the weights if there is one."""
        return self.task.model if self.ema is None else self.ema.module

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        return steps_between_checkpoints(self.recipe.checkpoint, len(self.loader))

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        every, epoch = self.recipe.validation.every, len(self.loader)
        return epoch * (every or max(1, math.ceil(self.total / epoch / VALIDATIONS)))


def prepare_task(
    task: Task, recipe: TaskRecipe, folder: Path, machine: Machine, *, resumed: bool
) -> LabelledJob:
    """Build all parts of a run; writes nothing.

    Args:
        resumed: the run in `folder` goes on; "auto" precision and compilation None are then what it had.

    Raises:
        UserError: something does not fit, or is not there on this machine.
    """
    device = choose_device(machine.device)
    set_seed(recipe.seed)
    before = read_json(folder / "environment.json") if resumed else {}
    keeps = machine.precision == "auto" and before.get("device") == device
    precision = choose_precision(before["precision"] if keeps else machine.precision, device, task.width)
    compiled = bool(before.get("compile")) if machine.compile is None else machine.compile
    workers = default_workers() if machine.workers is None else machine.workers
    optim = recipe.optim
    accelerator = make_accelerator(device, precision, optim.accumulate)
    require_shareable(optim, accelerator.num_processes)
    rank, count = accelerator.process_index, accelerator.num_processes
    loader = LabelledLoader(
        task,
        batch_size=optim.batch_size // count,
        parts=optim.accumulate,
        seed=recipe.seed,
        workers=workers,
        pin_memory=device == "cuda",
        rank=rank,
        world_size=count,
    )
    task.model.to(accelerator.device)
    groups = layered_groups(task.model, optim, blocks=task.blocks, depth_of=task.depth_of)
    optimiser = build_optimiser(task.model, optim, groups)
    # Copied before compilation and Accelerate change the model's forward. With warm-up, for without it the
    # average of a short run would consist mostly of initial weights.
    ema = None if optim.ema is None else ModelEmaV3(task.model, decay=optim.ema, use_warmup=True)
    if compiled:
        task.model.compile()
    model, prepared = accelerator.prepare(task.model, optimiser)
    process = {"device": accelerator.device, "precision": precision, "workers": workers}
    scheduler = build_scheduler(optimiser, optim, recipe.schedule, len(loader), warmup_as_stated=True)
    return LabelledJob(
        folder=folder,
        recipe=recipe,
        task=task,
        loader=loader,
        accelerator=accelerator,
        precision=precision,
        model=model,
        ema=ema,
        parameters=[parameter for parameter in task.model.parameters() if parameter.requires_grad],
        optimiser=prepared,
        scheduler=scheduler,
        total=total_steps(recipe.schedule, len(loader)),
        process=Process(**process, index=rank, count=count),
        environment=describe(accelerator, precision)
        | {"workers": workers, "compile": compiled, "checkpointing": machine.checkpointing},
    )


def make_task_folder(job: LabelledJob, *, overwrite: bool) -> None:
    """The run's folder, with the recipe and the machine that it runs on.

    Args:
        overwrite: delete the run in it first.
    """
    if overwrite and job.folder.exists():
        clear(job.folder, made=MADE + job.task.made)
    tidy(job.folder)
    write_text(job.folder / "recipe.json", job.recipe.to_json())
    write_text(job.folder / "environment.json", json.dumps(job.environment, indent=2) + "\n")
