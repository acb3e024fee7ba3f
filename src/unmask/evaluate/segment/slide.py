"""Class scores of images of any size, by a network that takes one size."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Network = Callable[[Float[Tensor, "B C h w"]], Float[Tensor, "B K h w"]]


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin so that they cover a side: every `stride` pixels, the last one flush with the end.

    Args:
        side: at least `window`.
    """
    count = -(-(side - window) // stride) + 1
    return [min(index * stride, side - window) for index in range(count)]


def slide(
    network: Network,
    image: Float[Tensor, "C H W"],
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int = 8,
) -> Float[Tensor, "K H W"]:
    """Scores of overlapping windows, averaged where they overlap.

    Args:
        image: normalised. One smaller than the window is filled up with zeros below and to the right.
        window: height and width that the network takes.
        stride: pixels from window to window, down and across.
        batch_size: windows at a time.
    """
    height, width = image.shape[1:]
    image = F.pad(image, (0, max(0, window[1] - width), 0, max(0, window[0] - height)))
    rows, columns = (starts(image.shape[1 + axis], window[axis], stride[axis]) for axis in (0, 1))
    places = [(row, column) for row in rows for column in columns]
    total: Tensor | None = None
    counts = image.new_zeros(image.shape[1:])
    for first in range(0, len(places), batch_size):
        some = places[first : first + batch_size]
        cut = torch.stack([image[:, row : row + window[0], col : col + window[1]] for row, col in some])
        found = network(cut).float()  # sums of half-precision scores would be coarse
        if total is None:
            total = found.new_zeros(found.shape[1], *image.shape[1:])
        for (row, column), scores in zip(some, found, strict=True):
            total[:, row : row + window[0], column : column + window[1]] += scores
            counts[row : row + window[0], column : column + window[1]] += 1
    assert total is not None
    return (total / counts)[:, :height, :width]
