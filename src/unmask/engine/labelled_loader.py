"""Batches of labelled samples: the same ones for a seed, however many workers make them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from unmask.data import DecodeError
from unmask.data.loader import EndlessBatches, allowed_bad, prepared, require_few_bad
from unmask.data.samples import reason_of
from unmask.engine.task import Task
from unmask.errors import UserError

SAMPLE_STREAM = 5  # of random numbers, beside those of `data.samples` and `engine.draws`
MAX_BAD = 0.01  # share of unreadable samples that ends a run


class LabelledBatch(NamedTuple):
    """What a worker sends.

    Attributes:
        parts: one for each accumulated part, as the task collates them; empty if too much could not be read.
        bad: name -> reason of the samples that could not be read.
        complete: whether others were found in their place.
    """

    parts: list[Any]
    bad: dict[str, str]
    complete: bool = True


class LabelledLoader:
    """Batches of a task's samples, for as many steps as one likes, ordered as `PretrainLoader` orders images.

    A sample's random numbers follow from (seed, epoch, index). One that cannot be read is replaced by the
    next that can, is logged once and noted in `bad`.

    Args:
        batch_size: per process.
        parts: that a batch is cut into, to be accumulated.
        rank: of this process, of `world_size`.

    Attributes:
        bad: name -> reason of the samples that could not be read so far, by this process.
    """

    def __init__(
        self,
        task: Task,
        *,
        batch_size: int,
        parts: int,
        seed: int,
        workers: int,
        pin_memory: bool,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        count, together = task.samples(), batch_size * world_size
        if count < together:
            raise UserError(
                f"The training set has {count} samples, fewer than one batch of {together}; use a "
                f"--batch-size of {count} or less, or more samples."
            )
        self.bad: dict[str, str] = {}
        self._allowed = allowed_bad(count, MAX_BAD)
        self._samples = _Samples(task, seed, parts, self._allowed)
        self._count, self._order = count, (count, batch_size, seed, rank, world_size)
        self._length = count // together
        self._workers, self._pin_memory = workers, pin_memory

    def __len__(self) -> int:
        """Steps in an epoch; what is left of it is dropped."""
        return self._length

    def batches(self, start_step: int = 0) -> Iterator[list[Any]]:
        """Endless batches from a global step on, each as a list of its parts.

        Raises:
            UserError: too many samples cannot be read.
        """
        sampler = EndlessBatches(*self._order, start_step)
        for batch in prepared(self._samples, sampler, self._workers, self._pin_memory):
            require_few_bad(batch, self.bad, self._allowed, self._count, setting=None)
            yield batch.parts


class _Samples(Dataset):
    def __init__(self, task: Task, seed: int, parts: int, allowed: int) -> None:
        self._task, self._seed, self._parts, self._allowed = task, seed, parts, allowed

    def __len__(self) -> int:
        return self._task.samples()

    def __getitems__(self, keys: list[tuple[int, int]]) -> LabelledBatch:
        bad: dict[str, str] = {}
        samples = []
        for epoch, index in keys:
            sample = self._sample(epoch, index, bad)
            if sample is None:
                return LabelledBatch([], bad, complete=False)
            samples.append(sample)
        size = len(samples) // self._parts
        cuts = range(0, len(samples), size)
        return LabelledBatch([self._task.collate(samples[start : start + size]) for start in cuts], bad)

    def _sample(self, epoch: int, index: int, bad: dict[str, str]) -> Any | None:
        for attempt in range(min(self._allowed + 1, len(self))):
            candidate = (index + attempt) % len(self)
            generator = np.random.default_rng((SAMPLE_STREAM, self._seed, epoch, index))
            try:
                return self._task.sample(candidate, generator)
            except (OSError, DecodeError) as error:
                bad[self._task.name_of(candidate)] = reason_of(error)
        return None
