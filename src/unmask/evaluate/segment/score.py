"""How good a segmentation is: everything from one table of confusions over the whole data set."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

IGNORED = 255  # in masks: this pixel has no class, and is neither trained on nor counted


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures of a data set, in [0, 1].

    Attributes:
        iou: of every class, intersection over union: pixels that are of the class and said to be, over those
            that are or are said to be. NaN for a class that neither occurs nor is predicted.
        accuracy: of every class, the share of its pixels that is found; NaN for one that does not occur.
        pixels: of every class, how many there are.
        pixel_accuracy: share of all pixels that is right; NaN if there is none.
    """

    iou: Float[Tensor, " K"]
    accuracy: Float[Tensor, " K"]
    pixels: Int64[Tensor, " K"]
    pixel_accuracy: float

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes that have one: the figure of ADE20K."""
        return float(self.iou.nanmean())

    @property
    def mean_accuracy(self) -> float:
        return float(self.accuracy.nanmean())


def confusion(
    prediction: Int64[Tensor, "..."], truth: Int64[Tensor, "..."], classes: int
) -> Int64[Tensor, "K K"]:
    """Counts of pixels, truth down and prediction across, those of `IGNORED` left out; to be added up over
    images and processes."""
    return multiclass_confusion_matrix(
        prediction.flatten()[None], truth.flatten()[None], classes, ignore_index=IGNORED, validate_args=False
    )


def scores(table: Int64[Tensor, "K K"]) -> Scores:
    """The figures of a table of confusions.

    The mean of each image's own figure is another number, and not what is published: a class that covers ten
    pixels of one image would weigh as much there as one that covers ten thousand.
    """
    counts = table.double()
    right, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    return Scores(
        iou=right / (true + said - right),
        accuracy=right / true,
        pixels=table.sum(1),
        pixel_accuracy=float(right.sum() / counts.sum()),
    )


def cross_entropy(logits: Float[Tensor, "B K H W"], masks: Int64[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Mean over the pixels that have a class; 0 where none has one."""
    total = torch.nn.functional.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum")
    return total / (masks != IGNORED).sum().clamp(min=1)
