"""Official files of MILAN."""

from collections.abc import Mapping

from torch import Tensor

from unmask.convert.finding import IMAGENET, MASK_TOKEN, Finding, recipe_like
from unmask.convert.names import mae_name
from unmask.convert.shapes import Shape, count
from unmask.recipes.base import Choice
from unmask.recipes.teachers import CLIP_BASE

QUERY = "decoder_blocks.0.attn.q.weight"  # apart from keys and values in a prompting decoder alone


def is_milan(weights: Mapping[str, Tensor]) -> bool:
    """Whether it has a prompting decoder."""
    return QUERY in weights


def recognise_milan(
    weights: Mapping[str, Tensor], shape: Shape, name: str, *, teacher: str | None
) -> Finding:
    """
    Raises:
        ValueError: a part is missing.
    """
    if missing := {"decoder_embed.weight", "decoder_pred.weight", MASK_TOKEN} - weights.keys():
        raise ValueError(f"it looks like MILAN's, but there is no {', '.join(sorted(missing))}")
    if teacher is None:
        decoder = {key for key in weights if key.startswith("decoder_") or key == MASK_TOKEN}
        advice = (
            "The decoder is of use beside the teacher that it was trained with only. To go on with the "
            f"pre-training, name that too: method.teacher={CLIP_BASE}"
        )
        return Finding(
            title="MILAN pre-training, encoder only",
            family=shape.family,
            recipe=recipe_like(name, Choice(name="mae"), shape),
            complete=False,
            weights={key: value for key, value in weights.items() if key not in decoder},
            rename=mae_name,
            guessed=shape.guessed,
            left_out=("decoder", MASK_TOKEN),
            notes=(IMAGENET, advice),
        )
    width = weights["decoder_embed.weight"].shape[0]
    guessed = dict(shape.guessed)
    if width != 512:
        guessed["method.decoder_heads"] = "the published files have 16"
    method = Choice(
        name="milan",
        teacher=teacher,
        decoder_dim=width,
        decoder_depth=count(weights, "decoder_blocks."),
        decoder_heads=16,
        rounding="mae_official",
    )
    return Finding(
        title="MILAN pre-training, encoder and decoder",
        family=shape.family,
        recipe=recipe_like(name, method, shape),
        complete=True,
        weights=weights,
        rename=mae_name,
        guessed=guessed,
        kept=("teacher.",),
        notes=(IMAGENET,),
    )
