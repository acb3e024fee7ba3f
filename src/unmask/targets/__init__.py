"""What is to be predicted: representations of an image that are frozen while a method learns."""

from unmask.targets.answers import Coded, Question, Taught
from unmask.targets.base import Target
from unmask.targets.colours import Bins, Clusters, read_colours
from unmask.targets.named import create_target
from unmask.targets.patches import PatchPixels
from unmask.targets.pixels import Cells, Pixels
from unmask.targets.teacher import Teacher
from unmask.targets.teachers import EncoderTeacher, MapTeacher, create_teacher

__all__ = [
    "Bins",
    "Cells",
    "Clusters",
    "Coded",
    "EncoderTeacher",
    "MapTeacher",
    "PatchPixels",
    "Pixels",
    "Question",
    "Target",
    "Taught",
    "Teacher",
    "create_target",
    "create_teacher",
    "read_colours",
]
