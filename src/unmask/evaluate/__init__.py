"""How useful frozen features are: k-nearest neighbours, a linear probe, and baselines to compare with."""

from unmask.evaluate.evaluation import KINDS, evaluate
from unmask.evaluate.features import Extractor, Place, extract, features_at, features_of, pixels
from unmask.evaluate.knn import knn
from unmask.evaluate.linear import linear_probe
from unmask.evaluate.probe import Probe, score
from unmask.evaluate.sweep import places_of, sweep

__all__ = [
    "KINDS",
    "Extractor",
    "Place",
    "Probe",
    "evaluate",
    "extract",
    "features_at",
    "features_of",
    "knn",
    "linear_probe",
    "pixels",
    "places_of",
    "score",
    "sweep",
]
