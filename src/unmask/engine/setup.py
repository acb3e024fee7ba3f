"""Everything that a run needs, checked and built before a file is written."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float, Shaped
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from unmask.data import Augment, PretrainLoader, Source
from unmask.data.colour import ColourChange
from unmask.data.views import as_fractions, imagenet_statistics, normalise
from unmask.engine.files import write_text
from unmask.engine.machine import (
    Machine,
    Precision,
    choose_device,
    choose_precision,
    default_workers,
    describe,
    make_accelerator,
)
from unmask.engine.optim import build_optimiser, build_scheduler, total_steps
from unmask.engine.run import clear, tidy
from unmask.errors import UserError
from unmask.methods.base import Method
from unmask.recipes.base import Data, Recipe
from unmask.recipes.build import build_method
from unmask.runs import read_json
from unmask.targets import Teacher

FEWEST_STEPS_BETWEEN_CHECKPOINTS = 100
MOST_STEPS_BETWEEN_CHECKPOINTS = 1000
STRIPS = 10  # over a run


@dataclass(frozen=True, kw_only=True)
class Job:
    """The parts of one run.

    Attributes:
        augment: how images become crops.
        method: as the paper has it.
        precision: of the forward pass.
        model: the same as Accelerate wraps it, to be called for the losses.
        ema: moving average of the method's weights; None without.
        parameters: those that are trained.
        total: optimiser steps of the run.
        mean: of pixels in [0, 1], a channel; what images are normalised with.
        std: likewise.
        environment: the machine, for environment.json.
    """

    folder: Path
    recipe: Recipe
    source: Source
    augment: Augment
    loader: PretrainLoader
    accelerator: Accelerator
    precision: Precision
    method: Method
    model: nn.Module
    ema: ModelEmaV3 | None
    parameters: list[nn.Parameter]
    optimiser: Optimizer
    scheduler: Scheduler
    total: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    environment: dict[str, Any]

    @property
    def result(self) -> Method:
        """The method with the weights that are exported and shown: averaged if they are."""
        return self.method if self.ema is None else self.ema.module

    def as_input(self, name: str, view: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """A view as the method takes it, on its device."""
        pixels = view.to(self.accelerator.device, non_blocking=True)
        if self.method.views[name].normalised:
            return normalise(pixels, self.mean, self.std)
        return as_fractions(pixels)

    @property
    def machine_name(self) -> str:
        """The device and its precision, for people."""
        device = self.environment["gpu"] or "CPU"
        count = self.accelerator.num_processes
        return f"{f'{count} x ' if count > 1 else ''}{device} ({self.precision})"

    @property
    def teachers(self) -> list[str]:
        """What a person should know of the networks that the method learns from."""
        return [module.introduction for module in self.method.modules() if isinstance(module, Teacher)]

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        if self.recipe.checkpoint.every is not None:
            return self.recipe.checkpoint.every
        # An epoch of a small folder lasts seconds; saving takes about as long.
        epoch = max(len(self.loader), FEWEST_STEPS_BETWEEN_CHECKPOINTS)
        return min(epoch, MOST_STEPS_BETWEEN_CHECKPOINTS)

    @property
    def draw_every(self) -> int:
        """Steps between reconstruction strips."""
        return self.recipe.checkpoint.pictures or max(1, self.total // STRIPS)


def prepare(recipe: Recipe, source: Source, folder: Path, machine: Machine, *, resumed: bool = False) -> Job:
    """Build all parts of a run; writes nothing.

    Args:
        resumed: the run in `folder` goes on; "auto" precision and compilation None are then what it had.

    Raises:
        UserError: something does not fit, or is not there on this machine.
    """
    device = choose_device(machine.device)
    set_seed(recipe.seed)
    method = build_method(recipe)
    method.encoder.checkpointing = machine.checkpointing
    before = read_json(folder / "environment.json") if resumed else {}
    keeps = machine.precision == "auto" and before.get("device") == device
    precision = choose_precision(
        before["precision"] if keeps else machine.precision, device, method.encoder.dim
    )
    compiled = bool(before.get("compile")) if machine.compile is None else machine.compile
    accelerator = make_accelerator(device, precision, recipe.optim.accumulate)
    workers = default_workers() if machine.workers is None else machine.workers
    augment = _augment(recipe.data)
    loader = _loader(recipe, source, method, augment, accelerator, workers)
    mean, std = _statistics(recipe)
    method.to(accelerator.device)
    optimiser = build_optimiser(method, recipe.optim)
    # Copied before compilation and Accelerate change the method's forward. With warm-up, for without it the
    # average of a short run would consist mostly of initial weights.
    decay = recipe.optim.ema
    ema = None if decay is None else ModelEmaV3(method, decay=decay, use_warmup=True)
    if compiled:
        method.compile()
    model, prepared = accelerator.prepare(method, optimiser)
    return Job(
        folder=folder,
        recipe=recipe,
        source=source,
        augment=augment,
        loader=loader,
        accelerator=accelerator,
        precision=precision,
        method=method,
        model=model,
        ema=ema,
        parameters=[parameter for parameter in method.parameters() if parameter.requires_grad],
        optimiser=prepared,
        scheduler=build_scheduler(optimiser, recipe.optim, recipe.schedule, len(loader)),
        total=total_steps(recipe.schedule, len(loader)),
        mean=mean,
        std=std,
        environment=describe(accelerator, precision)
        | {"workers": workers, "compile": compiled, "checkpointing": machine.checkpointing},
    )


def make_folder(job: Job, *, overwrite: bool) -> None:
    """The run's folder, with the recipe and the machine that it runs on."""
    if overwrite and job.folder.exists():
        clear(job.folder)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {job.folder} cannot be made: {error.strerror or error}") from error
    tidy(job.folder)
    write_text(job.folder / "recipe.json", job.recipe.to_json())
    write_text(job.folder / "environment.json", json.dumps(job.environment, indent=2) + "\n")


