"""CLIP's visual towers: what a file of weights is, and under which names it is loaded."""

from collections.abc import Mapping

from torch import Tensor

from unmask.convert.shapes import Shape
from unmask.encoders.clip import HEAD_WIDTH, clip_name, clip_shape, tower_of
from unmask.recipes.base import Choice

STATISTICS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
GUESSED = {
    "encoder.num_heads": "OpenAI's towers have a head for every 64 channels",
    "encoder.name": "weights of OpenAI, MetaCLIP and DFN want QuickGELU; most others of OpenCLIP the exact "
    "GELU, which is the name without quickgelu_",
    "data.mean": "images of CLIP are normalised so",
}


def clip_visual_name(official: str) -> str:
    """The visual tower, in a whole CLIP or alone."""
    return f"encoder.model.{clip_name(official)}"


def shape_of_clip(weights: Mapping[str, Tensor]) -> Shape:
    """The visual tower as an encoder.

    Raises:
        ValueError: it is for no square image.
    """
    shape = clip_shape(tower_of(weights))
    encoder = Choice(name=shape.name, **shape.options)
    width = weights.get("ln_post.weight", weights.get("visual.ln_post.weight"))
    odd = width is not None and len(width) % HEAD_WIDTH != 0
    guessed = {key: why for key, why in GUESSED.items() if key != "encoder.num_heads" or odd}
    return Shape(
        encoder=encoder,
        family="ViT",
        image_size=shape.image_size,
        channels=shape.channels,
        guessed=guessed,
    )
