"""What a recipe leaves to the data: depth and normalisation, found once and written down."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from unmask.data import DecodeError, Source
from unmask.data.arrays import Bits
from unmask.data.inspect import Facts, look
from unmask.data.statistics import measure
from unmask.errors import UserError
from unmask.recipes.base import AnyPlan, Data, Plan

LOOKED_AT = 32  # pictures, evenly spread
LEFT_OPEN = ("bits", "normalisation", "mean", "std")


def settle(recipe: AnyPlan, source: Source, *, workers: int = 0) -> AnyPlan:
    """The recipe with depth and normalisation as the data has them, where it says nothing of them.

    The depth is what at least half of the pictures have: files of 16 bits in a folder of photos do not turn
    all into 16 bits.

    Args:
        workers: processes that read; they cannot change the result.

    Raises:
        UserError: pictures of other channels than the recipe's; none that can be read.
    """
    data = recipe.data
    facts = _sample(source)
    _require_channels(facts, data.channels)
    bits = data.bits or _depth(facts)
    plain = bits == 8 and data.channels == 3
    normalisation = data.normalisation or ("imagenet" if plain else "measure")
    found: dict[str, Any] = {"bits": bits}
    if data.mean is None or data.std is None:
        found["normalisation"] = normalisation
        if normalisation == "measure":
            measured = measure(
                source,
                data.image_size,
                channels=data.channels,
                bits=bits,
                interpolation=data.interpolation,
                seed=recipe.seed,
                workers=workers,
            )
            found |= {"mean": data.mean or measured.mean, "std": data.std or measured.std}
    return recipe.model_copy(update={"data": data.model_copy(update=found)})


def settled_as(recipe: AnyPlan, saved: Plan) -> AnyPlan:
    """The recipe of a run that goes on: what it leaves open is what was found when the run began."""
    kept = {name: getattr(saved.data, name) for name in LEFT_OPEN if getattr(recipe.data, name) is None}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=kept)})


def in_words(data: Data) -> str:
    """How pictures are normalised; empty for what is usual."""
    if data.normalisation != "measure" or data.mean is None or data.std is None:
        return ""
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (data.mean, data.std))
    channels = "1 channel" if data.channels == 1 else f"{data.channels} channels"
    return f"Measured normalisation of {channels} in {data.depth} bits: mean {mean}; std {std}"


def _sample(source: Source) -> list[Facts]:
    """Of some pictures; those that cannot be read are left to the loader, which counts them."""
    facts = []
    for index in np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).astype(int):
        try:
            facts.append(look(source.read(int(index))))
        except (OSError, DecodeError):
            continue
    return facts


def _depth(facts: Sequence[Facts]) -> Bits:
    deep: tuple[Bits, Bits] = (32, 16)
    return next((bits for bits in deep if 2 * sum(one.bits >= bits for one in facts) >= len(facts) > 0), 8)


def _require_channels(facts: Sequence[Facts], channels: int) -> None:
    fitting = sum(one.fits(channels) for one in facts)
    if 2 * fitting >= len(facts):
        return
    found = Counter(max(one.channels, one.pages) for one in facts if not one.fits(channels))
    common = found.most_common(1)[0][0]
    raise UserError(
        f"{len(facts) - fitting} of {len(facts)} pictures that were looked at do not have data.channels="
        f"{channels}; most of them have {common}. Set data.channels={common}."
    )
