"""Batches: the same ones for a seed, however many workers read them and wherever a run is taken up again."""

import atexit
import functools
import logging
import math
import os
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing import get_all_start_methods
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unmask.data.arrays import Bits
from unmask.data.colour import ColourChange
from unmask.data.files import Source
from unmask.data.samples import ORDER_STREAM, AugmentedImages, CentreImages
from unmask.data.views import Augment, Interpolation, View
from unmask.errors import UserError

log = logging.getLogger(__name__)


class Read(Protocol):
    """What a worker sends beside samples: bad files, and whether others were found in their place."""

    @property
    def bad(self) -> dict[str, str]: ...

    @property
    def complete(self) -> bool: ...


class Batch(dict[str, Tensor]):
    """Views [B, C, h, w] by name.

    Attributes:
        marks: [B, 1 + M], what tells crops apart that come again: the place of each among all crops of all
            images, and a fingerprint of the pixels of each of M views; None unless they were asked for.
    """

    def __init__(self, views: Mapping[str, Tensor], marks: Int64[Tensor, "B _"] | None = None) -> None:
        super().__init__(views)
        self.marks = marks


class PretrainLoader:
    """Batches of augmented views, for as many steps as one likes.

    The order of an epoch is a permutation drawn from (seed, epoch), and a sample's augmentation is drawn from
    (seed, epoch, index): neither the number of workers nor the step to start from can change a batch. Each
    global batch is ``batch_size * world_size`` consecutive entries of the permutation, of which every process
    reads its own part; the rest at the end of an epoch is dropped.

    A file that cannot be read is replaced by the next in the source that can, is logged once and noted in
    ``bad``.

    Args:
        batch_size: per process.
        workers: processes that decode; 0 decodes in the calling one.
        max_bad: the run ends with a UserError when more than this fraction of the files is bad. Up to ten
            files (but no more than a quarter of them) are forgiven whatever the fraction says, as one per
            cent of a small folder is less than one file; 0 forgives none.
        pin_memory: for fast copies to an accelerator; None is True where CUDA is there.
        crops: that an image has: epoch e shows the crop of epoch e modulo so many. None: a new one each time.
        marked: views whose pixels are to be marked, see `Batch`; needs crops that come again.

    Attributes:
        bad: name -> reason of the files that could not be read so far (by this process, if there are
            several).
    """

    def __init__(
        self,
        source: Source,
        views: Mapping[str, View],
        augment: Augment,
        *,
        batch_size: int,
        seed: int,
        workers: int,
        max_bad: float = 0.01,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool | None = None,
        crops: int | None = None,
        marked: tuple[str, ...] = (),
    ) -> None:
        if batch_size < 1 or workers < 0 or seed < 0:
            raise ValueError(
                "batch_size must be 1 or more, workers and seed 0 or more; "
                f"not {batch_size}, {workers} and {seed}."
            )
        if not views:
            raise ValueError("A method needs at least one view.")
        for name, view in views.items():
            if view.colour is not None:
                _check_colour(name, view.colour, augment)
        assert 0 <= rank < world_size
        assert crops is not None or not marked
        together = batch_size * world_size
        if len(source) < together:
            raise UserError(
                f"The data has {len(source)} images, fewer than one batch of {together}"
                + (f" ({batch_size} on each of {world_size} processes)" if world_size > 1 else "")
                + f"; use a --batch-size of {len(source) // world_size} or less, or more images."
            )
        self.source = source
        self.bad: dict[str, str] = {}
        self._allowed = allowed_bad(len(source), max_bad)
        self._samples = AugmentedImages(source, dict(views), augment, seed, self._allowed, crops, marked)
        self._order = (len(source), batch_size, seed, rank, world_size)
        self._length = len(source) // together
        self._workers = workers
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self._length

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Endless batches from a global step on: step ``s`` lies in epoch ``s // len(self)``.

        Raises:
            UserError: too many files are bad.
        """
        sampler = EndlessBatches(*self._order, start_step)
        for samples in prepared(self._samples, sampler, self._workers, self._pin_memory):
            require_few_bad(samples, self.bad, self._allowed, len(self.source))
            yield Batch(samples.tensors, samples.marks)


class EvaluationLoader:
    """Every image once, in order, as its centre view; iterate as often as needed.

    Yields (images, labels or None, indices); the last batch may be smaller, and files that cannot be read are
    left out, logged once and noted in ``bad``.

    Args:
        max_bad: see ``PretrainLoader``.
    """

    def __init__(
        self,
        source: Source,
        image_size: tuple[int, int],
        *,
        batch_size: int,
        workers: int = 0,
        channels: int = 3,
        bits: Bits = 8,
        crop_fraction: float = 0.875,
        interpolation: Interpolation = "bicubic",
        max_bad: float = 0.01,
        pin_memory: bool | None = None,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise ValueError(f"batch_size must be 1 or more, workers 0 or more; not {batch_size}, {workers}.")
        self.source = source
        self.bad: dict[str, str] = {}
        self._allowed = allowed_bad(len(source), max_bad)
        self._samples = CentreImages(source, image_size, crop_fraction, interpolation, channels, bits)
        self._batch_size = batch_size
        self._workers = workers
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Batches at most; fewer come when all files of one are bad."""
        return math.ceil(len(self.source) / self._batch_size)

    def __iter__(
        self,
    ) -> Iterator[tuple[Shaped[Tensor, "B C H W"], Int64[Tensor, " B"] | None, Int64[Tensor, " B"]]]:
        order = range(len(self.source))
        batches = [order[start : start + self._batch_size] for start in order[:: self._batch_size]]
        labels = None if self.source.labels is None else torch.tensor(self.source.labels)
        for samples in prepared(self._samples, batches, self._workers, self._pin_memory):
            require_few_bad(samples, self.bad, self._allowed, len(self.source))
            if samples.tensors:
                indices = samples.tensors["indices"]
                yield samples.tensors["images"], None if labels is None else labels[indices], indices


