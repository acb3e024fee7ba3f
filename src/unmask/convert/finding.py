"""What an official file is taken for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unmask.convert.shapes import Shape
from unmask.recipes import RECIPES
from unmask.recipes.base import Choice, Data, Recipe
from unmask.recipes.build import with_defaults

MASK_TOKEN = "mask_token"
# The run whose optimiser and augmentation stand for what a file does not tell.
PUBLISHED = {
    ("mae", "ViT"): "mae_vit_base_800ep",
    ("milan", "ViT"): "milan_vit_base_400ep",
    ("cmae", "ViT"): "cmae_vit_base_800ep",
    ("mae", "HiViT"): "mae_hivit_base_1600ep",
    ("mae", "Fast-iTPN"): "mae_hivit_base_1600ep",
    ("itpn", "HiViT"): "itpn_base_400ep",
    ("itpn_teacher", "HiViT"): "itpn_base_clip_300ep",
    ("simmim", "BEiT"): "simmim_vit_base_800ep",
    ("beit", "BEiT"): "beit_vit_base_800ep",
    ("beitv2", "BEiT"): "beitv2_vit_base_1600ep",
    ("cae", "BEiT"): "cae_vit_base_1600ep",
    ("simmim", "Swin"): "simmim_swin_base_800ep",
    ("simmim", "SwinV2"): "simmim_swinv2_base_800ep",
}
IMAGENET = (
    "Images are taken to be normalised by ImageNet's mean and standard deviation; otherwise set data.mean "
    "and data.std."
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a file is taken for.

    Attributes:
        title: the file in a few words.
        family: of the encoder.
        recipe: method, encoder and images; of an encoder alone only the last two count.
        complete: whether the method's own weights are there too, and not the encoder's only.
        pyramid: what builds the feature pyramid, where an encoder alone comes with one.
        weights: those that are converted.
        rename: official name -> ours.
        kept: starts of our names, of parts of the method that no such file has.
        left_out: parts of the file that nothing here needs.
        guessed: setting -> why, of what the weights do not tell.
        notes: what else a person should know; sentences.
    """

    title: str
    family: str
    recipe: Recipe
    complete: bool
    weights: Mapping[str, Tensor]
    rename: Callable[[str], str]
    guessed: Mapping[str, str]
    pyramid: Mapping[str, Any] | None = None
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def recipe_like(name: str, method: Choice, shape: Shape) -> Recipe:
    """A published run, of which method, encoder and images are replaced by the file's."""
    usual = RECIPES[PUBLISHED[method.name, shape.family]]()
    data = Data.model_validate(
        {**usual.data.model_dump(), "image_size": shape.image_size, "channels": shape.channels}
    )
    changes = {"name": name, "method": method, "encoder": shape.encoder, "data": data}
    return with_defaults(usual.model_copy(update=changes))
