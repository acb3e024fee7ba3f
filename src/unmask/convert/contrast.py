"""Official files of CMAE."""

from collections.abc import Mapping

from torch import Tensor

from unmask.convert.finding import IMAGENET, Finding, recipe_like
from unmask.convert.names_contrast import cmae_name, with_target_norm
from unmask.convert.shapes import Shape, count, shape_of
from unmask.recipes.base import Choice

ENCODER = "backbone."
LAYER = "layers.0.ffn.layers.0.0.weight"  # mmpretrain's name of a transformer's
NEEDED = {"pixel_decoder.mask_token", "feature_decoder.mask_token", "projector.fc0.weight"}
NEEDED |= {"target_backbone.cls_token", "target_projector.fc0.weight", "head.predictor.fc0.weight"}


def is_cmae(weights: Mapping[str, Tensor]) -> bool:
    """Whether it has a transformer in mmpretrain's names, of all of CMAE or alone."""
    return LAYER in weights or f"{ENCODER}{LAYER}" in weights


def recognise_cmae(weights: Mapping[str, Tensor], name: str) -> Finding:
    """
    Raises:
        ValueError: an encoder that is not known, or a part is missing.
    """
    if LAYER in weights:
        weights = {ENCODER + key: value for key, value in weights.items()}
    encoder = {key: value for key, value in weights.items() if key.startswith(ENCODER)}
    shape = shape_of({cmae_name(key).removeprefix("encoder.model."): value for key, value in encoder.items()})
    if shape is None:
        seen = ", ".join(list(encoder)[:6])
        raise ValueError(f"it looks like CMAE's, but its encoder is not known: {seen}")
    if encoder.keys() == weights.keys():
        return Finding(
            title="CMAE pre-training, encoder only",
            family=shape.family,
            recipe=recipe_like(name, Choice(name="mae"), shape),
            complete=False,
            weights=encoder,
            rename=cmae_name,
            guessed=shape.guessed,
            notes=(IMAGENET,),
        )
    if missing := NEEDED - weights.keys():
        raise ValueError(f"it looks like CMAE's, but there is no {', '.join(sorted(missing))}")
    return Finding(
        title="CMAE pre-training, all parts",
        family=shape.family,
        recipe=recipe_like(name, _method(weights), shape),
        complete=True,
        weights=with_target_norm(weights),
        rename=cmae_name,
        guessed=_guessed(weights, shape),
        kept=("queue",),
        notes=(IMAGENET,),
    )


def _method(weights: Mapping[str, Tensor]) -> Choice:
    return Choice(
        name="cmae",
        mask_size=2 * weights[f"{ENCODER}patch_embed.projection.weight"].shape[-1],
        decoder_dim=weights["pixel_decoder.decoder_embed.weight"].shape[0],
        decoder_depth=count(weights, "pixel_decoder.decoder_blocks."),
        decoder_heads=16,
        feature_depth=count(weights, "feature_decoder.decoder_blocks."),
        projection_dim=weights["projector.fc1.weight"].shape[0],
        projection_hidden=weights["projector.fc0.weight"].shape[0],
        rounding="mae_official",
    )


def _guessed(weights: Mapping[str, Tensor], shape: Shape) -> dict[str, str]:
    guessed = {**shape.guessed, "method.mask_size": "the published runs hide squares of two patches"}
    if weights["pixel_decoder.decoder_embed.weight"].shape[0] != 512:
        guessed["method.decoder_heads"] = "the published files have 16"
    return guessed
