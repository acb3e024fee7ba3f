"""A fine-tuned classifier handed over: as an ordinary timm model, to transformers, as an ONNX graph."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.models import save_for_hf
from torch import Tensor, nn

from unmask.engine.files import put_all
from unmask.errors import UserError
from unmask.export.onnx import Graph, write_graph
from unmask.export.saved import registers, tensors_of, unit_of
from unmask.runs import read_json

FILES = ("model.safetensors", "config.json", "README.md")
TOLERANCE = 1e-4  # of transformers' answers, relative to the largest

_CARD = """\
---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
---

# {title}

An image classifier of {count} classes, fine-tuned with unmask from {start}.

```python
{load}```

With timm alone, from the file of weights:

```python
{create}```

Classes, in the order of the logits: {classes}.
{note}"""

_LOAD = """\
import timm
{registers}
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or "hf-hub:USER/NAME" once uploaded
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
# probabilities = model(transform(picture)[None]).softmax(1)
"""


@dataclass(frozen=True, kw_only=True)
class About:
    """What others need to know of a classifier.

    Attributes:
        architecture: `timm.create_model(**architecture)` rebuilds it.
        image_size: height and width in pixels.
        bits: of a channel.
        crop_fraction: of the shorter side that is looked at.
        start: what it was fine-tuned from.
    """

    architecture: Mapping[str, Any]
    classes: Sequence[str]
    image_size: tuple[int, int]
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    bits: int = 8
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    start: str = ""


def write_classifier(model: nn.Module, about: About, folder: Path) -> None:
    """`model.safetensors`, `config.json` and `README.md`, whole or not at all: the layout of timm's models on
    the Hugging Face hub, which transformers reads too."""
    put_all(folder, lambda part: _fill(model, about, part))


def create_call(about: About, weights: str) -> str:
    """Python that builds the classifier with timm from a file of weights."""
    options = {name: value for name, value in about.architecture.items() if name != "model_name"}
    words = [f"{name}={value!r}" for name, value in options.items()]
    name = about.architecture["model_name"]
    lines = ",\n    ".join([repr(name), *words, f"checkpoint_path={weights!r}"])
    return f"import timm\n{registers(name)}\nmodel = timm.create_model(\n    {lines},\n).eval()\n"


def _fill(model: nn.Module, about: About, folder: Path) -> None:
    shown = {
        "input_size": [about.channels, *about.image_size],
        "mean": about.mean,
        "std": about.std,
        "num_classes": len(about.classes),
        "crop_pct": about.crop_fraction,
        "interpolation": about.interpolation,
        **dict.fromkeys(("license", "origin_url", "paper_name", "paper_ids", "notes")),
        "tag": "unmask",
    }
    arguments = {name: value for name, value in about.architecture.items() if name != "model_name"}
    with torch.device("meta"):  # the weights come from the model; this one only describes itself
        described = timm.create_model(**about.architecture, pretrained_cfg_overlay=shown)
    described.load_state_dict(tensors_of(model), strict=True, assign=True)
    names = {"label_names": list(about.classes)}
    save_for_hf(described, str(folder), model_config=names, model_args=arguments, safe_serialization=True)
    line = registers(about.architecture["model_name"])
    unit = unit_of({"bits": about.bits})
    note = (
        f"\nImages: {about.channels} channels; pixels{unit}, normalised by mean and std of `config.json`.\n"
    )
    (folder / "README.md").write_text(
        _CARD.format(
            title=about.architecture["model_name"],
            count=len(about.classes),
            start=about.start,
            load=_LOAD.format(registers=line),
            create=create_call(about, "model.safetensors"),
            classes=", ".join(about.classes),
            note=note if (about.channels, about.bits) != (3, 8) else "",
        ),
        encoding="utf-8",
    )


def load_classifier(run: Path) -> nn.Module:
    """The classifier of a fine-tuned run, in eval mode, on the CPU.

    Raises:
        UserError: the run has not written it yet.
    """
    if not (run / FILES[0]).is_file():
        raise UserError(f"{run} has no {FILES[0]}: the run has not finished; continue it with --resume.")
    # timm shows where it reads; `unmask.encoders`, imported with the exports, registers our own backbones.
    return timm.create_model(f"local-dir:{run.resolve()}", pretrained=True).eval()


def export_classifier(run: Path, *, to: str, target: Path, bits: int, normalise: bool) -> Path:
    """Hand over the classifier of a fine-tuned run.

    Args:
        to: "timm", "huggingface" (the same folder, checked with transformers) or "onnx" (its output: logits).
        target: the folder, or the file of the graph.
        bits: of a channel of the images.

    Raises:
        UserError: the run has not finished, or a package that the format needs is missing.
        RuntimeError: other software gives other answers.
    """
    model = load_classifier(run)
    if to == "onnx":
        config = read_json(run / "config.json")
        shown = config["pretrained_cfg"]
        architecture = {"model_name": config["architecture"], **config["model_args"]}
        about: dict[str, Any] = {"architecture": architecture}
        about |= {"classes": config["label_names"], "bits": bits, "crop_fraction": shown["crop_pct"]}
        about |= {"mean": list(shown["mean"]), "std": list(shown["std"])}
        shape = tuple(shown["input_size"])
        graph = _Logits(model, shape, mean=about["mean"], std=about["std"], normalise=normalise)
        return write_graph(graph, about, target)
    if to == "huggingface" and find_spec("transformers") is None:
        raise UserError("An export to Hugging Face needs transformers: pip install 'unmask[huggingface]'")
    put_all(target, lambda part: _copy(run, part, classes_once=to == "huggingface"))
    if to == "huggingface":
        _require_same_answers(
            model, target, tuple(read_json(run / "config.json")["pretrained_cfg"]["input_size"])
        )
    return target


def _copy(run: Path, folder: Path, *, classes_once: bool) -> None:
    """The files of a classifier; transformers names the number of classes itself, and once is enough."""
    for name in FILES:
        shutil.copy(run / name, folder / name)
    if classes_once:
        config = read_json(run / "config.json")
        config["model_args"].pop("num_classes", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class _Logits(Graph):
    outputs = ("logits",)

    def answers(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        return (self.network(images),)


@torch.inference_mode()
def _require_same_answers(model: nn.Module, folder: Path, shape: tuple[int, ...]) -> None:
    from transformers import AutoModelForImageClassification

    images = torch.rand(2, *shape)
    wanted = model(images)
    found = (
        AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()(images).logits
    )
    difference = (found - wanted).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, wanted.abs().max().item()):
        raise RuntimeError(f"transformers' answers differ from timm's by {difference:.1e}")
