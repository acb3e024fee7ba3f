"""Numbers about a step, had without making the device wait."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor


class HostCopy:
    """Scalars on their way to the host, averaged over all processes.

    Made between the forward pass and the backward pass, it is read after the backward pass was queued: the
    host then waits for the forward pass only, while the device has the backward pass to do.
    """

    def __init__(self, scalars: Mapping[str, Float[Tensor, ""]], accelerator: Accelerator) -> None:
        self._names = tuple(scalars)
        together = torch.stack([scalar.detach().float() for scalar in scalars.values()])
        if accelerator.num_processes > 1:
            together = accelerator.reduce(together, "mean")
        self._values = together.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if together.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> dict[str, float]:
        """The numbers by name."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))


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
