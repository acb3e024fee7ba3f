"""Official files of methods that predict a tokenizer's codes: BEiT, BEiT v2, CAE."""

from collections.abc import Mapping

from torch import Tensor

from unmask.convert.finding import IMAGENET, MASK_TOKEN, Finding, recipe_like
from unmask.convert.names import encoder_name
from unmask.convert.names_codes import beit_name, cae_name
from unmask.convert.shapes import Shape, count, shape_of
from unmask.reading import Checkpoint
from unmask.recipes.base import Choice

NECK, TEACHER, ENCODER = "pretext_neck.", "teacher.", "encoder."
SECOND = "cls_pt_layers."  # of BEiT v2
HEADS = ("lm_head.", SECOND, "cls_pt_norm.", "cls_pt_lm_head.")
NEEDS_TOKENIZER = (
    "The part that predicts codes is left out, because the tokenizer that they belong to is not in the file: "
    "name it (method.tokenizer=FOLDER) to have all of the method."
)


def is_beit(weights: Mapping[str, Tensor]) -> bool:
    """Whether they are BEiT's or BEiT v2's, from pre-training."""
    return {"lm_head.weight", MASK_TOKEN} <= weights.keys()


def recognise_beit(
    weights: Mapping[str, Tensor], shape: Shape, name: str, *, tokenizer: str | None
) -> Finding:
    """BEiT or BEiT v2; the encoder alone if nobody named the tokenizer that its codes belong to."""
    further = count(weights, SECOND)
    title = "BEiT v2" if further else "BEiT"
    if tokenizer is None:
        found = (*HEADS, MASK_TOKEN)
        return Finding(
            title=f"{title} pre-training, encoder only",
            family=shape.family,
            recipe=recipe_like(name, Choice(name="simmim"), shape),
            complete=False,
            weights={key: value for key, value in weights.items() if not key.startswith(found)},
            rename=beit_name,
            guessed=shape.guessed,
            left_out=tuple(
                part.rstrip(".") for part in found if any(key.startswith(part) for key in weights)
            ),
            notes=(IMAGENET, NEEDS_TOKENIZER),
        )
    guessed = dict(shape.guessed)
    method = Choice(name="beit", tokenizer=tokenizer, official_masks=True)
    if further:
        guessed["method.early_depth"] = "in the published files it is three blocks before the last"
        method = Choice(
            name="beitv2",
            tokenizer=tokenizer,
            head_depth=further,
            early_depth=max(1, count(weights, "blocks.") - 3),
            shared_head="cls_pt_lm_head.weight" not in weights,
            head_init="pytorch",
        )
    return Finding(
        title=f"{title} pre-training, encoder and the layers that predict codes",
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=True,
        weights=weights,
        rename=beit_name,
        guessed=guessed,
        notes=(IMAGENET,),
    )


def is_cae(weights: Mapping[str, Tensor]) -> bool:
    """Whether they are CAE's, from pre-training."""
    return any(name.startswith(NECK) for name in weights)


def recognise_cae(checkpoint: Checkpoint, name: str, *, tokenizer: str | None) -> Finding:
    """CAE; the encoder alone if nobody named the tokenizer that its codes belong to.

    Raises:
        ValueError: the encoder is not there, or unknown.
    """
    weights = checkpoint.weights
    inner = {key.removeprefix(ENCODER): tensor for key, tensor in weights.items() if key.startswith(ENCODER)}
    shape = shape_of(inner)
    if shape is None or f"{NECK}head.weight" not in weights:
        raise ValueError(
            f"it looks like CAE's, but its encoder or {NECK}head.weight is missing: it holds "
            f"{', '.join(list(weights)[:6])}"
        )
    if tokenizer is None:
        parts = (NECK.rstrip("."), TEACHER.rstrip("."), MASK_TOKEN)
        return Finding(
            title="CAE pre-training, encoder only",
            family=shape.family,
            recipe=recipe_like(name, Choice(name="cae"), shape),
            complete=False,
            weights=inner,
            rename=encoder_name,
            guessed=shape.guessed,
            left_out=tuple(part for part in parts if any(key.startswith(part) for key in weights)),
            notes=(IMAGENET, NEEDS_TOKENIZER),
        )
    width = weights[f"{NECK}norm.weight"].shape[0]
    guessed = dict(shape.guessed)
    if width != 768:
        guessed["method.decoder_heads"] = "usual are 64 channels a head"
    weight = checkpoint.setting("align_loss_weight")
    method = Choice(
        name="cae",
        tokenizer=tokenizer,
        regressor_depth=count(weights, f"{NECK}regressor_blocks."),
        decoder_depth=count(weights, f"{NECK}decoder_blocks."),
        decoder_dim=width,
        decoder_heads=max(1, width // 64),
        align_weight=2.0 if weight is None else weight,
        lagging_target=any(key.startswith(TEACHER) for key in weights),
    )
    return Finding(
        title="CAE pre-training, encoder, regressor and decoder",
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=True,
        weights=weights,
        rename=cae_name,
        guessed=guessed,
        notes=(IMAGENET,),
    )
