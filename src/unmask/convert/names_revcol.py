"""RevCol's official names of weights and ours."""

import re


def revcol_name(official: str) -> str:
    """RevCol with its classifier, as a model of timm (without the encoder's prefix)."""
    renames = (
        (r"^stem\.0\.", "patch_embed.proj."),
        (r"^stem\.1\.", "patch_embed.norm."),
        (r"^cls\.classifier\.0\.", "fc_norm."),
        (r"^cls\.classifier\.1\.", "head."),
        (r"^subnet(\d+)\.alpha(\d+)$", r"columns.\1.gammas.\2"),
        (r"^subnet(\d+)\.level(\d+)\.fusion\.down\.", r"columns.\1.levels.\2.down."),
        (r"^subnet(\d+)\.level(\d+)\.fusion\.up\.channel_reschedule\.", r"columns.\1.levels.\2.up."),
        (r"^subnet(\d+)\.level(\d+)\.", r"columns.\1.levels.\2."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.pwconv([12])\.", r".mlp.fc\1."),
    )
    for pattern, replacement in renames:
        official = re.sub(pattern, replacement, official)
    return official


def idle(official: str) -> bool:
    """Factors of the first column, which multiply zeros in the official code; here it has none."""
    return re.match(r"^subnet0\.alpha\d+$", official) is not None
