"""Which recipe fits a start and a number of images."""

import difflib
from typing import Any

from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2

from unmask.encoders import Encoder
from unmask.encoders.revcol import RevCol
from unmask.encoders.revcolv2 import RevColViT
from unmask.encoders.units import UnitTransformer
from unmask.errors import UserError
from unmask.evaluate.finetune.classifier import pools_freely
from unmask.evaluate.finetune.published import PUBLISHED, few
from unmask.evaluate.finetune.recipe import FinetuneRecipe
from unmask.recipes.resolve import FEW_IMAGES, Length

FEW_LENGTH = Length(images=150_000, fewest_epochs=20, most_epochs=100)
LARGE, HUGE = 1024, 1280  # widths of ViTs
LARGE_SWIN = 192  # width of its patches


def choose_recipe(
    name: str | None, *, method: str | None, encoder: Encoder, images: int, again: bool
) -> FinetuneRecipe:
    """A recipe by its name; or the one for the method that trained the encoder: its paper's, or of fewer than
    20,000 images the one for few.

    Args:
        method: None where that is not known; the architecture then says whose recipe it is.
        images: to train on; batch and, of few, epochs follow from it.
        again: the encoder was fine-tuned before.

    Raises:
        UserError: no such recipe, fewer than two images.
    """
    if images < 2:
        raise UserError(f"{images} image is too few to train on; give more, or a larger --fraction")
    family = method or _family(encoder)
    if name is not None:
        if name not in PUBLISHED:
            near = difflib.get_close_matches(name, PUBLISHED, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else "."
            raise UserError(f"no recipe is called {name!r}{hint} There are {', '.join(PUBLISHED)}.")
        return _fitted(_pooling(PUBLISHED[name](), encoder), images)
    if images < FEW_IMAGES:
        recipe = _of_length(few(family, encoder.dim), FEW_LENGTH.epochs(images))
        return _fitted(_pooling(recipe, encoder), images)
    return _fitted(_pooling(PUBLISHED[_published(family, encoder, again=again)](), encoder), images)


def _pooling(recipe: FinetuneRecipe, encoder: Encoder) -> FinetuneRecipe:
    """A ViT's recipe for an architecture that pools in one way only."""
    if pools_freely(encoder):
        return recipe
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"pool": "auto"})})


def _family(encoder: Encoder) -> str:
    """The method whose recipe suits an architecture best."""
    kinds: tuple[tuple[Any, str], ...] = (
        ((SwinTransformer, SwinTransformerV2), "simmim"),
        (Beit, "beit"),
        (UnitTransformer, "itpn"),
        ((RevCol, RevColViT), "revcolv2"),
    )
    return next((name for kind, name in kinds if isinstance(encoder.model, kind)), "mae")


def _published(method: str, encoder: Encoder, *, again: bool) -> str:
    """The name of a method's recipe for an encoder; of methods without one, that of its architecture."""
    size = "huge" if encoder.dim >= HUGE else "large" if encoder.dim >= LARGE else "base"
    if isinstance(encoder.model, SwinTransformer | SwinTransformerV2):
        if isinstance(encoder.model, SwinTransformerV2):
            return "simmim_swinv2_base"
        return f"simmim_swin_{'large' if encoder.token_dim >= LARGE_SWIN else 'base'}"
    own = {"peco": "beit"}.get(method, method)
    wanted = [f"{own}_{size}_again"] * again + [f"{own}_{size}", f"{own}_large", f"{own}_base"]
    if own == "mae" and isinstance(encoder.model, UnitTransformer):
        wanted = ["mae_hivit"]
    if own == "simmim":
        wanted = ["simmim_vit_base"]
    if size == "base":
        wanted = [name for name in wanted if "_large" not in name]
    found = next((name for name in wanted if name in PUBLISHED), None)
    return found or _published(_family(encoder), encoder, again=False)


def _of_length(recipe: FinetuneRecipe, epochs: int) -> FinetuneRecipe:
    """A tenth of the run is warm-up."""
    schedule = recipe.schedule.model_copy(update={"epochs": epochs, "warmup_epochs": epochs / 10})
    return recipe.model_copy(update={"schedule": schedule})


def _fitted(recipe: FinetuneRecipe, images: int) -> FinetuneRecipe:
    """With a batch that the images fill: the largest power of two."""
    if images >= recipe.optim.batch_size:
        return recipe
    size = 2 ** (images.bit_length() - 1)
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"batch_size": size})})
