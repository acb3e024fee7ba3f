"""The end of an optimiser step."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm

from unmask.engine.measure import Outcome, to_host
from unmask.engine.setup import Job


def apply(job: Job, losses: Mapping[str, Float[Tensor, ""]], *, signal: int | None = None) -> Outcome:
    """Change the weights by the gradients that were gathered, if all is finite, and drop these.

    Args:
        losses: of this process, for the log.
        signal: see `update`.
    """
    accelerator, clip = job.accelerator, job.recipe.optim.clip
    if clip is not None:
        norm = accelerator.clip_grad_norm_(job.parameters, clip)
    else:
        accelerator.unscale_gradients()
        norm = get_total_norm([p.grad for p in job.parameters if p.grad is not None])
    # Filled on the device: a number brought there from the host would wait for it.
    number = torch.full_like(norm, signal or 0)
    *values, norms, signals = to_host([*losses.values(), norm, number], accelerator)
    outcome = Outcome(
        losses={name: sum(value) / len(value) for name, value in zip(losses, values, strict=True)},
        norm=sum(norms) / len(norms),
        signal=int(max(signals)),
    )
    # The fp16 scaler itself leaves out steps whose gradients are not finite, and must be told of each step.
    if outcome.accepted or accelerator.scaler is not None:
        job.optimiser.step()
    job.optimiser.zero_grad()
    return outcome
