"""One paper, one file. The table of all methods."""

from unmask.methods.base import Method
from unmask.methods.itpn import ITPN
from unmask.methods.mae import MAE
from unmask.methods.milan import MILAN
from unmask.methods.revcolv2 import RevColV2
from unmask.methods.simmim import SimMIM

__all__ = [
    "ITPN",
    "MAE",
    "METHODS",
    "MILAN",
    "Method",
    "RevColV2",
    "SimMIM",
]

METHODS: dict[str, type[Method]] = {
    "mae": MAE,
    "simmim": SimMIM,
    "milan": MILAN,
    "itpn": ITPN,
    "revcolv2": RevColV2,
}
