"""Official names of HiViT's, iTPN's and Fast-iTPN's weights and ours, as `names` has them for the others."""

import re
from collections.abc import Callable

from unmask.convert.names import mae_name

# Modules of the pyramid, there and here.
_PYRAMID = {
    "align_dim_16tofpn": "pyramid.align16",
    "align_dim_16to8": "pyramid.align8",
    "align_dim_8to4": "pyramid.align4",
    "split_16to8": "pyramid.split16",
    "split_8to4": "pyramid.split8",
    "block_16to8": "pyramid.blocks8",
    "block_8to4": "pyramid.blocks4",
}
# Parts of iTPN with a teacher.
_TEACHER = {
    "mask_token": "token",
    "norm": "head.0",
    "lm_head": "head.1",
    "cls_pt_layers": "auxiliary",
    "norm_cls": "auxiliary_head.0",
    "lm_cls_head": "auxiliary_head.1",
}


def hivit_name(official: str) -> str:
    """HiViT, and the backbone of iTPN. Supervised HiViTs have an index of positions in each block."""
    if official.endswith("relative_position_index"):
        return "encoder.model.positions"
    return f"encoder.model.{'pos_embed' if official == 'absolute_pos_embed' else official}"


def fast_itpn_name(official: str) -> str:
    """Fast-iTPN; queries and values keep their biases apart there."""
    renames = (
        (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
        (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
        (r"\.mlp\.w1\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    )
    for pattern, replacement in renames:
        official = re.sub(pattern, replacement, official)
    return f"encoder.model.{official}"


def mae_hivit_name(official: str) -> str:
    """MAE on HiViT, encoder and decoder; the norm belongs to the decoder's input."""
    if official.startswith("norm."):
        return f"decoder.embed_{official}"
    return _before_backbone(mae_name, official)


def itpn_name(official: str) -> str:
    """iTPN's pixel pre-training: backbone, pyramid, decoder."""
    return _pyramid_name(official, embed="decoder.embed") or _before_backbone(mae_name, official)


def itpn_teacher_name(official: str) -> str:
    """iTPN with a teacher: backbone, pyramid, both heads."""
    part, _, rest = official.partition(".")
    if part in _TEACHER:
        return f"{_TEACHER[part]}.{rest}" if rest else _TEACHER[part]
    return _pyramid_name(official, embed="embed") or hivit_name(official)


def _pyramid_name(official: str, *, embed: str) -> str | None:
    """Of the pyramid and what embeds its levels; None of all else.

    Levels are counted from the coarsest there, from the finest here.
    """
    level = re.match(r"^(fpn_modules|decoder_embed)\.(\d)", official)
    if level:
        place = {"fpn_modules": "pyramid.levels", "decoder_embed": embed}[level[1]]
        return f"{place}.{2 - int(level[2])}{official[level.end() :]}"
    part, _, rest = official.partition(".")
    return f"{_PYRAMID[part]}.{rest}" if part in _PYRAMID else None


def _before_backbone(name: Callable[[str], str], official: str) -> str:
    """What `name` makes of it; of the backbone, HiViT's names."""
    ours = name(official)
    return hivit_name(official) if ours.startswith("encoder.") else ours
