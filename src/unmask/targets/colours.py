"""Colours as classes: bins of every channel, or the nearest of a table of colours."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.targets.base import Target

LEVELS = 256  # of a pixel value


class _Classes(Target):
    """Classes scored by cross-entropy.

    Args:
        classes: K of them.
        groups: a class each is predicted of (channels, or 1 for whole colours).
        mean: of pixels in [0, 1], a channel; what colours are normalised with.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classes: int, groups: int, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.classes = classes
        self.outputs = classes * groups
        self.chance_loss = math.log(classes)
        for name, values in (("mean", mean), ("std", std)):
            statistic = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)  # the recipe has them

    def logits(self, prediction: Float[Tensor, "B E h w"]) -> Float[Tensor, "B K c h w"]:
        return rearrange(prediction, "b (k c) h w -> b k c h w", k=self.classes)

    def error(
        self, prediction: Float[Tensor, "B E h w"], target: Int[Tensor, "B c h w"]
    ) -> Float[Tensor, "B c h w"]:
        return F.cross_entropy(self.logits(prediction), target, reduction="none")

    def pixels(self, colours: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Pixels in [0, 1] from normalised ones."""
        return colours * self.std + self.mean

    def normalised(self, pixels: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return (pixels - self.mean) / self.std


class Bins(_Classes):
    """The 256 levels of every channel in `classes` bins of equal width, each channel predicted on its own.

    Level x is bin floor((x + 1/2) K / 256): levels are taken to be one wide, so that neither averages nor
    rounding errors fall off an edge. A prediction stands for the mean of the bins' centres.
    """

    centres: Float[Tensor, "K 1 1 1"]

    def __init__(self, classes: int, *, mean: Sequence[float], std: Sequence[float]) -> None:
        if not 2 <= classes <= LEVELS:
            raise ValueError(f"bins={classes}: a channel can have 2 to {LEVELS} bins, for instance 8")
        super().__init__(classes, len(mean), mean=mean, std=std)
        centres = ((torch.arange(classes) + 0.5) * LEVELS / classes - 0.5) / (LEVELS - 1)
        self.register_buffer("centres", centres.view(-1, 1, 1, 1), persistent=False)

    def encode(self, colours: Float[Tensor, "B C h w"]) -> Int[Tensor, "B C h w"]:
        levels = self.pixels(colours) * (LEVELS - 1)
        bins = ((levels + 0.5) * self.classes / LEVELS).floor()
        return bins.clamp(0, self.classes - 1).long()

    def decode(self, prediction: Float[Tensor, "B E h w"]) -> Float[Tensor, "B C h w"]:
        return self.normalised((self.logits(prediction).softmax(1) * self.centres).sum(1))


class Clusters(_Classes):
    """The nearest of a table of colours (Euclidean), as in Image GPT (Chen et al. 2020), whose 512 colours
    SimMIM's ablation predicts. A prediction stands for the most probable colour.

    Args:
        colours: [K, C], pixels in [0, 1].
    """

    centres: Float[Tensor, "K C"]

    def __init__(self, colours: Float[Tensor, "K C"], *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(len(colours), 1, mean=mean, std=std)
        # Part of the checkpoint: a run goes on with the colours that it began with, whatever the file holds.
        self.register_buffer("centres", colours.float())

    def encode(self, colours: Float[Tensor, "B C h w"]) -> Int[Tensor, "B 1 h w"]:
        points = rearrange(self.pixels(colours), "b c h w -> b h w c")
        # Differences, not a matrix product: half precision would confuse neighbours.
        distance = torch.cdist(points, self.centres, compute_mode="donot_use_mm_for_euclid_dist")
        return rearrange(distance.argmin(-1), "b h w -> b 1 h w")

    def decode(self, prediction: Float[Tensor, "B E h w"]) -> Float[Tensor, "B C h w"]:
        colours = self.centres[self.logits(prediction).argmax(1)]
        return self.normalised(rearrange(colours, "b 1 h w c -> b c h w"))


def read_colours(path: Path, channels: int) -> Float[Tensor, "K C"]:
    """A table of colours in [0, 1] from a `.npy` file or the only tensor of a `.safetensors` file.

    Bytes are divided by 255; values of which some are negative are taken to span [-1, 1], as Image GPT's.

    Raises:
        ValueError: no such file, another shape, values out of range, the same colour twice.
    """
    table = np.asarray(_load(path))
    if table.ndim != 2 or table.shape[1] != channels or len(table) < 2:
        raise ValueError(
            f"{path} holds an array of shape {list(table.shape)}; a table of colours is [colours, {channels}]"
        )
    if table.dtype == np.uint8:
        table = table / 255
    if not np.issubdtype(table.dtype, np.floating) or not np.isfinite(table).all():
        raise ValueError(f"{path} holds values that are no finite numbers, or integers that are no bytes")
    if table.min() < 0:
        table = (table + 1) / 2
    if table.min() < 0 or table.max() > 1:
        raise ValueError(
            f"{path} holds colours outside of [0, 1] (or [-1, 1], or bytes); divide them by the largest value"
        )
    if len(np.unique(table, axis=0)) < len(table):
        raise ValueError(f"{path} holds a colour twice; of two equal ones the second is never predicted")
    return torch.from_numpy(table.astype(np.float32))


def _load(path: Path) -> NDArray | Tensor:
    if not path.is_file():
        raise ValueError(f"there is no table of colours {path}; `unmask colours` makes one from your images")
    try:
        if path.suffix != ".safetensors":
            return np.load(path, allow_pickle=False)
        tensors = list(load_file(path).values())
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"{path} is neither a .npy nor a .safetensors file of one array ({error})"
        ) from error
    if len(tensors) != 1:
        raise ValueError(f"{path} holds {len(tensors)} tensors; a table of colours is one")
    return tensors[0]
