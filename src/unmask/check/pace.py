"""How fast a recipe would run here: the loader, the model, and both together, measured in memory."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from unmask.data import Source
from unmask.data.arrays import DTYPES
from unmask.data.views import scaled
from unmask.engine.machine import Machine, peak_memory_mb
from unmask.engine.measure import Speed
from unmask.engine.optim import total_steps
from unmask.engine.pretrain import update
from unmask.engine.setup import Job, prepare
from unmask.recipes.base import Recipe
from unmask.recipes.stages import stand_ins

SECONDS = 4.0  # that each measurement lasts, at least
FEWEST = 3  # steps in each
SLOWEST_STEP = 2.0  # seconds; longer ones are measured in smaller batches
FIRST = 8  # images in the first step, which tells how long others would last


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of one recipe on this machine.

    Attributes:
        machine: device and precision.
        workers: processes that decode.
        batch: images a forward pass of the recipe.
        measured_batch: of the measurement; smaller where a step would last too long, or does not fit.
        fits: whether `batch` fits into the device's memory.
        loader: images a second when nothing else is done.
        model: likewise, without loading.
        together: as a run does it.
        data_wait: share of the time that the model then waits for the loader.
        memory_mb: most memory used, with `measured_batch`.
        steps: of the run.
        seconds: that the run would last.
    """

    machine: str
    workers: int
    batch: int
    measured_batch: int
    fits: bool
    loader: float
    model: float
    together: float
    data_wait: float
    memory_mb: float
    steps: int
    seconds: float


def measure_pace(recipe: Recipe, source: Source, machine: Machine) -> Pace:
    """Train a few steps of the recipe, on fresh weights, and write nothing.

    Raises:
        UserError: the recipe cannot run on this data or this machine.
    """
    optim = recipe.optim
    total = total_steps(recipe.schedule, len(_job(recipe, source, machine, optim.batch_size).loader))
    whole = optim.batch_size // optim.accumulate
    size, fits = _measurable(recipe, source, machine, whole)
    job = _job(recipe, source, machine, size)
    if job.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.accelerator.device)
    job.model.train()
    batches = job.loader.batches()
    try:
        views = next(batches)  # starts the workers
        loader = size * _rate(lambda: next(batches))
        update(job, views)
        model = size * _rate(lambda: update(job, views))
        together, wait = _together(job, batches)
    finally:
        batches.close()  # type: ignore[attr-defined]  # it is a generator; this ends the workers
    return Pace(
        machine=job.machine_name,
        workers=job.environment["workers"],
        batch=whole,
        measured_batch=size,
        fits=fits,
        loader=round(loader, 1),
        model=round(model, 1),
        together=round(together, 1),
        data_wait=round(wait, 4),
        memory_mb=round(peak_memory_mb(job.accelerator.device), 1),
        steps=total,
        seconds=round(total * optim.batch_size / together, 1),
    )


def _job(recipe: Recipe, source: Source, machine: Machine, size: int) -> Job:
    """The parts of the run with batches of another size, and the learning rate that it would have."""
    changes = {"batch_size": size, "lr": recipe.optim.peak_lr}
    changes |= {} if size == recipe.optim.batch_size else {"accumulate": 1}
    optim = recipe.optim.model_copy(update=changes)
    changed = recipe.model_copy(update={"optim": optim})
    return prepare(changed, source, Path(), machine, parts=stand_ins(recipe, images=len(source)))


def _measurable(recipe: Recipe, source: Source, machine: Machine, whole: int) -> tuple[int, bool]:
    """(images a step that can be measured in seconds, whether the recipe's own number fits into memory)."""
    job = _job(recipe, source, machine, min(FIRST, whole))
    if job.accelerator.device.type != "cuda":
        views = _noise(job, min(FIRST, whole))
        update(job, views)
        start = time.perf_counter()
        update(job, views)
        affordable = int(SLOWEST_STEP / (time.perf_counter() - start) * min(FIRST, whole))
        return min(whole, 2 ** int(math.log2(max(affordable, 1)))), True
    size, fits = whole, True
    while True:
        try:
            update(job, _noise(job, size))
            return size, fits
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or size == 1:
                raise
        job.optimiser.zero_grad()
        clear_device_cache(garbage_collection=True)
        size, fits = size // 2, False


def _noise(job: Job, size: int) -> dict[str, Tensor]:
    """Views of noise as the loader would send them."""
    data = job.recipe.data
    shapes = {
        name: (size, data.channels, *(scaled(side, view.scale) for side in data.image_size))
        for name, view in job.learner.views.items()
    }
    kind = torch.from_numpy(np.zeros(1, DTYPES[data.depth])).dtype
    return {name: torch.randint(256, shape).to(kind) for name, shape in shapes.items()}


def _rate(do: Callable[[], object]) -> float:
    """Times a second."""
    start, times = time.perf_counter(), 0
    while times < FEWEST or time.perf_counter() - start < SECONDS:
        do()
        times += 1
    return times / (time.perf_counter() - start)


def _together(job: Job, batches: Iterator[Mapping[str, Tensor]]) -> tuple[float, float]:
    """(images a second, share of the time spent waiting) of the loop of a run."""
    for _ in range(2 * job.environment["workers"] + 1):
        next(batches)  # what the workers had ready while nobody asked would flatter the loader
    speed = Speed(job.recipe.optim.batch_size)

    def step() -> None:
        with speed.waiting():
            views = next(batches)
        update(job, views)

    _rate(step)
    rates = speed.read()
    return rates["images_per_s"], rates["data_wait"]
