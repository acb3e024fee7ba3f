"""Official names of the weights of methods that predict codes, and ours; see `names`."""

import re

from unmask.convert.names import encoder_name


def beit_name(official: str) -> str:
    """BEiT and BEiT v2, encoder and heads."""
    if official == "mask_token":
        return "token"
    renames = {
        "lm_head": "head",
        "cls_pt_layers": "further",
        "cls_pt_norm": "further_norm",
        "cls_pt_lm_head": "further_head",
    }
    part, _, rest = official.partition(".")
    return f"{renames[part]}.{rest}" if part in renames else encoder_name(official)


def cae_name(official: str) -> str:
    """CAE: encoder, its copy as teacher, regressor and decoder."""
    if official == "mask_token":
        return "regressor.token"
    renames = (
        (r"^encoder\.", "encoder.model."),
        (r"^teacher\.", "teacher.module.model."),
        (r"^pretext_neck\.regressor_blocks\.", "regressor.blocks."),
        (r"^pretext_neck\.norm\.", "regressor.norm."),
        (r"^pretext_neck\.decoder_blocks\.", "decoder.blocks."),
        (r"^pretext_neck\.norm2\.", "decoder.norm."),
        (r"^pretext_neck\.head\.", "head."),
        (r"^pretext_neck\.encoder_to_decoder\.", "bridge.0."),
        (r"^pretext_neck\.encoder_to_decoder_norm\.", "bridge.1."),
    )
    for pattern, replacement in renames:
        official = re.sub(pattern, replacement, official)
    inside = {"norm1_": "norm_", "_cross": "", "cross_attn.": "attn."}
    if official.startswith("regressor.blocks."):
        for theirs, ours in inside.items():
            official = official.replace(theirs, ours)
    return official
