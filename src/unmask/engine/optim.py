"""Optimiser and learning-rate schedule: torch's AdamW, timm's parameter groups and schedulers."""

import math
from typing import Any

from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import AdamW, Optimizer

from unmask.errors import UserError
from unmask.recipes.base import Optim, Schedule

REFERENCE_EPOCHS = (
    800  # MAE's and SimMIM's long runs: what warm-up is a share of when a recipe counts steps only
)
LONGEST_WARMUP = 0.2  # share of the run: a short run with a long run's warm-up would hardly train


def parameter_groups(module: nn.Module, optim: Optim) -> list[dict[str, Any]]:
    """Trainable parameters in two groups, of which an empty one is left out: without weight decay (biases,
    one-dimensional tensors, names that hold a part listed in `optim.no_decay`) and with it."""
    patterns = [f"*{part}*" for part in optim.no_decay]
    groups = param_groups_weight_decay(module, optim.weight_decay, no_weight_decay_list=patterns)
    return [group for group in groups if group["params"]]


def build_optimiser(module: nn.Module, optim: Optim, groups: list[dict[str, Any]] | None = None) -> AdamW:
    """AdamW at the peak learning rate, fused (torch has such kernels for CPU and CUDA).

    Args:
        groups: of parameters, each with its weight decay and perhaps `lr_scale`, by which the scheduler
            multiplies its learning rate; None are `parameter_groups`.
    """
    return AdamW(
        parameter_groups(module, optim) if groups is None else groups,
        lr=optim.peak_lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def total_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """Optimiser steps of the whole run."""
    if schedule.steps is not None:
        return schedule.steps
    assert schedule.epochs is not None  # Schedule requires one of the two
    return schedule.epochs * steps_per_epoch


def steps_at(schedule: Schedule, epochs: float, steps_per_epoch: int) -> int:
    """The step at which `epochs` have passed; in a run counted in steps, the same share of the run."""
    if schedule.steps is None:
        return round(epochs * steps_per_epoch)
    return round(epochs / (schedule.epochs or REFERENCE_EPOCHS) * schedule.steps)


def warmup_steps(schedule: Schedule, steps_per_epoch: int, *, as_stated: bool = False) -> int:
    """Steps of linear warm-up, at most a fifth of the run.

    Args:
        as_stated: a share of the run, as it is by epochs, may be any that leaves a step; a count is bounded.
    """
    total = total_steps(schedule, steps_per_epoch)
    longest = math.floor(LONGEST_WARMUP * total)
    if schedule.warmup_steps is not None:
        return min(schedule.warmup_steps, longest)
    stated = steps_at(schedule, schedule.warmup_epochs, steps_per_epoch)
    return min(stated, total - 1 if as_stated else longest)


def build_scheduler(
    optimiser: Optimizer,
    optim: Optim,
    schedule: Schedule,
    steps_per_epoch: int,
    *,
    warmup_as_stated: bool = False,
) -> Scheduler:
    """The learning rate of every step, set by `step_update(step)` before step 0, 1, ... of the run.

    With W warm-up steps of T, peak p, first learning rate a and last b (MAE's formula, a = b = 0 there)::

        t < W:  a + (p - a) t / W
        cosine: b + (p - b) (1 + cos(pi (t - W) / (T - W))) / 2
        poly: b + (p - b) (1 - (t - W) / (T - W)) ^ power
        multistep: p * decay ^ (milestones passed);  constant: p

    Args:
        warmup_as_stated: see `warmup_steps`.
    """
    total = total_steps(schedule, steps_per_epoch)
    warmup = warmup_steps(schedule, steps_per_epoch, as_stated=warmup_as_stated)
    peak = optim.peak_lr
    warmup_lr = schedule.warmup_lr * peak
    if schedule.kind in ("cosine", "poly"):
        falling: dict[str, Any] = {"t_initial": total - warmup, "lr_min": schedule.final_lr * peak}
        falling |= {"warmup_t": warmup, "warmup_lr_init": warmup_lr, "warmup_prefix": True}
        if schedule.kind == "poly":
            return PolyLRScheduler(optimiser, **falling, power=schedule.power, t_in_epochs=False)
        return CosineLRScheduler(optimiser, **falling, t_in_epochs=False)
    milestones = schedule.milestones if schedule.kind == "multistep" else ()
    return MultiStepLRScheduler(
        optimiser,
        # timm lets a milestone m act at step m - 1; with one added it acts at m, as in SimMIM.
        decay_t=sorted(steps_at(schedule, epochs, steps_per_epoch) + 1 for epochs in milestones),
        decay_rate=schedule.decay,
        warmup_t=warmup,
        warmup_lr_init=warmup_lr,
        warmup_prefix=False,
        t_in_epochs=False,
    )


def require_shareable(optim: Optim, processes: int) -> None:
    """
    Raises:
        UserError: a batch cannot be cut into equal parts for all processes.
    """
    parts = processes * optim.accumulate
    if optim.batch_size % parts:
        raise UserError(
            f"a batch of {optim.batch_size} images cannot be shared by {processes} processes with "
            f"optim.accumulate={optim.accumulate}; use a multiple of {parts}"
        )
