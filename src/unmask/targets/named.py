"""Targets made of pixels, by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unmask.targets.base import Target
from unmask.targets.colours import Bins, Clusters, read_colours
from unmask.targets.pixels import LossName, Pixels

TargetName = Literal["pixels", "bins", "clusters"]


def create_target(
    name: TargetName,
    *,
    loss: LossName,
    bins: int,
    colours: Path | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Target:
    """What the colour of a pixel is predicted as.

    Args:
        name: numbers; a class for each channel; or a class for all channels together.
        loss: of "pixels".
        bins: classes of a channel, of "bins".
        colours: file with a table of colours, of "clusters".
        mean: of pixels in [0, 1], a channel, that images are normalised with.
        std: likewise.

    Raises:
        ValueError: "clusters" without a table, or with one that does not fit the channels.
    """
    if name == "pixels":
        return Pixels(len(mean), loss=loss)
    if name == "bins":
        return Bins(bins, mean=mean, std=std)
    if colours is None:
        raise ValueError(
            "method.target=clusters needs a table of colours: make one of your images by `unmask colours "
            "--data DIR --out colours.npy`, then give method.colours=colours.npy"
        )
    return Clusters(read_colours(colours, len(mean)), mean=mean, std=std)
