"""Where in an encoder the useful features are: a linear probe for each layer, pooling and learning rate.

The features of a network that was trained by masking are often best before its last block, and it matters how
one vector is made of the patches; a probe of one place says little about the others. All places are read in
one pass over the images, and all their classifiers are trained at once. The classifier, its training and the
way a learning rate is chosen are those of `linear`; the place is chosen in the same way: by training images
held out. Validation images have no part in it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unmask.encoders import Encoder
from unmask.errors import UserError
from unmask.evaluate.features import Place, widths_of
from unmask.evaluate.heads import (
    RATES,
    Heads,
    check_rates,
    fit,
    held_out_accuracies,
    length_of_training,
)
from unmask.evaluate.probe import Probe

POOLS = ("mean", "max", "mean+std")
CLASS_TOKEN_POOLS = ("cls", "cls+mean")
MOST_LOGITS = 2**26  # in one step of all heads that are trained together, 256 MiB


def sweep(
    train: Float[Tensor, "n D"],
    train_labels: Int64[Tensor, " n"],
    validation: Float[Tensor, "m D"],
    *,
    classes: int,
    places: Mapping[Place, int],
    mirrored: Float[Tensor, "n D"] | None = None,
    epochs: int = 90,
    warmup_epochs: float | None = None,
    rates: Sequence[float] = RATES,
    probe_batch_size: int | None = None,
    seed: int = 0,
) -> Probe:
    """Classes of the validation images by the linear layer that was best on held-out training images.

    Args:
        train: the vectors of all places, one behind the other.
        classes: number of classes, labels are in [0, classes).
        places: width of each place's vectors, in the order of the vectors.
        mirrored: features of the flipped training images, in the same order.
        warmup_epochs: see `linear_probe`; so are `probe_batch_size` and `seed`.
        rates: peak learning rates to try.

    Returns:
        The winner; its `trials` are the probes of all places, each with its best learning rate, trained on
        all training images. Their settings are "layer", "pool", "lr" and "held_out", the accuracy on held-out
        training images.
    """
    length = length_of_training(
        len(train), epochs=epochs, warmup_epochs=warmup_epochs, batch=probe_batch_size
    )
    check_rates(rates)
    copies = train[None] if mirrored is None else torch.stack([train, mirrored])
    most = MOST_LOGITS // (min(length["batch"], len(train)) * len(rates) * classes)
    trials = []
    for group, span in _groups(places, max(1, most)):
        part, shape = copies[:, :, span], {"width": places[group[0]], "classes": classes, "seed": seed}
        accuracies = held_out_accuracies(part, train_labels, rates=[rates] * len(group), **shape, **length)
        chosen = [rates[values.index(max(values))] for values in accuracies]
        heads = Heads(rates=[[rate] for rate in chosen], **shape).to(train.device)
        fit(heads, part, train_labels, **length, seed=seed)
        answers = heads.predict(validation[:, span])[:, 0]
        trials += [
            Probe(answer, {**place._asdict(), "lr": rate, "held_out": max(values)})
            for place, answer, rate, values in zip(group, answers, chosen, accuracies, strict=True)
        ]
    winner = max(trials, key=lambda trial: trial.settings["held_out"])
    tried = {"flip": mirrored is not None, "rates": list(rates), "places": len(places)}
    return Probe(winner.predictions, {**length, **tried, **winner.settings}, tuple(trials))


def places_of(
    encoder: Encoder, *, layers: Sequence[int] | None = None, pools: Sequence[str] | None = None
) -> dict[Place, int]:
    """Places of an encoder that a sweep tries and the width of each, in the order in which they are read.

    Args:
        layers: inner blocks (stages), negative ones counted from the end; None is all but the last. What
            comes after the final norm is always tried.
        pools: None is `POOLS`, and `CLASS_TOKEN_POOLS` where there is a class token.

    Raises:
        UserError: the encoder has no such layer or pooling.
    """
    if layers is None:
        layers = range(encoder.depth - 1)
    if pools is None:
        pools = (*POOLS, *CLASS_TOKEN_POOLS) if encoder.has_cls else POOLS
    tried = [layer % encoder.depth if -encoder.depth <= layer < 0 else layer for layer in layers]
    places = list(dict.fromkeys(Place(layer, pool) for layer in (*tried, None) for pool in pools))
    widths = dict(zip(places, widths_of(encoder, places), strict=True))
    # Places of one width stand together, so that they can be trained together.
    return {place: widths[place] for place in sorted(places, key=widths.__getitem__)}


def require_memory(images: int, width: int) -> None:
    """Fail before hours of reading where the features cannot be held.

    Raises:
        UserError: they need more than this machine has.
    """
    needed = 2 * 4 * images * width  # as batches, and put together
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"The features of {images:,} images, {width:,} numbers each, need {needed / 2**30:.0f} GiB of "
            f"memory and this machine has {there / 2**30:.0f}. Try fewer --layers and --pools, for instance "
            "--layers -2 --pools mean."
        )


def _groups(places: Mapping[Place, int], most: int) -> Iterator[tuple[list[Place], slice]]:
    """At most so many neighbouring places of one width, and their columns."""
    start = 0
    for width, same in groupby(places, key=places.__getitem__):
        members = list(same)
        for first in range(0, len(members), most):
            group = members[first : first + most]
            yield group, slice(start, start + width * len(group))
            start += width * len(group)
