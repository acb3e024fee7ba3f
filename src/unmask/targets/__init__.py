"""What is to be predicted: representations of an image that are frozen while a method learns."""

from unmask.targets.base import Target
from unmask.targets.colours import Bins, Clusters, read_colours
from unmask.targets.patches import PatchPixels
from unmask.targets.pixels import Cells, Pixels

__all__ = ["Bins", "Cells", "Clusters", "PatchPixels", "Pixels", "Target", "read_colours"]