def _check_colour(name: str, colour: ColourChange, augment: Augment) -> None:
    try:
        colour.check(augment.channels, augment.bits)
    except ValueError as error:
        raise ValueError(
            f"the view {name} of the method: {error}. Use data.bits=8 for deeper colour pictures, or switch "
            "the change of colours off among the method's options."
        ) from error


def allowed_bad(count: int, max_bad: float) -> int:
    """How many of ``count`` files may be bad: the fraction, or, unless it is 0, up to ten of a small set."""
    if not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad must be a fraction between 0 and 1, not {max_bad}.")
    return max(int(max_bad * count), min(10, count // 4), 1) if max_bad else 0


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits the files."""
    return np.random.default_rng((ORDER_STREAM, seed, epoch)).permutation(count)


class EndlessBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index). They never end, so the workers live from the first epoch to the last."""

    def __init__(
        self, count: int, batch_size: int, seed: int, rank: int, world_size: int, start_step: int
    ) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._rank, self._world_size, self._start_step = rank, world_size, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        together = self._batch_size * self._world_size
        epoch, step = divmod(self._start_step, self._count // together)
        while True:
            order = epoch_order(self._count, self._seed, epoch)
            for batch in range(step, self._count // together):
                start = batch * together + self._rank * self._batch_size
                yield [(epoch, int(index)) for index in order[start : start + self._batch_size]]
            epoch, step = epoch + 1, 0


def require_few_bad(
    samples: Read, bad: dict[str, str], allowed: int, count: int, *, setting: str | None = "max_bad"
) -> None:
    """Add the files that a batch could not read to `bad`.

    Args:
        setting: by which more could be allowed; None if there is none.

    Raises:
        UserError: they are more than are allowed.
    """
    for name, reason in samples.bad.items():
        if name not in bad:
            bad[name] = reason
            log.warning("Left out %s: %s", name, reason)
    if len(bad) > allowed or not samples.complete:
        first = "".join(f"\n  {name}: {reason}" for name, reason in list(bad.items())[:5])
        limit, more = (f" ({setting})", ", or allow more") if setting else ("", "")
        raise UserError(
            f"{len(bad)} of {count} files cannot be read so far, and at most {allowed} may be bad{limit}. "
            f"Repair or remove them{more}. The first:{first}"
        )


def prepared(dataset: Dataset, batches: Iterable, workers: int, pin_memory: bool | None) -> Iterator[Any]:
    """The batches that the workers make; the workers stop with this iterator or with the program."""
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=functools.partial(_start_worker, os.getpid()),
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        prefetch_factor=2 if workers else None,
        # Workers watch their parent, which must be this process: Python 3.14 would put a server between them.
        multiprocessing_context="fork" if workers and "fork" in get_all_start_methods() else None,
        # Its own generator: DataLoader draws a seed for its workers, and from the global generator that draw
        # would change every mask after a resume.
        generator=torch.Generator(),
    )
    running = (samples for samples in iter(loader))
    if workers:
        # DataLoader has no close, and at exit it waits five seconds for each worker of an iterator that
        # something still holds, such as the traceback of a Ctrl-C. Registered after its hooks, this one runs
        # before them.
        atexit.register(_close, weakref.ref(running))
    return running


def _close(reference: weakref.ref) -> None:
    running = reference()
    if running is not None:
        running.close()


def _as_it_is(samples: Any) -> Any:
    # The data sets stack their batches themselves.
    return samples


def _start_worker(parent: int, _number: int) -> None:
    # Ctrl-C and a cluster's SIGTERM reach the whole group of processes; the main one saves and then stops us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # others cannot tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_end, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    # Pillow warns about odd metadata of pictures that it reads all the same.
    warnings.filterwarnings("ignore", module="PIL")


def _await_end(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
