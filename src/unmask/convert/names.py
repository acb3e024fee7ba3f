"""Official names of weights and ours.

Every function turns the name of a tensor in an official file into its name in one of our methods; an encoder
alone is named as it would be there ("encoder.model.*"). Tensors that follow from sizes alone have a name too,
that of our own buffer, so that they can be compared.
"""

import re

# Endings of tensors that follow from the sizes of a model; files may hold them or not. The last describes a
# teacher, whose weights are in no file of a method.
DERIVED = ("relative_position_index", "relative_coords_table", "attn_mask", "_extra_state")


def mae_name(official: str) -> str:
    """MAE, encoder and decoder."""
    renames = (
        (r"^decoder_embed\.", "decoder.embed."),
        (r"^decoder_blocks\.", "decoder.blocks."),
        (r"^decoder_norm\.", "decoder.norm."),
        (r"^decoder_pred\.", "head."),
        (r"^mask_token$", "decoder.mask_token"),
        (r"^decoder_pos_embed$", "decoder.positions"),
    )
    for pattern, replacement in renames:
        if re.match(pattern, official):
            return re.sub(pattern, replacement, official)
    return encoder_name(official)


def simmim_name(official: str) -> str:
    """SimMIM with a ViT, Swin or SwinV2, encoder and head."""
    if official == "encoder.mask_token":
        return "token"
    if official.startswith("decoder.0."):
        return official.replace("decoder.0.", "head.")
    return swin_name(official.removeprefix("encoder."))


def swin_name(official: str) -> str:
    """Swin and SwinV2 of the official code; of other encoders the names are left alone.

    timm merges patches at the start of a stage, the official code at the end of the one before.
    """
    stage = re.match(r"^layers\.(\d+)\.downsample\.", official)
    if stage:
        official = f"layers.{int(stage[1]) + 1}.downsample.{official[stage.end() :]}"
    return encoder_name(official)


def encoder_name(official: str) -> str:
    """ViTs of MAE and BEiT, and all models of timm. The norm after pooling takes the place of the final one
    (files that have both are not read with it).
    """
    return "encoder.model." + re.sub(r"^fc_norm\.", "norm.", official)
