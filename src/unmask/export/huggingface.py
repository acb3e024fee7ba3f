"""An encoder as a folder for Hugging Face transformers.

Plain ViTs, BEiTs, Swins and SwinV2s become transformers' own models (`native`). Everything else (registers,
rotary positions, no class token) keeps timm's files, which transformers loads through timm. Which of the two
is right is not guessed from the options of a model: the folder is loaded again, and its features are compared
with the encoder's.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from unmask.encoders import Encoder
from unmask.engine.files import put_all
from unmask.errors import UserError
from unmask.export.card import CROP, write_model_card
from unmask.export.native import NativeModel, native_model
from unmask.export.saved import registers
from unmask.export.timm import fill_timm

# Of transformers' features, relative to the largest. Rounding stays far below it; a mistake in small terms,
# such as the biases of relative positions early in a training, may not stay far above it.
TOLERANCE = 2e-5
WEIGHTS = "model.safetensors"

_LOAD = """\
import torch
{registers}from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("FOLDER")  # or "USER/NAME" once uploaded
model = AutoModel.from_pretrained("FOLDER").eval()
inputs = processor(Image.open("picture.jpg").convert("{mode}"), return_tensors="pt")
with torch.no_grad():
    states = model(**inputs).last_hidden_state  # {states}
"""


def write_huggingface(encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    """Weights, configuration, image processor and model card, whole or not at all.

    Args:
        card: of the encoder, see `save_encoder`.

    Raises:
        UserError: transformers is not installed.
        RuntimeError: transformers computes other features.
    """
    if find_spec("transformers") is None:
        raise UserError("An export to Hugging Face needs transformers: pip install 'unmask[huggingface]'")
    put_all(folder, lambda part: _fill(encoder, card, part))


def _fill(encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    model = native_model(encoder)
    if model is not None:
        _write_native(model, encoder, card, folder)
    if model is None or not _gives_the_features(encoder, folder):
        for file in folder.iterdir():
            file.unlink()
        _write_wrapped(encoder, card, folder)
        if not _gives_the_features(encoder, folder):
            raise RuntimeError(f"transformers computes other features: {encoder.architecture}")
    _write_card(encoder, card, folder)


def _write_native(model: NativeModel, encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(model.kind, **model.options)
    config.architectures = [model.name]
    config.save_pretrained(folder)
    save_file(model.tensors, folder / WEIGHTS, metadata={"format": "pt"})
    height, width = encoder.image_size
    full = {"height": round(height / CROP), "width": round(width / CROP)}
    transformers.BitImageProcessor(
        # transformers can cover a square, but a rectangle only by stretching the picture.
        size={"shortest_edge": full["height"]} if height == width else full,
        crop_size={"height": height, "width": width},
        resample=3,  # bicubic
        image_mean=card["mean"],
        image_std=card["std"],
        do_convert_rgb=encoder.channels == 3,
    ).save_pretrained(folder)


def _write_wrapped(encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    """timm's files, as transformers reads them: it names the number of classes itself, and once is enough."""
    fill_timm(encoder, card, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_args"].pop("num_classes", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def _gives_the_features(encoder: Encoder, folder: Path) -> bool:
    """Whether transformers reads every weight of the folder and computes the encoder's features."""
    from transformers import AutoModel

    try:
        with _quiet():
            model, report = AutoModel.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    except (RuntimeError, ValueError):  # tensors of other shapes, or a combination that it does not know
        return False
    if any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        return False
    images = torch.rand(2, encoder.channels, *encoder.image_size)
    expected = encoder.eval()(images)
    states = model.eval()(images).last_hidden_state.flatten(1, -2)
    count = expected.patches.shape[1]
    pairs = [(states[:, -count:], expected.patches)]
    pairs += [] if expected.cls is None else [(states[:, 0], expected.cls)]
    return all(
        found.shape == wanted.shape
        and (found - wanted).abs().max().item() <= TOLERANCE * max(1.0, wanted.abs().max().item())
        for found, wanted in pairs
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no warnings of transformers about a folder that is only looked at."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _write_card(encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    count = encoder.feature_grid[0] * encoder.feature_grid[1]
    front = f"{encoder.prefix} + " if encoder.prefix else ""
    kind = "class token and " if encoder.has_cls else ""
    states = f"[1, {front}{count}, {encoder.dim}]: {kind}patches in raster order"
    mode = {1: "L", 4: "RGBA"}.get(encoder.channels, "RGB")
    line = registers(encoder.architecture["model_name"])
    load = _LOAD.format(registers=line, mode=mode, states=states)
    write_model_card(folder, card, library="transformers", load=load)
