"""The random numbers of a step: they follow from the seed and the step, whoever draws them.

An image gets the same mask however many processes share its batch, in however many parts they compute it,
compiled or not, and wherever a run is taken up again. What a network draws itself (stochastic depth) must
differ between processes, and so depends on their number.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unmask.engine.setup import Job
from unmask.masking import Mask

# Beside those of the loader: SeedSequence ignores trailing zeros, so each use needs a tag in front.
MASK_STREAM, NETWORK_STREAM = 3, 4


def draws(
    job: Job, images: Mapping[str, Float[Tensor, "B C H W"]], *, step: int, part: int
) -> dict[str, Mask]:
    """What is drawn for this process's images, the masks of a method; then the default generators are set for
    what the network draws.

    All processes draw the masks of the whole batch and keep their own: on a GPU a fraction of a millisecond,
    without waiting for it.

    Args:
        images: by the name of the view, as the learner takes them.
        step: optimiser steps done before this one.
        part: which of the `optim.accumulate` parts of the batch of this process.
    """
    recipe, process = job.recipe, job.accelerator.process_index
    first, *_ = images.values()
    place = (process * recipe.optim.accumulate + part) * len(first)
    seed_generators(MASK_STREAM, recipe.seed, step)
    drawn = job.learner.draws(first, first=place, batch=recipe.optim.batch_size)
    seed_generators(NETWORK_STREAM, recipe.seed, step, process, part)
    return drawn


def seed_generators(*place: int) -> None:
    """Seed the default generators of all devices, which waits for none of them."""
    torch.manual_seed(seed_of(*place))


def seed_of(*place: int) -> int:
    """The seed of one use of random numbers: a tag of its own, then what it depends on."""
    (seed,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
    return int(seed >> 1)
