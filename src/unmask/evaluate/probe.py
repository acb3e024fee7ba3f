"""What a probe of frozen features answers, and how good the answer is."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy


@dataclass(frozen=True)
class Probe:
    """Answers of a classifier.

    Attributes:
        predictions: [m], the class of every validation image.
        settings: what the classifier was, plain data.
        trials: the classifiers that it was chosen from, itself among them, if it was.
    """

    predictions: Int64[Tensor, " m"]
    settings: dict[str, Any]
    trials: tuple["Probe", ...] = ()

    def cpu(self) -> "Probe":
        """The same with all predictions on the CPU."""
        return Probe(self.predictions.cpu(), self.settings, tuple(trial.cpu() for trial in self.trials))


def score(predictions: Int64[Tensor, " m"], labels: Int64[Tensor, " m"], classes: int) -> dict[str, float]:
    """Top-1 accuracy, its binomial standard error sqrt(p (1 - p) / m), and the mean of the accuracies of the
    classes, which a large class cannot carry."""
    top1 = multiclass_accuracy(predictions, labels, num_classes=classes, average="micro").item()
    by_class = multiclass_accuracy(predictions, labels, num_classes=classes, average="macro").item()
    return {
        "top1": top1,
        "standard_error": math.sqrt(top1 * (1 - top1) / len(labels)),
        "mean_class_accuracy": by_class,
    }