def _statistics(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that images are normalised with."""
    try:
        return imagenet_statistics(recipe.data.channels, recipe.data.mean, recipe.data.std)
    except ValueError as error:
        raise UserError(f"data.{error}") from error


def _augment(data: Data) -> Augment:
    """How the recipe's crops are drawn."""
    try:
        return Augment(
            image_size=data.image_size,
            crop_scale=data.crop_scale,
            crop_ratio=data.crop_ratio,
            flip=data.flip,
            interpolation=data.interpolation,
            channels=data.channels,
            bits=data.depth,
            colour=_jitter(data),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _jitter(data: Data) -> ColourChange | None:
    """The change of colours that all views share."""
    if not any(data.jitter):
        return None
    brightness, contrast, saturation, hue = data.jitter
    try:
        change = ColourChange(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        change.check(data.channels, data.depth)
    except ValueError as error:
        raise ValueError(
            f"data.jitter={list(data.jitter)}: {error}; data.jitter=[0,0,0,0] is none"
        ) from error
    return change


def _loader(
    recipe: Recipe,
    source: Source,
    method: Method,
    augment: Augment,
    accelerator: Accelerator,
    workers: int,
) -> PretrainLoader:
    """Batches of one optimiser step for this process; accumulated parts are cut from them later, so that they
    do not change which images a step sees."""
    parts = accelerator.num_processes * recipe.optim.accumulate
    if recipe.optim.batch_size % parts:
        raise UserError(
            f"a batch of {recipe.optim.batch_size} images cannot be shared by {accelerator.num_processes} "
            f"processes with optim.accumulate={recipe.optim.accumulate}; use a multiple of {parts}"
        )
    try:
        return PretrainLoader(
            source,
            method.views,
            augment,
            batch_size=recipe.optim.batch_size // accelerator.num_processes,
            seed=recipe.seed,
            workers=workers,
            max_bad=recipe.data.max_bad,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            pin_memory=accelerator.device.type == "cuda",
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
