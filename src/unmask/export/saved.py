"""Encoders on disk, as runs write them.

A saved encoder is two files: `encoder.safetensors`, the timm model's own state_dict, and `encoder.json`, its
card: how to build the model, how to normalise images, where it comes from, and the lines of Python that load
it with timm alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models import model_entrypoint
from torch import Tensor, nn

from unmask.encoders import Encoder
from unmask.encoders.itpn import Pyramid
from unmask.engine.files import put, write_text
from unmask.load import FORMAT, WEIGHTS, beside_encoder

_SNIPPET = """\
import timm
{registers}from safetensors.torch import load_file

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
    pyramid: Pyramid | None = None,
) -> Path:
    """Write weights and card, each of them whole or not at all; the path of the weights.

    Args:
        folder: made if it is missing; files of the same names are replaced.
        mean: of pixels in 0..1, one for each channel: what the encoder was trained with.
        std: likewise.
        bits: of a channel of the images; with 32, mean and std are of the numbers as they are.
        made_by: provenance, plain data: method, recipe, step, version.
        file: name of the weights, ending in `.safetensors`; the card is called alike.
        pyramid: that was trained together with the encoder; written beside it, for `load_pyramid`.
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
    card["load"] = snippet(card, file)
    text = json.dumps(card, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(encoder.model)
    put(path, lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}))
    write_text(path.with_suffix(".json"), text)
    if pyramid is not None:
        save_pyramid(pyramid, beside_encoder(path))
    return path


def save_pyramid(pyramid: Pyramid, path: Path) -> None:
    """Write a pyramid's weights, whole or not at all; what rebuilds it is in the file's metadata."""
    tensors = tensors_of(pyramid)
    about = {"format": "pt", "architecture": json.dumps(pyramid.architecture)}
    put(path, lambda unfinished: save_file(tensors, unfinished, metadata=about))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict on the CPU, contiguous, floating point numbers as float32."""
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }


def unit_of(card: dict[str, Any]) -> str:
    """What pixels are before they are normalised, to follow a shape."""
    return ", the numbers as the files hold them" if card.get("bits", 8) == 32 else " in 0..1"


def registers(model_name: str) -> str:
    """The line of Python that makes timm know a backbone that is not its own; empty for all others."""
    ours = model_entrypoint(model_name).__module__.startswith("unmask.")
    return "import unmask.encoders  # timm has no such model; this adds it\n" if ours else ""


def snippet(card: dict[str, Any], file: str) -> str:
    """Python that loads the weights with timm and safetensors alone."""
    architecture = json.loads(json.dumps(card["architecture"]))
    model_name = architecture.pop("model_name")
    height, width = card["image_size"]
    return _SNIPPET.format(
        registers=registers(model_name),
        arguments=", ".join(
            [repr(model_name), *(f"{name}={value!r}" for name, value in architecture.items())]
        ),
        file=file,
        channels=card["channels"],
        height=height,
        width=width,
        unit=unit_of(card),
        mean=card["mean"],
        std=card["std"],
    )
