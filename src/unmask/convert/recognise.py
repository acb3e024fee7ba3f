"""What an official file is: which method, which encoder, of which sizes."""

from collections.abc import Mapping

from torch import Tensor

from unmask.convert.clip import STATISTICS, clip_visual_name, shape_of_clip
from unmask.convert.codes import is_beit, is_cae, recognise_beit, recognise_cae
from unmask.convert.contrast import is_cmae, recognise_cmae
from unmask.convert.finding import IMAGENET, MASK_TOKEN, Finding, recipe_like
from unmask.convert.milan import is_milan, recognise_milan
from unmask.convert.names import encoder_name, mae_name, simmim_name, swin_name
from unmask.convert.shapes import Shape, count, shape_of
from unmask.convert.units import is_units, recognise_units
from unmask.encoders.clip import PROJECTION, is_clip, tower_of
from unmask.reading import Checkpoint
from unmask.recipes.base import Choice

# Parts of classifiers and of methods that are not implemented; an encoder goes without them.
HEADS = ("head.", "head_dist.", "lm_head.", "pre_logits.")


def recognise(
    checkpoint: Checkpoint, name: str, *, teacher: str | None = None, tokenizer: str | None = None
) -> Finding:
    """Say what the weights are.

    Args:
        name: of the recipe.
        teacher: that a person named, without which some methods are but their encoders.
        tokenizer: likewise.

    Raises:
        ValueError: nothing that is known; the message says what was seen.
    """
    weights = checkpoint.weights
    if any(key.startswith("encoder.model.") for key in weights):
        raise ValueError(
            "these are weights of a run of unmask, which are read as they are: give the run's folder to "
            "`unmask evaluate`, `reconstruct` or `export`"
        )
    if "encoder.mask_token" in weights:
        return _simmim(checkpoint, name)
    if is_clip(weights):
        return _clip(weights, name)
    if is_cae(weights):
        return recognise_cae(checkpoint, name, tokenizer=tokenizer)
    if is_cmae(weights):
        return recognise_cmae(weights, name)
    if is_units(weights):
        return recognise_units(checkpoint, name, teacher=teacher)
    shape = shape_of(weights)
    if shape is None:
        seen = ", ".join(list(weights)[:6])
        raise ValueError(
            f"its {len(weights)} tensors are named like {seen}. Known are the pre-training and fine-tuning "
            "files of MAE, SimMIM, BEiT, BEiT v2, CAE, MILAN, CMAE, HiViT, iTPN and Fast-iTPN, CLIP with a "
            "ViT, and ViT, BEiT, Swin and SwinV2 in timm's names"
        )
    if is_beit(weights):
        return recognise_beit(weights, shape, name, tokenizer=tokenizer)
    if is_milan(weights):
        return recognise_milan(weights, shape, name, teacher=teacher)
    if any(key.startswith("decoder_") for key in weights):
        return _mae(checkpoint, shape, name)
    return _encoder(weights, shape, name)


def _mae(checkpoint: Checkpoint, shape: Shape, name: str) -> Finding:
    weights = checkpoint.weights
    if missing := {"decoder_embed.weight", "decoder_pred.weight", MASK_TOKEN} - weights.keys():
        raise ValueError(f"it looks like MAE's, but there is no {', '.join(sorted(missing))}")
    width = weights["decoder_embed.weight"].shape[0]
    guessed = dict(shape.guessed)
    normalised = checkpoint.setting("norm_pix_loss")
    if normalised is None:
        normalised = True
        guessed["method.norm_target"] = "of the published files only mae_visualize_* predict plain pixels"
    if width != 512:
        guessed["method.decoder_heads"] = "the published files have 16"
    method = Choice(
        name="mae",
        mask_ratio=checkpoint.setting("mask_ratio") or 0.75,
        norm_target=normalised,
        decoder_dim=width,
        decoder_depth=count(weights, "decoder_blocks."),
        decoder_heads=16,
        rounding="mae_official",
    )
    return Finding(
        title="MAE pre-training, encoder and decoder",
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=True,
        weights=weights,
        rename=mae_name,
        guessed=guessed,
    )


def _simmim(checkpoint: Checkpoint, name: str) -> Finding:
    weights = checkpoint.weights
    if "decoder.0.weight" not in weights:
        raise ValueError("it looks like SimMIM's, but there is no decoder.0.weight")
    prefix = "encoder."
    inner = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    shape = shape_of(inner)
    if shape is None:
        raise ValueError(
            f"it looks like SimMIM's, but its encoder is not known: {', '.join(list(inner)[:6])}"
        )
    guessed, window = dict(shape.guessed), None
    target = checkpoint.setting("MODEL", "SIMMIM", "NORM_TARGET", "ENABLE")
    if target:
        window = checkpoint.setting("MODEL", "SIMMIM", "NORM_TARGET", "PATCH_SIZE")
    elif target is None and shape.family == "SwinV2":
        window = 47
        guessed["method.local_window"] = "the published SwinV2 files predict targets normalised so"
    method = Choice(
        name="simmim",
        mask_ratio=checkpoint.setting("DATA", "MASK_RATIO") or 0.6,
        mask_size=checkpoint.setting("DATA", "MASK_PATCH_SIZE") or 32,
        local_window=window,
    )
    return Finding(
        title="SimMIM pre-training, encoder and head",
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=True,
        weights=weights,
        rename=simmim_name,
        guessed=guessed,
    )


def _encoder(weights: Mapping[str, Tensor], shape: Shape, name: str) -> Finding:
    kept = {key: value for key, value in weights.items() if not key.startswith(HEADS) and key != MASK_TOKEN}
    notes = [IMAGENET]
    if "fc_norm.weight" in weights and "norm.weight" not in weights:
        notes.append(
            "The file norms the mean of the patches (fc_norm); here the same norm is applied to each patch, "
            "before the mean. Features are alike, not equal."
        )
    # The official Swin merges patches at the end of a stage, timm's at the start of the next.
    official = shape.family.startswith("Swin") and any(
        key.startswith("layers.0.downsample.") for key in weights
    )
    left_out = [head.rstrip(".") for head in HEADS if any(key.startswith(head) for key in weights)]
    classifier = " of a classifier" if "head" in left_out else ""
    method = Choice(name="mae" if shape.family == "ViT" else "simmim")
    return Finding(
        title=f"{shape.family} encoder{classifier}",
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=False,
        weights=kept,
        rename=swin_name if official else encoder_name,
        guessed=shape.guessed,
        left_out=(*left_out, *(name for name in (MASK_TOKEN,) if name in weights)),
        notes=tuple(notes),
    )


def _clip(weights: Mapping[str, Tensor], name: str) -> Finding:
    tower, shape = tower_of(weights), shape_of_clip(weights)
    recipe = recipe_like(name, Choice(name="mae"), shape)
    others = len(weights) > len(tower)  # of a whole CLIP; of a tower alone all of it is the tower
    return Finding(
        title="CLIP, visual tower",
        family=shape.family,
        recipe=recipe.model_copy(update={"data": recipe.data.model_copy(update=STATISTICS)}),
        complete=False,
        weights={key: tensor for key, tensor in tower.items() if key != PROJECTION},
        rename=clip_visual_name,
        guessed=shape.guessed,
        left_out=(*(["text tower"] * others), *(["projection"] * (PROJECTION in tower))),
        notes=("As a teacher: method.teacher=FOLDER, its tokens after the final norm, or FOLDER@resid.",),
    )
