"""What the processes of a run tell each other; alone, a process hears itself."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum of what every process has, as a tensor of its own."""
    total = values.clone()
    if processes() > 1:
        dist.all_reduce(total)
    return total


def gathered(rows: Shaped[Tensor, "n D"]) -> Shaped[Tensor, "m D"]:
    """The rows of all processes, which have equally many, in the order of the processes.

    With gradients, for a loss that every process computes alike from all rows: each gets the gradient of its
    own rows, times the number of processes, because the gradients of weights are averaged over these.
    """
    return rows if processes() == 1 else _Gather.apply(rows)


def from_first(values: Tensor) -> Tensor:
    """What the first process has."""
    if processes() == 1:
        return values
    agreed = values.clone()
    dist.broadcast(agreed, src=0)
    return agreed


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(processes())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return processes() * gradient.chunk(processes())[dist.get_rank()]
