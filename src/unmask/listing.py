"""What can be had by name, and what a name stands for: `unmask list` and `unmask show`."""

import difflib
import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.errors import UserError
from unmask.recipes import DEFAULTS, RECIPES, TOKENIZER_DEFAULTS, TOKENIZER_RECIPES
from unmask.recipes.resolve import FEW_IMAGES, resolve_recipe, resolve_tokenizer, trains_tokenizer

if TYPE_CHECKING:
    from unmask.methods.card import Card

HEADS = {"title": "method", "student": "what the encoder sees"}  # of a card's fields that are named otherwise


def listing(what: str, pattern: str = "") -> Iterator[tuple[str, str]]:
    """(name, one line about it) of every method, encoder or published run whose name contains `pattern`."""
    if what == "encoders":
        from unmask.encoders import list_encoders

        yield from ((name, "") for name in list_encoders(pattern))
    elif what == "methods":
        from unmask.methods import METHODS

        for name, method in METHODS.items():
            if pattern in name:
                yield name, _paper(method)[0].split(": ", 1)[-1]
    elif what == "tokenizers":
        from unmask.tokenizers import TOKENIZERS

        for name, tokenizer in TOKENIZERS.items():
            if pattern in name:
                yield name, _paper(tokenizer)[0].split(": ", 1)[-1]
    else:
        for name, recipe in {**RECIPES, **TOKENIZER_RECIPES}.items():
            if pattern in name:
                yield name, (inspect.getdoc(recipe) or "").splitlines()[0]


def describe(name: str, *, images: int | None = None, tokenizer: bool = False) -> tuple[str, str, str]:
    """(title, text, JSON) about a method, a published run, a recipe file or an encoder.

    Args:
        images: in the data set that a method's defaults are wanted for; None is many.
        tokenizer: the tokenizer of this name, where a method has it too.

    Raises:
        UserError: nothing has this name, or what has it does not follow from the number of images.
    """
    if tokenizer and name not in TOKENIZER_DEFAULTS:
        raise UserError(f"no tokenizer is called {name!r}. Tokenizers: {', '.join(TOKENIZER_DEFAULTS)}.")
    if name in DEFAULTS and not tokenizer:
        from unmask.methods import METHODS

        title, *rest = _paper(METHODS[name])
        parts = ("\n".join(rest).strip(), _in_short(METHODS[name].card), _defaults_of(name, images))
        return title, "\n\n".join(parts), resolve_recipe(name, images=images).to_json()
    if name in TOKENIZER_DEFAULTS:
        from unmask.tokenizers import TOKENIZERS

        title, *rest = _paper(TOKENIZERS[name])
        text = "\n".join(rest).strip() + "\n\n" + _defaults_of(name, images, tokenizer=True)
        return title, text, resolve_tokenizer(name, images=images).to_json()
    if images is not None:
        raise UserError(
            f"--images goes with a method ({', '.join(DEFAULTS)}), whose defaults follow from the number of "
            f"images. Leave it out for {name}."
        )
    if name in RECIPES or name in TOKENIZER_RECIPES:
        published = RECIPES.get(name) or TOKENIZER_RECIPES[name]
        title, *rest = (inspect.getdoc(published) or name).splitlines()
        return title, "\n".join(rest).strip() + "\n", _recipe(name)
    if Path(name).is_file():
        return name, "", _recipe(name)
    from unmask.encoders import create_encoder, list_encoders

    if name.split(".")[0] not in list_encoders():
        near = difflib.get_close_matches(
            name,
            [*DEFAULTS, *TOKENIZER_DEFAULTS, *RECIPES, *TOKENIZER_RECIPES, *list_encoders()],
            n=3,
            cutoff=0.5,
        )
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"no method, recipe or encoder is called {name!r}.{hint}")
    encoder = create_encoder(name)
    millions = sum(parameter.numel() for parameter in encoder.model.parameters()) / 1e6
    facts = {
        "parameters": f"{millions:.1f} M",
        "image_size": list(encoder.image_size),
        "patch_size": encoder.patch_size,
        "stride": encoder.stride,
        "dim": encoder.dim,
        "timm.create_model": encoder.architecture,
    }
    kind = type(encoder.model)
    whose = "of timm's" if kind.__module__.startswith("timm.") else "of unmask's"
    return name, f"A {kind.__name__} {whose}.", json.dumps(facts, indent=2)


def unified_table() -> str:
    """All methods as rows of the unified view of masked image modelling (`Card`), as a Markdown table."""
    from unmask.methods import METHODS
    from unmask.methods.card import Card

    names = [field.name for field in fields(Card)]
    lines = [[HEADS.get(name, name) for name in names], ["---"] * len(names)]
    lines += [list(asdict(method.card).values()) for method in METHODS.values()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _in_short(card: "Card") -> str:
    """A card as a list, beside which those of other methods can be read."""
    rows = {HEADS.get(name, name): text for name, text in asdict(card).items() if name != "title"}
    width = max(map(len, rows))
    return "\n".join(f"{head:<{width}}  {text}" for head, text in rows.items())


def _paper(method: type) -> list[str]:
    """The paper card of a method: the docstring of its module."""
    return (inspect.getdoc(inspect.getmodule(method)) or method.__name__).splitlines()


def _defaults_of(name: str, images: int | None, *, tokenizer: bool = False) -> str:
    """What the recipe that follows is."""
    what = f"Defaults of `unmask {'tokenizer' if tokenizer else 'pretrain'} {name}`"
    if images is not None:
        return f"{what} for {images:,} images:"
    shared = name in DEFAULTS and name in TOKENIZER_DEFAULTS
    flag = " --tokenizer" if shared and tokenizer else ""
    hint = f"A tokenizer has this name too: `unmask show {name} --tokenizer`.\n\n"
    return (
        f"{hint if shared and not tokenizer else ''}Fewer than {FEW_IMAGES:,} images get a smaller network, "
        f"smaller images and a shorter run: `unmask show {name}{flag} --images 3000`.\n\n{what} for more of "
        "them, before epochs follow from their number:"
    )


def _recipe(name: str) -> str:
    """Of a published run, or of a file, whatever it trains."""
    is_tokenizer = name in TOKENIZER_RECIPES or (name not in RECIPES and trains_tokenizer(name))
    return (resolve_tokenizer if is_tokenizer else resolve_recipe)(name).to_json()
