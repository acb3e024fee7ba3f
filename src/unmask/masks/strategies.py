"""The ways to hide a share of an image that the papers compare, and how far hidden pixels are from visible
ones.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from unmask.masking import BlockMask, Grid, Mask, RandomMask, SquareMask, average_distance
from unmask.methods.base import Masking

BEST = (10.0, 20.0)  # pixels: where SimMIM's best results lie (figure 3)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A family of masks with one mask ratio each.

    Attributes:
        kind: single units at random; one square; rectangles; rectangles by BEiT's official generator, which
            may hide less than it is asked for.
        unit: pixels along the side of what is hidden at once (of a square: along its steps).
        note: who uses it.
    """

    kind: Literal["random", "square", "block", "official"]
    unit: int
    note: str = ""

    @property
    def name(self) -> str:
        """For tables and captions."""
        if self.kind == "square":
            return f"one square, {self.unit} px steps"
        kind = "random" if self.kind == "random" else "block-wise"
        return f"{kind}, {self.unit} px" + (f" ({self.note})" if self.note else "")

    def sampler(self, ratio: float, grid: Grid) -> Masking | None:
        """What draws such masks on a grid of units; None if there is none of this ratio."""
        sampler: RandomMask | SquareMask | BlockMask
        if self.kind == "random":
            sampler = RandomMask(ratio=ratio, rounding="up")
        elif self.kind == "square":
            sampler = SquareMask(side=round(math.sqrt(ratio * grid[0] * grid[1])))
        else:
            sampler = BlockMask(ratio=ratio, official=self.kind == "official")
        try:
            sampler.check(grid)
        except ValueError:
            return None
        return sampler


STRATEGIES = (
    Strategy(kind="random", unit=4),
    Strategy(kind="random", unit=8),
    Strategy(kind="random", unit=16, note="MAE"),
    Strategy(kind="random", unit=32, note="SimMIM"),
    Strategy(kind="random", unit=64),
    Strategy(kind="square", unit=32),
    Strategy(kind="block", unit=16, note="BEiT v2"),
    Strategy(kind="block", unit=32),
    Strategy(kind="official", unit=16, note="BEiT"),
)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Masks of one strategy and ratio.

    Attributes:
        ratio: asked for.
        hidden: share that is hidden, on average.
        mean: pixels from a hidden pixel to the nearest visible one, averaged over a mask and over masks.
        deviation: standard deviation over masks.
        example: the first of them.
    """

    strategy: Strategy
    ratio: float
    hidden: float
    mean: float
    deviation: float
    example: Mask


@dataclass(frozen=True, kw_only=True)
class Own:
    """The masks of one method as it is used.

    Attributes:
        name: of the method or the recipe.
        examples: some of them.
        patch_size: pixels along the side of a patch.
        hidden: share that is hidden.
        each: average distance of every example.
        mean: over many more masks, as is the standard deviation.
    """

    name: str
    examples: Mask
    patch_size: int
    hidden: float
    each: tuple[float, ...]
    mean: float
    deviation: float


def distances(
    image_size: tuple[int, int],
    *,
    strategies: Sequence[Strategy] = STRATEGIES,
    ratios: Sequence[float] = RATIOS,
    masks: int = 50,
    seed: int = 0,
) -> Iterator[Distance]:
    """Average distances of all strategies whose units tile the image, at all ratios that they can have.

    Args:
        masks: drawn for each; every ratio starts from the same random numbers.
    """
    for strategy in strategies:
        if any(side % strategy.unit for side in image_size):
            continue
        grid = image_size[0] // strategy.unit, image_size[1] // strategy.unit
        for ratio in ratios:
            sampler = strategy.sampler(ratio, grid)
            if sampler is not None:
                drawn = draw(sampler, grid, masks, seed)
                means = average_distance(drawn, strategy.unit)
                yield Distance(
                    strategy=strategy,
                    ratio=ratio,
                    hidden=float(drawn.hidden.float().mean()),
                    mean=float(means.mean()),
                    deviation=float(means.std(correction=0)),
                    example=Mask.ragged(drawn.hidden[:1], grid),
                )


def draw(sampler: Masking, grid: Grid, masks: int, seed: int) -> Mask:
    """Masks that follow from a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sampler(masks, grid, torch.device("cpu"))
