"""Official files of HiViT, iTPN and Fast-iTPN: what they are, and the architecture behind them."""

import re
from typing import Any

from torch import Tensor

from unmask.convert.finding import IMAGENET, Finding, recipe_like
from unmask.convert.names_itpn import (
    fast_itpn_name,
    itpn_name,
    itpn_teacher_name,
    mae_hivit_name,
)
from unmask.convert.shapes import Shape, Weights, count, nearest, side_of
from unmask.reading import Checkpoint
from unmask.recipes.base import Choice
from unmask.recipes.teachers import CLIP_BASE

_WIDTHS = {384: 6, 512: 8, 768: 12}  # heads of the published sizes
_HIVITS: dict[str, dict[str, Any]] = {
    f"{name}_patch16_224": {
        "embed_dim": width, "depths": depths, "num_heads": _WIDTHS[width],
        "patch_size": 16, "stem_mlp_ratio": 3.0, "rel_pos": False, "init_values": None,
    }
    for name, width, depths in (
        ("hivit_tiny", 384, [2, 2, 10]),
        ("hivit_small", 384, [4, 4, 20]),
        ("hivit_base", 512, [4, 4, 20]),
        ("itpn_base", 512, [3, 3, 24]),
        ("itpn_large", 768, [2, 2, 40]),
    )
}  # fmt: skip
_FASTS: dict[str, dict[str, Any]] = {
    f"fast_itpn_{name}_patch16_224": {
        "embed_dim": width, "depths": depths, "num_heads": _WIDTHS[width],
        "patch_size": 16, "stem_mlp_ratio": 3.0, "mlp_ratio": 3.0, "init_values": 0.1,
    }
    for name, width, depths in (
        ("tiny", 384, [1, 1, 12]),
        ("small", 384, [2, 2, 20]),
        ("base", 512, [3, 3, 24]),
        ("large", 768, [2, 2, 40]),
    )
}  # fmt: skip

_PYRAMID = ("align_dim_", "split_", "block_", "fpn_modules.")
_HEADS = ("head.", "fc_norm.", "norm.", "mask_token")  # norms of classifiers act behind the pooling
_TEACHER_HEADS = (
    "mask_token",
    "lm_head.",
    "lm_cls_head.",
    "norm.",
    "norm_cls.",
    "cls_pt_layers.",
    "decoder_embed.",
)
_NO_NORM = (
    "The norm behind the pooling is left out with the classifier; the backbone itself has no final norm."
)


def is_units(weights: Weights) -> bool:
    """Whether they are of HiViT, iTPN or Fast-iTPN, by their official names."""
    return _is_fast(weights) or {"absolute_pos_embed", "blocks.0.norm2.weight"} <= weights.keys()


def recognise_units(checkpoint: Checkpoint, name: str, *, teacher: str | None) -> Finding:
    """
    Raises:
        ValueError: parts are missing.
    """
    weights = checkpoint.weights
    shape = shape_of_units(weights)
    if "decoder_pred.weight" in weights:
        return _pixels(checkpoint, shape, name)
    if "lm_head.weight" in weights:
        return _taught(weights, shape, name, teacher=teacher)
    return _backbone(weights, shape, name)


def _is_fast(weights: Weights) -> bool:
    return "blocks.0.mlp.ffn_ln.weight" in weights


