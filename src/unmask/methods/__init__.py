"""One paper, one file. The table of all methods."""

from unmask.methods.base import Method
from unmask.methods.beit import BEiT
from unmask.methods.beitv2 import BEiTv2
from unmask.methods.cae import CAE
from unmask.methods.cmae import CMAE
from unmask.methods.itpn import ITPN
from unmask.methods.itpn_teacher import ITPNTeacher
from unmask.methods.mae import MAE
from unmask.methods.mask_distill import MaskDistill
from unmask.methods.milan import MILAN
from unmask.methods.peco import PeCo
from unmask.methods.revcolv2 import RevColV2
from unmask.methods.simmim import SimMIM

__all__ = [
    "CAE",
    "CMAE",
    "ITPN",
    "MAE",
    "METHODS",
    "MILAN",
    "BEiT",
    "BEiTv2",
    "ITPNTeacher",
    "MaskDistill",
    "Method",
    "PeCo",
    "RevColV2",
    "SimMIM",
]

METHODS: dict[str, type[Method]] = {
    "mae": MAE,
    "simmim": SimMIM,
    "beit": BEiT,
    "peco": PeCo,
    "beitv2": BEiTv2,
    "cae": CAE,
    "milan": MILAN,
    "cmae": CMAE,
    "itpn": ITPN,
    "itpn_teacher": ITPNTeacher,
    "revcolv2": RevColV2,
    "mask_distill": MaskDistill,
}
