"""Numbers about a step, fetched from the device at once."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor


def to_host(scalars: Sequence[Float[Tensor, ""]], accelerator: Accelerator) -> list[tuple[float, ...]]:
    """Of each scalar its value in every process, in one copy: the only thing in a step that is waited for."""
    row = torch.stack([scalar.detach().float() for scalar in scalars])[None]
    if accelerator.num_processes > 1:
        row = accelerator.gather(row)
    return list(zip(*row.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a step; the same on all processes.

    Attributes:
        losses: by name, averaged over processes and accumulated parts.
        norm: of the gradient, before clipping.
        signal: number of a signal that told a process to stop before the step's end; 0 for none.
    """

    losses: dict[str, float]
    norm: float
    signal: int

    @property
    def accepted(self) -> bool:
        """Whether the weights may be changed by it."""
        return math.isfinite(self.losses["loss"]) and math.isfinite(self.norm)


class Speed:
    """Images a second and the share of time spent waiting for data, since it was last read.

    Args:
        batch_size: images a step.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch; counts the step."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start
        self._steps += 1

    def read(self) -> dict[str, float]:
        """`images_per_s` and `data_wait`; starts anew."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        result = {
            "images_per_s": round(self._steps * self._batch_size / seconds, 1),
            "data_wait": round(self._waited / seconds, 4),
        }
        self._reset()
        return result