def shape_of_units(weights: Weights) -> Shape:
    """The backbone as an encoder.

    Raises:
        ValueError: it is none of these, or for no square image.
    """
    fast = _is_fast(weights)
    merges = sorted(int(found[1]) for found in map(_MERGE.match, weights) if found)
    if len(merges) != 2:
        raise ValueError(f"it looks like a HiViT's, but joins patches {len(merges)} times instead of twice")
    first, last = "blocks.0.", f"blocks.{merges[1] + 1}."
    positions = weights["pos_embed" if fast else "absolute_pos_embed"]
    width = positions.shape[2]
    table = weights.get(f"{last}attn.relative_position_bias_table")
    hidden = weights[f"{last}mlp.{'w1' if fast else 'fc1'}.weight"].shape[0]
    own: dict[str, Any] = {
        "embed_dim": width,
        "depths": [merges[0], merges[1] - merges[0] - 1, count(weights, "blocks.") - merges[1] - 1],
        "num_heads": _WIDTHS.get(width, max(1, width // 64)) if table is None else table.shape[1],
        "patch_size": 4 * weights["patch_embed.proj.weight"].shape[2],
        "stem_mlp_ratio": weights[f"{first}mlp.fc1.weight"].shape[0] / (width // 4),
        "mlp_ratio": hidden / width,
        "qkv_bias": f"{last}attn.{'q_bias' if fast else 'qkv.bias'}" in weights,
        "init_values": 0.1 if f"{last}gamma_1" in weights else None,
    }
    if not fast:
        own["rel_pos"] = table is not None
    guessed = (
        {} if table is not None or width in _WIDTHS else {"encoder.num_heads": "usual are 64 channels a head"}
    )
    return Shape(
        encoder=nearest(_FASTS if fast else _HIVITS, own),
        family="Fast-iTPN" if fast else "HiViT",
        image_size=(side_of(positions.shape[1], "its position table") * own["patch_size"],) * 2,
        channels=weights["patch_embed.proj.weight"].shape[1],
        guessed=guessed,
    )


_MERGE = re.compile(r"blocks\.(\d+)\.reduction\.weight$")


def _pixels(checkpoint: Checkpoint, shape: Shape, name: str) -> Finding:
    """Pre-training on pixels: iTPN's, or MAE's of HiViT, which has no pyramid."""
    weights, pyramid = checkpoint.weights, _pyramid(checkpoint.weights)
    width = weights["decoder_pred.weight"].shape[1]
    guessed = dict(shape.guessed)
    if width != 512:
        guessed["method.decoder_heads"] = "the published files have 16"
    options: dict[str, Any] = {
        "mask_ratio": checkpoint.setting("mask_ratio") or 0.75,
        "norm_target": True,  # whatever the command line said, in both repositories
        "decoder_dim": width,
        "decoder_depth": count(weights, "decoder_blocks."),
        "decoder_heads": 16,
        "rounding": "mae_official",
    }
    if pyramid is None:
        method, title = Choice(name="mae", **options), "MAE pre-training of a HiViT, encoder and decoder"
    else:
        own = {"pyramid_dim": pyramid["width"], "pyramid_depth": pyramid["depth"]}
        method = Choice(name="itpn", **options, **own, feature_weight=0.0, shifted_positions=True)
        title = "iTPN pre-training on pixels: encoder, pyramid and decoder"
    return Finding(
        title=title,
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=True,
        weights=weights,
        rename=mae_hivit_name if pyramid is None else itpn_name,
        guessed=guessed,
    )


def _taught(weights: Weights, shape: Shape, name: str, *, teacher: str | None) -> Finding:
    """iTPN with CLIP as a teacher; the heads are of use beside the teacher, which is not in the file."""
    pyramid = _pyramid(weights)
    if pyramid is None:
        raise ValueError("it looks like iTPN's pre-training with a teacher, but has no pyramid")
    method = Choice(
        name="itpn_teacher",
        teacher=teacher or CLIP_BASE,
        pyramid_dim=pyramid["width"],
        pyramid_depth=pyramid["depth"],
        auxiliary_depth=count(weights, "cls_pt_layers."),
        official_masks=True,
        leaking_laterals=True,
        squeezed_range=True,
    )
    whole = teacher is not None
    advice = (
        "The heads are of use beside the teacher that they were trained with only. To go on with the "
        f"pre-training, name that too: method.teacher={CLIP_BASE}"
    )
    parts = "encoder, pyramid and heads" if whole else "encoder and pyramid"
    return Finding(
        title=f"iTPN pre-training with a teacher: {parts}",
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=whole,
        weights=weights if whole else _without(weights, _TEACHER_HEADS),
        rename=itpn_teacher_name,
        pyramid=None if whole else pyramid,
        kept=("teacher.",) if whole else (),
        left_out=() if whole else _named(weights, _TEACHER_HEADS),
        guessed={**shape.guessed, "data.mean": "the released pre-training has it", "data.std": "likewise"},
        notes=() if whole else (advice,),
    )


def _backbone(weights: Weights, shape: Shape, name: str) -> Finding:
    """A classifier, or a backbone alone; where a pyramid is there too, it is kept."""
    pyramid, left_out = _pyramid(weights), _named(weights, _HEADS)
    title = f"{shape.family} encoder" + (" of a classifier" if "head" in left_out else "")
    return Finding(
        title=title + (" and pyramid" if pyramid else ""),
        family=shape.family,
        recipe=recipe_like(name, Choice(name="mae"), shape),
        complete=False,
        weights=_without(weights, _HEADS),
        rename=fast_itpn_name if _is_fast(weights) else itpn_teacher_name,
        pyramid=pyramid,
        left_out=left_out,
        guessed=shape.guessed,
        notes=(IMAGENET, _NO_NORM) if {"fc_norm", "norm"} & set(left_out) else (IMAGENET,),
    )


def _without(weights: Weights, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """All but those whose names begin so."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(parts)}


def _pyramid(weights: Weights) -> dict[str, Any] | None:
    """What builds the pyramid of a file; None if it has none.

    Raises:
        ValueError: it has only parts of one.
    """
    if not any(name.startswith(_PYRAMID) for name in weights):
        return None
    if missing := {"align_dim_16tofpn.weight", "fpn_modules.2.norm2.weight"} - weights.keys():
        raise ValueError(f"it has parts of iTPN's pyramid, but there is no {', '.join(sorted(missing))}")
    width, dim = weights["align_dim_16tofpn.weight"].shape
    return {"dim": dim, "width": width, "depth": count(weights, "block_16to8.")}


def _named(weights: Weights, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the parts that are there."""
    return tuple(part.rstrip(".") for part in parts if any(name.startswith(part) for name in weights))
