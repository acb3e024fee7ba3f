"""What the loop leaves open, for methods and for tokenizers."""

from typing import Any

from unmask.engine.kinds.base import Kind
from unmask.engine.kinds.methods import Methods
from unmask.engine.kinds.tokenizers import Tokenizers
from unmask.recipes.base import Plan, Recipe

__all__ = ["Kind", "kind_of"]


def kind_of(recipe: Plan) -> Kind[Any]:
    """How what a recipe trains is trained."""
    return Methods() if isinstance(recipe, Recipe) else Tokenizers()
