"""Official weights of methods as runs of ours; those of their encoders, and of timm, as encoders."""

from unmask.convert.conversion import Converted, convert

__all__ = ["Converted", "convert"]
