"""Probes while a run goes on: what the features are good for so far, and what the loss is worth.

A probe looks at the same images every time, under the same masks, and leaves model and random generators as
it found them: a run with other probes, or none, trains alike.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from unmask.data import EvaluationLoader, PretrainLoader, Source, Subset, normalise, open_splits, split
from unmask.engine.files import beside
from unmask.engine.machine import attention
from unmask.engine.setup import Job
from unmask.errors import UserError
from unmask.learner import Learner
from unmask.recipes.base import Plan
from unmask.sheets import neighbour_sheet

SHARE = 0.03  # of the images that a run sees: what all its probes together look at
MOST_PROBES = 5  # beside the one before the first step
FEWEST_IMAGES, ENOUGH_IMAGES, MOST_IMAGES = 64, 256, 1000  # of a probe
MOST_BYTES = 256 * 2**20  # of images kept in memory
CROPS = 64  # on which losses are compared
FEWEST_IN_A_CLASS = 4  # images on average; folders of fewer are no classes
BATCH = 64  # images through the encoder at a time
ONE_COLOUR = 0.02  # of the data's deviation: pixels of one colour deviate by less, a JPEG's noise included
LINEAR: dict[str, Any] = {"epochs": 30, "lr": 6.4}  # short, at the paper's rate: what counts is its trend


def planned(recipe: Plan, total: int, steps_per_epoch: int) -> tuple[frozenset[int], int]:
    """(steps after which to probe, images to look at); step 0 shows what random weights give.

    Args:
        total: optimiser steps of the run.
    """
    seen, every = total * recipe.optim.batch_size, recipe.probe.every
    if every == 0:
        return frozenset(), 0
    if every is None:
        count = max(1, min(MOST_PROBES, int(SHARE * seen / ENOUGH_IMAGES)))
        steps = {round(total * (index + 1) / count) for index in range(count)}
    else:
        steps = {*range(every * steps_per_epoch, total, every * steps_per_epoch), total}
    affordable = int(SHARE * seen / (len(steps) + 1))
    images = recipe.probe.images or max(FEWEST_IMAGES, min(MOST_IMAGES, affordable))
    height, width = recipe.data.image_size
    return frozenset({0, *steps}), min(images, MOST_BYTES // (height * width * recipe.data.channels))


Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Images:
    """What a probe looks at.

    Attributes:
        pixels: [n, C, H, W], whole images, on the CPU; the first `train` of them train classifiers.
        labels: [n]; None without.
    """

    pixels: Shaped[Tensor, "n C H W"]
    labels: Int64[Tensor, " n"] | None
    train: int
    classes: int


class Probes:
    """Measures the learner of a job as it stands.

    Raises:
        UserError: `probe.data` cannot be read or has no labels.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._steps, images = planned(job.recipe, job.total, len(job.loader))
        self._sources = _sources(job, images) if self._steps else ()
        self._first: Weights | None = None

    def due(self, step: int) -> bool:
        return step in self._steps

    def remember(self) -> None:
        """Keep the weights as they are: the next `measure` looks at them."""
        self._first = _weights(self._job.result)

    def measure(self, step: int) -> dict[str, Any]:
        """The figures of a probe, plain data; draws `images/neighbours_XXXXXXXX.png`.

        Returns:
            "probe_loss", of crops that are the same at every probe, that of "trivial" guesses at them and of
            "chance"; "effective_rank" and "spread" of the features of whole images, "images" of them, or how
            a tokenizer's "codes" are used and its "reconstruction" errors; the shares of the images that are
            "constant", and "copies" of others; with labels the accuracies "knn" and "linear" with their
            "standard_error", and the number of "classes". A figure that is not finite is None.
        """
        start = time.perf_counter()
        images = self._images
        remembered, self._first = self._first, None
        with _lent(self._job.result, remembered), _undisturbed(self._job):
            facts = self._losses()
            features, found = self._job.kind.look(self._job, self._job.result, images.pixels, batch=BATCH)
        facts |= {"images": len(features), **self._looks(images.pixels), **found}
        if len(features) > 1 and features.isfinite().all():
            facts |= self._job.kind.about(features.cpu()) | _scores(features, images)
            self._draw(images.pixels, features, step)
        return {**facts, "seconds": round(time.perf_counter() - start, 2)}

    @cached_property
    def _images(self) -> Images:
        """Read once: decoding takes longer than looking."""
        data = self._job.recipe.data
        parts: list[Tensor] = []
        labels: list[Tensor] = []
        counts = []
        for source in self._sources:
            loader = EvaluationLoader(
                source,
                data.image_size,
                batch_size=BATCH,
                workers=self._job.environment["workers"] if len(source) > 4 * BATCH else 0,
                channels=data.channels,
                bits=data.depth,
                interpolation=data.interpolation,
                max_bad=1.0,
                pin_memory=False,
            )
            for pixels, found, _indices in loader:
                parts.append(pixels)
                labels += [] if found is None else [found]
            counts.append(sum(len(part) for part in parts))
        pixels = torch.cat(parts) if parts else torch.empty(0, data.channels, *data.image_size).byte()
        labelled = len(counts) == 2 and 0 < counts[0] < counts[1]
        classes = len(self._sources[0].classes or ()) if labelled else 0
        return Images(pixels, torch.cat(labels) if labelled else None, counts[0], classes)

    @cached_property
    def _crops(self) -> dict[str, Shaped[Tensor, "B C H W"]]:
        """Fresh crops, as in training but of another seed."""
        job = self._job
        loader = PretrainLoader(
            job.source,
            job.learner.views,
            job.augment,
            batch_size=min(CROPS, len(job.source)),
            seed=job.recipe.seed + 1,
            workers=0,
            max_bad=1.0,
            pin_memory=False,
        )
        return next(loader.batches())

    def _losses(self) -> dict[str, Any]:
        """The learner's loss, and those that need no learning."""
        views = {name: self._job.as_input(name, view) for name, view in self._crops.items()}
        facts = self._job.kind.losses(self._job.result, views)
        return facts | {"probe_loss": facts["probe_loss"] if math.isfinite(facts["probe_loss"]) else None}

    def _looks(self, pixels: Shaped[Tensor, "n C H W"]) -> dict[str, float]:
        """Shares of the images that are of one colour, and that are copies of others."""
        if not len(pixels):
            return {}
        job = self._job
        deviation = torch.cat(
            [normalise(part, job.mean, job.std).std((2, 3)).amax(1) for part in pixels.split(BATCH)]
        )
        different = {image.numpy().tobytes() for image in pixels}
        constant = (deviation < ONE_COLOUR).float().mean()
        return {"constant": round(float(constant), 4), "copies": round(1 - len(different) / len(pixels), 4)}

    def _draw(self, pixels: Shaped[Tensor, "n C H W"], features: Float[Tensor, "n D"], step: int) -> None:
        path = self._job.folder / "images" / f"neighbours_{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        unfinished = beside(path)
        neighbour_sheet(pixels, features.cpu()).save(unfinished)
        unfinished.replace(path)


