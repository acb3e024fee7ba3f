"""Encoders on disk: written by a run, handed over as ordinary timm models.

A saved encoder is two files: `encoder.safetensors`, the timm model's own state_dict, and `encoder.json`, its
card: how to build the model, how to normalise images, where it comes from, and the lines of Python that load
it with timm alone.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from unmask.encoders import Encoder
from unmask.engine.files import LEFTOVER, beside, flush, write_text
from unmask.errors import UserError
from unmask.load import FORMAT, WEIGHTS, is_path, load_encoder, read_card

__all__ = ["FORMATS", "export", "load_encoder", "read_card", "save_encoder"]

FORMATS = ("timm", "safetensors")

_SNIPPET = """\
import timm
from safetensors.torch import load_file

model = timm.create_model({arguments})
model.load_state_dict(load_file({file!r}), strict=True)
model.eval()
# images: [B, {channels}, {height}, {width}]{unit}, then (images - mean) / std, channel by channel:
mean, std = {mean}, {std}
# features = model.forward_features(images)
"""


def save_encoder(
    encoder: Encoder,
    folder: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    bits: int = 8,
    made_by: dict[str, Any],
    file: str = WEIGHTS,
) -> Path:
    """Write weights and card, each of them whole or not at all; the path of the weights.

    Args:
        folder: made if it is missing; files of the same names are replaced.
        mean: of pixels in 0..1, one for each channel: what the encoder was trained with.
        std: likewise.
        bits: of a channel of the images; with 32, mean and std are of the numbers as they are.
        made_by: provenance, plain data: method, recipe, step, version.
        file: name of the weights, ending in `.safetensors`; the card is called alike.
    """
    path = folder / file
    card = {
        "format": FORMAT,
        "architecture": encoder.architecture,
        "image_size": list(encoder.image_size),
        "channels": encoder.channels,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "bits": bits,
        "patch_size": encoder.patch_size,
        "stride": encoder.stride,
        "dim": encoder.dim,
        "pool": "mean",
        "made_by": made_by,
    }
    card["load"] = _snippet(card, file)
    text = json.dumps(card, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(encoder.model)
    _put(path, lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}))
    write_text(path.with_suffix(".json"), text)
    return path


def export(run: str | Path, *, to: str, out: str | Path | None = None) -> Path:
    """Hand over a run's encoder.

    Args:
        run: a run folder, or whatever else holds a saved encoder.
        to: "timm", a folder in the layout of timm's hub models, for
            `timm.create_model("local-dir:FOLDER", pretrained=True)` and for uploading; "safetensors", one
            file of weights with its card beside it.
        out: the folder, or the `.safetensors` file; None is `export/timm` or `export/encoder.safetensors`
            inside the run. Earlier exports there are replaced.

    Returns:
        What was written: the folder or the weights.
    """
    if to not in FORMATS:
        raise UserError(f"Cannot export to {to!r}; possible are {' and '.join(FORMATS)}.")
    if not is_path(run) or not Path(run).expanduser().exists():
        raise UserError(f"There is no run folder {run}; give one that a pre-training wrote.")
    weights, card = read_card(run)
    encoder = load_encoder(run)
    home = weights.parent / "export"
    if to == "timm":
        folder = home / "timm" if out is None else Path(out).expanduser()
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; a timm export is a folder.")
        _export_timm(encoder, card, folder)
        return folder
    target = home / WEIGHTS if out is None else Path(out).expanduser()
    if target.suffix != ".safetensors":
        target = target / WEIGHTS
    return save_encoder(
        encoder,
        target.parent,
        mean=card["mean"],
        std=card["std"],
        bits=card.get("bits", 8),
        made_by=card.get("made_by", {}),
        file=target.name,
    )


def _put(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a file beside `path`, then put it in place: readers see the old or the new one."""
    unfinished = beside(path)
    try:
        write(unfinished)
        flush(unfinished)
        unfinished.replace(path)
        flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict on the CPU, contiguous, floating point numbers as float32."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }


def _export_timm(encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    arguments = {name: value for name, value in encoder.architecture.items() if name != "model_name"}
    shown = {
        "input_size": [encoder.channels, *encoder.image_size],
        "mean": card["mean"],
        "std": card["std"],
        "num_classes": 0,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        # What timm says of its own weights of that name is not true of these.
        **dict.fromkeys(("license", "origin_url", "paper_name", "paper_ids", "notes")),
        "tag": "unmask",
    }
    with torch.device("meta"):  # the weights come from the encoder; this model only describes itself
        model = timm.create_model(**encoder.architecture, pretrained_cfg_overlay=shown)
    model.load_state_dict(_tensors(encoder.model), strict=True, assign=True)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=LEFTOVER, dir=folder) as part:
        save_for_hf(model, part, model_args=arguments, safe_serialization=True)
        for name in ("model.safetensors", "config.json"):
            _put(folder / name, Path(part, name).rename)


def _snippet(card: dict[str, Any], file: str) -> str:
    architecture = json.loads(json.dumps(card["architecture"]))
    model_name = architecture.pop("model_name")
    height, width = card["image_size"]
    return _SNIPPET.format(
        arguments=", ".join(
            [repr(model_name), *(f"{name}={value!r}" for name, value in architecture.items())]
        ),
        file=file,
        channels=card["channels"],
        height=height,
        width=width,
        unit=" in 0..1" if card["bits"] != 32 else ", the numbers as the files hold them",
        mean=card["mean"],
        std=card["std"],
    )
