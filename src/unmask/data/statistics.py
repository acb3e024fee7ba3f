"""Mean and standard deviation of a data set's pixels."""

from typing import NamedTuple

import numpy as np
import torch

from unmask.data.arrays import Bits, Interpolation
from unmask.data.files import Source
from unmask.data.loader import EvaluationLoader
from unmask.data.sources import Subset
from unmask.data.views import as_fractions
from unmask.errors import UserError

MEASURED = 256  # images; the mean of photos is then known to about 0.01
MEASURE_STREAM = 3  # of random numbers, beside those of the loader
DIGITS = 6  # kept of each number: more would differ between processors


class Statistics(NamedTuple):
    """Of the pixels, one number a channel, in the units that `normalise` works in."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int


def measure(
    source: Source,
    image_size: tuple[int, int],
    *,
    channels: int,
    bits: Bits,
    interpolation: Interpolation = "bicubic",
    seed: int = 0,
    count: int = MEASURED,
    workers: int = 0,
) -> Statistics:
    """Mean and standard deviation over all pixels of a random sample of the images, at the size of the run.

    The same for the same seed, however many workers read. A channel that is constant gets the deviation 1.

    Raises:
        UserError: not one image of the sample can be read.
    """
    generator = np.random.default_rng((MEASURE_STREAM, seed))
    chosen = np.sort(generator.choice(len(source), size=min(count, len(source)), replace=False))
    loader = EvaluationLoader(
        Subset(source, chosen),
        image_size,
        batch_size=16,
        workers=workers,
        channels=channels,
        bits=bits,
        crop_fraction=1.0,
        interpolation=interpolation,
        max_bad=1.0,
        pin_memory=False,
    )
    sums = squares = torch.zeros(channels, dtype=torch.float64)
    images = 0
    for batch, _labels, _indices in loader:
        pixels = as_fractions(batch).double()
        sums = sums + pixels.sum((0, 2, 3))
        squares = squares + pixels.square().sum((0, 2, 3))
        images += len(batch)
    if not images:
        name, reason = next(iter(loader.bad.items()))
        raise UserError(
            f"None of the {len(chosen)} images that were tried can be read, to begin with {name}: {reason}."
        )
    pixels_each = images * image_size[0] * image_size[1]
    mean = sums / pixels_each
    deviation = (squares / pixels_each - mean.square()).clamp(min=0).sqrt()
    # Where all pixels are the same, rounding leaves a trace of the mean's size.
    deviation = torch.where(deviation > 1e-7 * mean.abs() + 1e-12, deviation, 1.0)
    return Statistics(_rounded(mean), _rounded(deviation), images)


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values.tolist())
