"""Trained tokenizers read back: from a run, from the files that it hands over, from official files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unmask.errors import UserError
from unmask.masking import Grid
from unmask.reading import read_checkpoint
from unmask.tokenizers import DVAE, TOKENIZERS, Tokenizer
from unmask.tokenizers.official import from_official

FORMAT = 1
WEIGHTS = "tokenizer.safetensors"
NEEDED = {"format", "name", "options", "image_size", "channels", "made_by"}


def load_tokenizer(path: str | Path, *, grid: Grid | None = None) -> Tokenizer:
    """A trained tokenizer, frozen, in evaluation mode, on the CPU.

    Args:
        path: folder of a finished run of `unmask tokenizer`, or of `tokenizer.safetensors` and
            `tokenizer.json`; such a `.safetensors` file, also of a run that goes on; or an official file of
            DALL-E's dVAE (both halves in one) or BEiT v2's VQ-KD.
        grid: rows and columns of codes that are wanted of DALL-E's dVAE, which takes images of any size; None
            is what BEiT has, 14 x 14. All others have the grid that they were trained with.

    Raises:
        UserError: nothing there, a run that has not finished, damaged or foreign weights.
    """
    weights = weights_of(path)
    card_path = weights.with_suffix(".json")
    if not card_path.is_file() and Path(path).expanduser().is_file():
        return _official(weights, grid)
    card = read_card(card_path)
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


def _official(file: Path, grid: Grid | None) -> Tokenizer:
    """The tokenizer that somebody else's file holds."""
    weights = read_checkpoint(file).weights
    try:
        with torch.random.fork_rng(devices=[]):
            found = from_official(weights)
            if grid is not None and isinstance(found, DVAE) and found.grid != grid:
                size = (grid[0] * found.stride, grid[1] * found.stride)
                found = from_official(weights, image_size=size)
    except ValueError as error:
        raise UserError(
            f"{file} has no card, {file.with_suffix('.json').name}, beside it, as tokenizers have that were "
            f"trained here, and it is no official tokenizer: {error}"
        ) from error
    return found


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
            f"{given} holds no tokenizer, no {WEIGHTS}: only runs of `unmask tokenizer` get one, when they "
            "save; go on with such a run by --resume."
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


def bits_of(path: str | Path) -> Any:
    """Bits of a channel of the images that a tokenizer was trained on; official ones saw 8."""
    card = weights_of(path).with_suffix(".json")
    return read_card(card)["bits"] if card.is_file() else 8


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
