"""What teachers know about labelled images, and what it costs: k-NN on the mean of their normalised features.

    python benchmarks/teachers.py --data clothing160/train --validation clothing160/validation
    python benchmarks/teachers.py --data DIR --validation DIR --teacher timm:resnet50@32 14

A teacher is given by its name and the side of the grid of features; the size of its images follows.
"""

import argparse
import random
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unmask.data import EvaluationLoader, Source, Subset, open_source
from unmask.data.sources import labels_of
from unmask.data.views import as_fractions
from unmask.evaluate.knn import knn
from unmask.targets import Teacher, create_teacher
from unmask.targets.features import normalise

# The usual grid of small students, by maps of EfficientNet-Lite0.
USUAL = [("efficientnet_lite0", 8), ("efficientnet_lite0@16", 8), ("efficientnet_lite0@32x1", 8)]


def features(teacher: Teacher, source: Source) -> tuple[Tensor, Tensor, float]:
    """The mean feature of every image, its label, and the teacher's processor seconds."""
    means, labels, seconds = [], [], 0.0
    for images, label, _ in EvaluationLoader(source, teacher.image_size, batch_size=32, crop_fraction=1.0):
        pixels = as_fractions(images)
        begun = time.process_time()
        taught = teacher(pixels)
        seconds += time.process_time() - begun
        means.append(normalise(taught.patches, "layer").mean(1))
        labels.append(label)
    return torch.cat(means), torch.cat(labels), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labelled folder or archive to look neighbours up in")
    parser.add_argument("--validation", required=True, help="labelled folder or archive to classify")
    parser.add_argument("--images", type=int, default=400, help="of --data, drawn at random")
    parser.add_argument("--teacher", nargs=2, action="append", metavar=("NAME", "SIDE"))
    options = parser.parse_args()
    whole, asked = open_source(options.data, labelled=True), open_source(options.validation, labelled=True)
    drawn = random.Random(0).sample(range(len(whole)), min(options.images, len(whole)))
    neighbours = Subset(whole, sorted(drawn))
    table = Table("teacher", "images", "features", "k-NN, %", "CPU ms an image")
    for name, side in options.teacher or USUAL:
        teacher = create_teacher(name, grid=(int(side), int(side)))
        train, labels, first = features(teacher, neighbours)
        validation, truth, second = features(teacher, asked)
        found = knn(train, labels, validation, classes=len(labels_of(whole)[1])).predictions
        share = 100 * (found == truth).float().mean().item()
        cost = 1000 * (first + second) / (len(train) + len(validation))
        sizes = "{} x {}".format(*teacher.image_size), "{} x {} x {}".format(*teacher.grid, teacher.dim)
        table.add_row(name, *sizes, f"{share:.1f}", f"{cost:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
