"""Tokenizers on disk, as runs write them: `tokenizer.safetensors`, all weights that codes and pictures need,
and `tokenizer.json`, its card. What only training needs, a teacher for instance, is left out."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from unmask.engine.files import put, write_text
from unmask.export.saved import tensors_of
from unmask.recipes.base import Choice
from unmask.recipes.trained import FORMAT, WEIGHTS
from unmask.tokenizers import Tokenizer


def save_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    *,
    choice: Choice,
    bits: int = 8,
    use: dict[str, Any] | None = None,
    made_by: dict[str, Any],
    file: str = WEIGHTS,
) -> Path:
    """Write weights and card, each of them whole or not at all; the path of the weights.

    Args:
        folder: made if it is missing; files of the same names are replaced.
        choice: name and options that it was built from.
        bits: of a channel of the images.
        use: how the codes are used, see `CodeCount.facts`; None if it was not measured.
        made_by: provenance, plain data: recipe, version, step, of how many steps.
    """
    path, unneeded = folder / file, tokenizer.training_only
    card = {
        "format": FORMAT,
        "name": choice.name,
        "options": {key: None if key in unneeded else value for key, value in choice.options.items()},
        "image_size": list(tokenizer.image_size),
        "channels": tokenizer.channels,
        "bits": bits,
        "pixels": "in [0, 1]; the tokenizer normalises them itself",
        "stride": tokenizer.stride,
        "grid": list(tokenizer.grid),
        "vocabulary": tokenizer.vocabulary,
        "use": use,
        "made_by": made_by,
        "load": f"from unmask import load_tokenizer\ntokenizer = load_tokenizer({file!r})\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor
        for name, tensor in tensors_of(tokenizer).items()
        if name.partition(".")[0] not in unneeded
    }
    put(path, lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}))
    write_text(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return path
