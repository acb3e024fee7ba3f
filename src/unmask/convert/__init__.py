"""Official weights of MAE and SimMIM as runs of ours; encoders of those, of BEiT and of timm as encoders."""

from unmask.convert.conversion import Converted, convert

__all__ = ["Converted", "convert"]
