"""Which function measures which fixture."""

from typing import Any

from tests.golden.clip import measure_clip
from tests.golden.cmae import measure_cmae
from tests.golden.codes import measure_beit, measure_beitv2, measure_cae
from tests.golden.columns import measure_revcol
from tests.golden.hierarchical import measure_classifier, measure_itpn, measure_mae_hivit
from tests.golden.itpn import measure_fast_itpn, measure_itpn_teacher
from tests.golden.milan import measure_milan
from tests.golden.official import measure_mae, measure_simmim
from tests.golden.tokenizers import measure_dvae, measure_vqkd

# Fixture name -> how it is measured. A fixture whose name continues one of these (mae_vit_wide) is measured
# alike.
MEASURES = {
    "mae_vit": measure_mae,
    "simmim_vit": measure_simmim,
    "simmim_swin": measure_simmim,
    "simmim_swinv2": measure_simmim,
    "beit": measure_beit,
    "beitv2": measure_beitv2,
    "cae": measure_cae,
    "clip_visual": measure_clip,
    "hivit_mae": measure_mae_hivit,
    "itpn_pixel": measure_itpn,
    "itpn_clip": measure_itpn_teacher,
    "itpn_classifier": measure_classifier,
    "itpn_clip_classifier": measure_classifier,
    "fast_itpn": measure_fast_itpn,
    "dvae": measure_dvae,
    "vqkd": measure_vqkd,
    "revcol_v1": measure_revcol,
    "milan": measure_milan,
    "cmae": measure_cmae,
}


def measure_for(name: str) -> Any:
    known = [key for key in MEASURES if name == key or name.startswith(f"{key}_")]
    return MEASURES[max(known, key=len)] if known else None
