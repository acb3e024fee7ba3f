"""Detection and instance segmentation: Faster, Mask and Cascade R-CNN on any backbone."""

from unmask.evaluate.detect.coco import Annotations, Instance, Photo, read_annotations
from unmask.evaluate.detect.detector import Detector, Heads
from unmask.evaluate.detect.found import Found
from unmask.evaluate.detect.recipe import DetectRecipe
from unmask.evaluate.detect.recipes import RECIPES
from unmask.evaluate.detect.saved import TrainedDetector, load_detector
from unmask.evaluate.detect.score import average_precision
from unmask.evaluate.detect.training import detect

__all__ = [
    "RECIPES",
    "Annotations",
    "DetectRecipe",
    "Detector",
    "Found",
    "Heads",
    "Instance",
    "Photo",
    "TrainedDetector",
    "average_precision",
    "detect",
    "load_detector",
    "read_annotations",
]