def _sources(job: Job, images: int) -> tuple[Source, ...]:
    """What to look at: images that train classifiers and others that test them, or, without labels, one."""
    data, source = job.recipe.probe.data, job.source
    if data is not None:
        try:
            train, validation = open_splits(data)
        except UserError as error:
            raise UserError(f"probe.data={data}: {error}") from error
    elif source.classes is not None and len(source) >= FEWEST_IN_A_CLASS * len(source.classes):
        train, validation = split(source)
    else:
        return (_spread_over(source, images),)
    share = len(validation) / (len(train) + len(validation))
    held_out = round(images * min(max(share, 0.4), 0.5))  # more than usual: few images make scores scatter
    return _spread_over(train, images - held_out), _spread_over(validation, held_out)


def _spread_over(source: Source, count: int) -> Subset:
    """Evenly spread over the files, which are sorted by folder: every class gets its share."""
    count = min(count, len(source))
    return Subset(source, [index * len(source) // count for index in range(count)])


def _weights(learner: Learner) -> Weights:
    """A copy in the memory of the host."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in learner.state_dict().items()}


@contextmanager
def _lent(learner: Learner, weights: Weights | None) -> Iterator[None]:
    """The learner with other weights, if there are any; its own afterwards, bit for bit."""
    if weights is None:
        yield
        return
    own = _weights(learner)
    learner.load_state_dict(weights)
    try:
        yield
    finally:
        learner.load_state_dict(own)


@contextmanager
def _undisturbed(job: Job) -> Iterator[None]:
    """Around what must not change the training: evaluation mode, no gradients, random numbers of its own."""
    device, learner = job.accelerator.device, job.result
    training = learner.training
    learner.eval()
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            attention(device, job.precision),
            job.accelerator.autocast(),
        ):
            torch.manual_seed(job.recipe.seed)
            yield
    finally:
        learner.train(training)


def _scores(features: Float[Tensor, "n D"], images: Images) -> dict[str, Any]:
    """Accuracies of simple classifiers on the features; nothing without labels."""
    if images.labels is None:
        return {}
    train, validation = features[: images.train], features[images.train :]
    # Imported late: torchmetrics would delay the first step of a run without labels by two seconds.
    from unmask.evaluate import knn, linear_probe, score

    labels = images.labels.to(features.device)
    answers = labels[images.train :]
    given: tuple[Tensor, Tensor, Tensor] = train, labels[: images.train], validation
    found = score(knn(*given, classes=images.classes).predictions, answers, images.classes)
    facts = {"knn": found["top1"], "standard_error": found["standard_error"], "classes": images.classes}
    with suppress(UserError):  # too few images for one
        probe = linear_probe(*given, classes=images.classes, **LINEAR)
        found = score(probe.predictions, answers, images.classes)
        facts |= {"linear": found["top1"], "standard_error": found["standard_error"]}
    return facts
