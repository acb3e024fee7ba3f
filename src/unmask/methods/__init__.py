"""One paper, one file. The table of all methods."""

from unmask.methods.base import Method
from unmask.methods.itpn import ITPN
from unmask.methods.itpn_teacher import ITPNTeacher
from unmask.methods.mae import MAE
from unmask.methods.simmim import SimMIM

__all__ = ["ITPN", "MAE", "METHODS", "ITPNTeacher", "Method", "SimMIM"]

METHODS: dict[str, type[Method]] = {
    "mae": MAE,
    "simmim": SimMIM,
    "itpn": ITPN,
    "itpn_teacher": ITPNTeacher,
}
