"""What a classifier answers to images with labels, and how good the answers are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from unmask.data import EvaluationLoader, Source, Subset, normalise
from unmask.engine.task import Process
from unmask.evaluate.finetune.recipe import FinetuneData
from unmask.evaluate.probe import score

TOP = 5  # of top-5 accuracy, said where there are more classes


@dataclass(frozen=True)
class Judged:
    """The answers to n images, those that cannot be read left out.

    Attributes:
        indices: of the images in their source, ascending.
        labels: true classes.
        predictions: classes found most likely.
        confidences: probability given to the prediction.
        losses: minus the logarithm of the probability given to the true class.
        ranks: classes found more likely than the true one.
        bad: name -> reason of the images that could not be read.
    """

    indices: Int64[NDArray, " n"]
    labels: Int64[NDArray, " n"]
    predictions: Int64[NDArray, " n"]
    confidences: Float32[NDArray, " n"]
    losses: Float32[NDArray, " n"]
    ranks: Int64[NDArray, " n"]
    bad: dict[str, str]

    def figures(self, classes: int) -> dict[str, float]:
        """ "top1" in [0, 1] with its "standard_error", "mean_class_accuracy", "loss", and "top5" where there
        are more than five classes."""
        found = score(torch.from_numpy(self.predictions), torch.from_numpy(self.labels), classes)
        found["loss"] = float(self.losses.mean())
        return found | ({"top5": float((self.ranks < TOP).mean())} if classes > TOP else {})

    def confusion(self, classes: int) -> Int64[NDArray, "K K"]:
        """Images by true class (row) and prediction (column)."""
        counted = np.bincount(self.labels * classes + self.predictions, minlength=classes**2)
        return counted.reshape(classes, classes)

    def mistakes(self) -> list[int]:
        """Places of wrong answers, the most confident first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.confidences[wrong], kind="stable")].tolist()


def judge(
    model: nn.Module, source: Source, data: FinetuneData, process: Process, *, batch_size: int
) -> Judged:
    """What a model answers; every process looks at its share, and all get all answers.

    Args:
        model: in eval mode, on the process's device.
        source: with labels.

    Raises:
        UserError: too many of the images cannot be read.
    """
    share = process.share(len(source))
    loader = EvaluationLoader(
        Subset(source, list(share)),
        data.image_size,
        batch_size=batch_size,
        workers=process.workers,
        channels=data.channels,
        bits=data.bits,
        crop_fraction=data.judged_fraction,
        interpolation=data.interpolation,
        pin_memory=process.device.type == "cuda",
    )
    rows: list[tuple[float, ...]] = []
    with process.forward():
        for pixels, labels, indices in loader if len(share) else ():
            assert labels is not None
            images = normalise(pixels.to(process.device, non_blocking=True), data.mean, data.std)
            found = _answers(model(images).float(), labels.to(process.device))
            places = torch.tensor([share[int(index)] for index in indices], dtype=torch.float64)
            rows += torch.cat([places[:, None], labels[:, None].double(), found.cpu()], dim=1).tolist()
    together = sorted(process.together(rows))
    bad = dict(process.together(sorted(loader.bad.items())))
    return _judged(together, bad)


def _answers(logits: Float32[torch.Tensor, "B K"], labels: Int64[torch.Tensor, " B"]) -> torch.Tensor:
    """[B, 4]: prediction, its probability, loss, rank of the label."""
    log_probabilities = F.log_softmax(logits, dim=1)
    own = log_probabilities.gather(1, labels[:, None])
    best, prediction = log_probabilities.max(dim=1)
    rank = (log_probabilities > own).sum(dim=1)
    return torch.stack([prediction, best.exp(), -own[:, 0], rank], dim=1).double()


def _judged(rows: Sequence[tuple[float, ...]], bad: dict[str, str]) -> Judged:
    columns = np.asarray(rows, dtype=np.float64).reshape(-1, 6).T
    indices, labels, predictions, ranks = columns[[0, 1, 2, 5]].astype(np.int64)
    confidences, losses = columns[[3, 4]].astype(np.float32)
    return Judged(indices, labels, predictions, confidences, losses, ranks, bad)


def per_class(judged: Judged, classes: Sequence[str], trained: Sequence[int]) -> list[dict[str, Any]]:
    """Of every class: images, accuracy (recall), precision, F1, and what it is taken for most.

    Args:
        trained: training images of each class.
    """
    confusion = judged.confusion(len(classes))
    rows = []
    for number, name in enumerate(classes):
        right, images, said = confusion[number, number], confusion[number].sum(), confusion[:, number].sum()
        wrong = confusion[number].copy()
        wrong[number] = 0
        other = int(wrong.argmax())
        rows.append(
            {
                "class": name,
                "trained": int(trained[number]),
                "judged": int(images),
                "accuracy": _share(right, images),
                "precision": _share(right, said),
                "f1": _share(2 * right, images + said),
                "taken_for": classes[other] if wrong[other] else None,
                "times": int(wrong[other]),
            }
        )
    return rows


def _share(part: int, whole: int) -> float | None:
    share = float(part) / float(whole) if whole else math.nan
    return None if math.isnan(share) else share
