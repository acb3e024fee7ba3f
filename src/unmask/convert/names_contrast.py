"""CMAE's official names and ours; see `names`."""

import re
from collections.abc import Mapping

from torch import Tensor

# Parts of the official model, and where they are in ours.
_PARTS = {
    "backbone": "encoder.model",
    "target_backbone": "target.module.model",
    "pixel_decoder": "decoder",
    "feature_decoder": "feature_decoder",
    "projector": "projector",
    "target_projector": "target_projector.module",
    "head.predictor": "predictor",
}
_HEADS = {"decoder.": "head.", "feature_decoder.": "feature_head."}
# mmpretrain's names of a transformer, and timm's.
_TRANSFORMER = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^(decoder_)?blocks\.", "blocks."),
    (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
    (r"ffn\.layers\.1\.", "mlp.fc2."),
    (r"(^|\.)ln1\.", r"\1norm1."),
    (r"\.ln2\.", ".norm2."),
    (r"^norm1\.", "norm."),  # the one after the blocks
    (r"^decoder_pos_embed$", "positions"),
    (r"^decoder_embed\.", "embed."),
    (r"^fc0\.", "hidden."),
    (r"^bn0\.", "norm."),
    (r"^fc1\.", "last."),
)


def cmae_name(official: str) -> str:
    """CMAE, all parts."""
    part = next(part for part in sorted(_PARTS, key=len, reverse=True) if official.startswith(f"{part}."))
    place, name = f"{_PARTS[part]}.", official.removeprefix(f"{part}.")
    if name.startswith("decoder_pred."):
        return _HEADS[place] + name.removeprefix("decoder_pred.")
    for pattern, replacement in _TRANSFORMER:
        name = re.sub(pattern, replacement, name)
    return place + name


def with_target_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with a final norm of the target's encoder, which the official one lacks and ours never uses:
    that of the encoder."""
    norm = {f"target_backbone.ln1.{part}": weights[f"backbone.ln1.{part}"] for part in ("weight", "bias")}
    return {**weights, **norm}
