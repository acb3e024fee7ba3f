"""Methods that need a tokenizer first, where none is named."""

from typing import Any

from unmask.recipes import TOKENIZER_DEFAULTS, TOKENIZER_OF
from unmask.recipes.base import Recipe, TokenizerRecipe
from unmask.recipes.build import build_encoder, code_grid, lacking, usable_tokenizer
from unmask.recipes.resolve import resolve_tokenizer
from unmask.tokenizers import Tokenizer


def tokenizer_for(
    recipe: Recipe, *, images: int | None, epochs: int | None = None, steps: int | None = None
) -> TokenizerRecipe:
    """The tokenizer that is trained for a method where none is named: the default on the same images, with a
    code for every patch of the encoder."""
    name = TOKENIZER_OF.get(recipe.method.name, next(iter(TOKENIZER_DEFAULTS)))
    grid = code_grid(build_encoder(recipe))
    kept: dict[str, Any] = {"images": images, "seed": recipe.seed, "epochs": epochs, "steps": steps}
    kept["overrides"] = {"data.channels": recipe.data.channels, "data.bits": recipe.data.bits}
    stride = usable_tokenizer(resolve_tokenizer(name, **kept)).stride
    return resolve_tokenizer(name, image_size=(grid[0] * stride, grid[1] * stride), **kept)


def stand_ins(recipe: Recipe, *, images: int | None = None) -> dict[str, Tokenizer]:
    """For a method that needs a tokenizer, where none is named: the one that would be trained first, with
    random weights, to learn what does not depend on codes. By the option that it is for; else empty."""
    option = lacking(recipe)
    return {} if option is None else {option: usable_tokenizer(tokenizer_for(recipe, images=images))}
