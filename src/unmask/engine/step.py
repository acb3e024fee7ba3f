"""One optimiser step."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.nn.utils import get_total_norm

from unmask.engine.draws import draws
from unmask.engine.machine import attention
from unmask.engine.measure import Outcome, to_host
from unmask.engine.setup import Job


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
    if optim.clip is not None:
        norm = accelerator.clip_grad_norm_(job.parameters, optim.clip)
    else:
        accelerator.unscale_gradients()
        norm = get_total_norm([p.grad for p in job.parameters if p.grad is not None])
    # Filled on the device: a number brought there from the host would wait for it.
    number = torch.full_like(norm, signal or 0)
    *values, norms, signals = to_host([*sums.values(), norm, number], accelerator)
    outcome = Outcome(
        losses={name: sum(value) / len(value) for name, value in zip(sums, values, strict=True)},
        norm=sum(norms) / len(norms),
        signal=int(max(signals)),
    )
    # The fp16 scaler itself leaves out steps whose gradients are not finite, and must be told of each step.
    if outcome.accepted or accelerator.scaler is not None:
        job.optimiser.step()
    job.optimiser.zero_grad()
    return outcome
