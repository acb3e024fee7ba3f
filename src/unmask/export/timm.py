"""An encoder as a folder in the layout of timm's models on the Hugging Face hub."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

from unmask.encoders import Encoder
from unmask.engine.files import put_all
from unmask.export.card import CROP, write_model_card
from unmask.export.saved import registers, snippet, tensors_of

_LOAD = """\
import timm
{registers}
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:USER/NAME" once uploaded
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
# features = model.forward_features(transform(picture)[None])
"""


def write_timm(encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    """Weights, configuration and model card, whole or not at all.

    Args:
        card: of the encoder, see `save_encoder`.
    """
    put_all(folder, lambda part: fill_timm(encoder, card, part))


def fill_timm(encoder: Encoder, card: dict[str, Any], folder: Path) -> None:
    """The files themselves, in a folder that is there."""
    arguments = {name: value for name, value in encoder.architecture.items() if name != "model_name"}
    shown = {
        "input_size": [encoder.channels, *encoder.image_size],
        "mean": card["mean"],
        "std": card["std"],
        "num_classes": 0,
        "crop_pct": CROP,
        "interpolation": "bicubic",
        # What timm says of its own weights of that name is not true of these.
        **dict.fromkeys(("license", "origin_url", "paper_name", "paper_ids", "notes")),
        "tag": "unmask",
    }
    with torch.device("meta"):  # the weights come from the encoder; this model only describes itself
        model = timm.create_model(**encoder.architecture, pretrained_cfg_overlay=shown)
    model.load_state_dict(tensors_of(encoder.model), strict=True, assign=True)
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    older = snippet(card, "model.safetensors")
    load = _LOAD.format(registers=registers(encoder.architecture["model_name"]))
    write_model_card(
        folder, card, library="timm", load=load, note=f"timm before 1.0.31:\n\n```python\n{older}```\n"
    )
