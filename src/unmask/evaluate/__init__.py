"""How useful frozen features are: k-nearest neighbours, a linear probe, and baselines to compare with."""

from unmask.evaluate.evaluation import KINDS, evaluate
from unmask.evaluate.features import Extractor, extract, features_of, pixels
from unmask.evaluate.knn import knn
from unmask.evaluate.linear import linear_probe
from unmask.evaluate.probe import Probe, score

__all__ = [
    "KINDS",
    "Extractor",
    "Probe",
    "evaluate",
    "extract",
    "features_of",
    "knn",
    "linear_probe",
    "pixels",
    "score",
]
