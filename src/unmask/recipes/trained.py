"""Trained tokenizers read back: from a run, from the files that it hands over."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unmask.errors import UserError
from unmask.tokenizers import TOKENIZERS, Tokenizer

FORMAT = 1
WEIGHTS = "tokenizer.safetensors"
NEEDED = {"format", "name", "options", "image_size", "channels", "made_by"}


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A trained tokenizer, frozen, in evaluation mode, on the CPU.

    Args:
        path: folder of a finished run of `unmask tokenizer`, or of `tokenizer.safetensors` and
            `tokenizer.json`; or such a `.safetensors` file, also of a run that goes on.

    Raises:
        UserError: nothing there, a run that has not finished, damaged or foreign weights.
    """
    weights = weights_of(path)
    card = read_card(weights.with_suffix(".json"))
    if Path(path).expanduser().is_dir():
        _require_finished(Path(path), card["made_by"])
    tokenizer = TOKENIZERS[card["name"]]
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn first, which should disturb nobody
        built = tokenizer(image_size=tuple(card["image_size"]), channels=card["channels"], **card["options"])
    try:
        built.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{weights} does not hold the weights that its card tells of: {error}") from error
    return built.requires_grad_(False).eval()


def weights_of(path: str | Path) -> Path:
    """The file of a tokenizer's weights.

    Raises:
        UserError: there is none.
    """
    given = Path(path).expanduser()
    weights = given / WEIGHTS if given.is_dir() else given
    if weights.is_file():
        return weights
    if (given / "recipe.json").is_file():
        raise UserError(
            f"{given} holds no tokenizer: no {WEIGHTS}. If it is a run of `unmask tokenizer`, go on with it: "
            "the same command and --resume."
        )
    raise UserError(
        f"there is no tokenizer {given}; give the folder of a run of `unmask tokenizer`, or a "
        f"{WEIGHTS} with its card beside it"
    )


def read_card(path: Path) -> dict[str, Any]:
    """`tokenizer.json`: how to build the tokenizer, what it was trained on, how its codes are used.

    Raises:
        UserError: it is missing, damaged, or of a tokenizer that this version does not know.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if missing := NEEDED - card.keys():
            raise KeyError(*sorted(missing))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is no tokenizer's card ({error!r}); a tokenizer is a pair of files, NAME.safetensors "
            "and NAME.json"
        ) from error
    if card["format"] != FORMAT or card["name"] not in TOKENIZERS:
        raise UserError(
            f"{path} tells of a {card['name']!r} in format {card['format']}; this version reads "
            f"{', '.join(TOKENIZERS)} in format {FORMAT}. Update unmask."
        )
    return dict(card)


def fingerprint(path: str | Path) -> str:
    """What tells a tokenizer's weights from all others: the SHA-256 of their file."""
    with weights_of(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_finished(run: Path, made_by: dict[str, Any]) -> None:
    step, total = made_by.get("step"), made_by.get("steps")
    if step != total:
        raise UserError(
            f"the tokenizer in {run} is not finished: step {step:,} of {total:,}. Go on with its run "
            f"(--resume), or name {run / WEIGHTS} to use it as it is."
        )
