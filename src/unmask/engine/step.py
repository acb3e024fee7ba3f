"""The end of an optimiser step."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from unmask.engine.measure import Outcome, to_host


def apply(
    accelerator: Accelerator,
    optimiser: Optimizer,
    parameters: Sequence[nn.Parameter],
    losses: Mapping[str, Float[Tensor, ""]],
    *,
    clip: float | None = None,
    signal: int | None = None,
) -> Outcome:
    """Change the weights by the gradients that were gathered, if all is finite, and drop these.

    Args:
        optimiser: as Accelerate prepared it.
        parameters: those that are trained.
        losses: of this process, for the log.
        clip: largest norm of the gradient; None does not bound it.
        signal: number of the one that told this process to stop, for the others to know.
    """
    if clip is not None:
        norm = accelerator.clip_grad_norm_(parameters, clip)
    else:
        accelerator.unscale_gradients()
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
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
        optimiser.step()
    optimiser.zero_grad()
    return outcome
