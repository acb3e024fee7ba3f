"""Everything that a run needs, checked and built before a file is written."""

import json
from collections.abc import Mapping
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
from unmask.engine.cache import Caches
from unmask.engine.cache_setup import build_caches
from unmask.engine.files import write_text
from unmask.engine.kinds import Kind, kind_of
from unmask.engine.kinds.base import require_unchanged_inputs
from unmask.engine.machine import (
    Machine,
    Precision,
    choose_device,
    choose_precision,
    default_workers,
    describe,
    machine_name,
    make_accelerator,
)
from unmask.engine.optim import build_optimiser, build_scheduler, require_shareable, total_steps
from unmask.engine.run import FIRST_STAGE, clear, tidy
from unmask.errors import UserError
from unmask.learner import Learner
from unmask.recipes.base import Checkpoint, Data, Plan
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
        kind: how it is trained.
        learner: what is trained: a method as the paper has it, or a tokenizer.
        precision: of the forward pass.
        model: the same as Accelerate wraps it, to be called for the losses.
        ema: moving average of the learner's weights; None without.
        parameters: those that are trained.
        total: optimiser steps of the run.
        mean: of pixels in [0, 1], a channel; what images are normalised with.
        std: likewise.
        caches: of what frozen networks say; None without.
        environment: the machine, for environment.json.
    """

    folder: Path
    recipe: Plan
    kind: Kind[Any]
    source: Source
    augment: Augment
    loader: PretrainLoader
    accelerator: Accelerator
    precision: Precision
    learner: Learner
    model: nn.Module
    ema: ModelEmaV3 | None
    parameters: list[nn.Parameter]
    optimiser: Optimizer
    scheduler: Scheduler
    total: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    caches: Caches | None
    environment: dict[str, Any]

    @property
    def result(self) -> Learner:
        """The learner with the weights that are exported and shown: averaged if they are."""
        return self.learner if self.ema is None else self.ema.module

    def as_input(self, name: str, view: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """A view as the learner takes it, on its device."""
        pixels = view.to(self.accelerator.device, non_blocking=True)
        if self.learner.views[name].normalised:
            return normalise(pixels, self.mean, self.std)
        return as_fractions(pixels)

    @property
    def uses_first_stage(self) -> bool:
        """Whether it stands on the tokenizer that lies in its own folder."""
        return FIRST_STAGE in self.recipe.learner.options.values()

    @property
    def machine_name(self) -> str:
        """The device and its precision, for people."""
        return machine_name(self.environment)

    @property
    def introductions(self) -> list[str]:
        """What a person should know of the networks that are learned from, and of what is kept of them."""
        teachers = [module.introduction for module in self.learner.modules() if isinstance(module, Teacher)]
        return teachers + ([] if self.caches is None else self.caches.introductions)

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        return steps_between_checkpoints(self.recipe.checkpoint, len(self.loader))

    @property
    def draw_every(self) -> int:
        """Steps between reconstruction strips."""
        return self.recipe.checkpoint.pictures or max(1, self.total // STRIPS)


def prepare(
    recipe: Plan,
    source: Source,
    folder: Path,
    machine: Machine,
    *,
    resumed: bool = False,
    parts: Mapping[str, object] | None = None,
) -> Job:
    """Build all parts of a run; writes nothing.

    Args:
        parts: as for `build_method`.
        resumed: the run in `folder` goes on; "auto" precision and compilation None are then what it had.

    Raises:
        UserError: something does not fit, or is not there on this machine.
    """
    device = choose_device(machine.device)
    set_seed(recipe.seed)
    kind = kind_of(recipe)
    before = read_json(folder / "environment.json") if resumed else {}
    inputs = kind.inputs(recipe, folder)
    require_unchanged_inputs(before.get("inputs", {}), inputs)
    learner = kind.build(recipe, folder, checkpointing=machine.checkpointing, parts=parts)
    keeps = machine.precision == "auto" and before.get("device") == device
    precision = choose_precision(
        before["precision"] if keeps else machine.precision, device, kind.width(learner)
    )
    compiled = bool(before.get("compile")) if machine.compile is None else machine.compile
    accelerator = make_accelerator(device, precision, recipe.optim.accumulate)
    workers = default_workers() if machine.workers is None else machine.workers
    augment = _augment(recipe.data)
    mean, std = _statistics(recipe)
    learner.to(accelerator.device)
    caches = build_caches(machine, recipe, source, learner, accelerator, precision)
    marked = () if caches is None else tuple(caches.by_view)
    loader = _loader(recipe, source, learner, augment, accelerator, workers, marked)
    optimiser = build_optimiser(learner, recipe.optim)
    # Copied before compilation and Accelerate change the learner's forward. With warm-up, for without it the
    # average of a short run would consist mostly of initial weights.
    decay = recipe.optim.ema
    ema = None if decay is None else ModelEmaV3(learner, decay=decay, use_warmup=True)
    if compiled:
        learner.compile()
    model, prepared = accelerator.prepare(learner, optimiser)
    return Job(
        folder=folder,
        recipe=recipe,
        kind=kind,
        source=source,
        augment=augment,
        loader=loader,
        accelerator=accelerator,
        precision=precision,
        learner=learner,
        model=model,
        ema=ema,
        parameters=[parameter for parameter in learner.parameters() if parameter.requires_grad],
        optimiser=prepared,
        scheduler=build_scheduler(optimiser, recipe.optim, recipe.schedule, len(loader)),
        total=total_steps(recipe.schedule, len(loader)),
        mean=mean,
        std=std,
        caches=caches,
        environment=describe(accelerator, precision)
        | {"workers": workers, "compile": compiled, "checkpointing": machine.checkpointing}
        | ({"inputs": inputs} if inputs else {}),
    )


def make_folder(job: Job, *, clears: Path | None = None) -> None:
    """The run's folder, with the recipe and the machine that it runs on.

    Args:
        clears: a folder whose run is deleted first; a tokenizer in it stays if this run stands on it.
    """
    if clears is not None and clears.exists():
        clear(clears, first_stage=not job.uses_first_stage)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {job.folder} cannot be made: {error.strerror or error}") from error
    tidy(job.folder)
    write_text(job.folder / "recipe.json", job.recipe.to_json())
    write_text(job.folder / "environment.json", json.dumps(job.environment, indent=2) + "\n")


def _statistics(recipe: Plan) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
    recipe: Plan,
    source: Source,
    learner: Learner,
    augment: Augment,
    accelerator: Accelerator,
    workers: int,
    marked: tuple[str, ...],
) -> PretrainLoader:
    """Batches of one optimiser step for this process; accumulated parts are cut from them later, so that they
    do not change which images a step sees.

    Args:
        marked: views that are asked about, where answers are kept.
    """
    require_shareable(recipe.optim, accelerator.num_processes)
    try:
        return PretrainLoader(
            source,
            learner.views,
            augment,
            batch_size=recipe.optim.batch_size // accelerator.num_processes,
            seed=recipe.seed,
            workers=workers,
            max_bad=recipe.data.max_bad,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            pin_memory=accelerator.device.type == "cuda",
            crops=recipe.data.crops,
            marked=marked,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def steps_between_checkpoints(checkpoint: Checkpoint, epoch: int) -> int:
    """As the recipe says, or about once in an epoch of so many steps."""
    if checkpoint.every is not None:
        return checkpoint.every
    # An epoch of a small folder lasts seconds; saving takes about as long.
    return min(max(epoch, FEWEST_STEPS_BETWEEN_CHECKPOINTS), MOST_STEPS_BETWEEN_CHECKPOINTS)
