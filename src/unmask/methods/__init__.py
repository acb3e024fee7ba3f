"""One paper, one file. The table of all methods."""

from unmask.methods.base import Method
from unmask.methods.beit import BEiT
from unmask.methods.beitv2 import BEiTv2
from unmask.methods.itpn import ITPN
from unmask.methods.mae import MAE
from unmask.methods.peco import PeCo
from unmask.methods.simmim import SimMIM

__all__ = ["ITPN", "MAE", "METHODS", "BEiT", "BEiTv2", "Method", "PeCo", "SimMIM"]

METHODS: dict[str, type[Method]] = {
    "mae": MAE,
    "simmim": SimMIM,
    "beit": BEiT,
    "peco": PeCo,
    "beitv2": BEiTv2,
    "itpn": ITPN,
}
