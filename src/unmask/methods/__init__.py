"""One paper, one file. The table of all methods."""

from unmask.methods.base import Method
from unmask.methods.itpn import ITPN
from unmask.methods.mae import MAE
from unmask.methods.mask_distill import MaskDistill
from unmask.methods.simmim import SimMIM

__all__ = ["ITPN", "MAE", "METHODS", "MaskDistill", "Method", "SimMIM"]

METHODS: dict[str, type[Method]] = {
    "mae": MAE,
    "simmim": SimMIM,
    "itpn": ITPN,
    "mask_distill": MaskDistill,
}
