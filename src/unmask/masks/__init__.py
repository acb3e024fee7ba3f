"""What masks look like and how hard they are: those of a method, and all strategies side by side."""

from unmask.masks.compare import Compared, masks

__all__ = ["Compared", "masks"]
