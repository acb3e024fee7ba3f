"""An encoder as an ONNX graph, for runtimes without PyTorch."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unmask.encoders import Encoder
from unmask.engine.files import put_all
from unmask.errors import UserError
from unmask.export.card import CROP
from unmask.export.saved import unit_of

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)

TOLERANCE = 1e-4  # of onnxruntime's features, relative to the largest
ONE_FILE = 2**30  # bytes of weights; protobuf cannot hold twice as many

_LOAD = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({file!r})
# images: float32 [B, {channels}, {height}, {width}]{unit}{preparation}
names = [output.name for output in session.get_outputs()]
features = dict(zip(names, session.run(None, {{"images": images}})))
"""
_NORMALISE = """, then normalised:
mean, std = (np.float32(values)[:, None, None] for values in ({mean}, {std}))
images = (images - mean) / std"""


class Graph(nn.Module):
    """What the graph computes: patches, class token if there is one, and the mean over the patches.

    Args:
        normalise: whether the images still are in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, card: dict[str, Any], *, normalise: bool) -> None:
        super().__init__()
        self.encoder = translatable(encoder)
        self.normalise = normalise
        self.register_buffer("mean", rearrange(torch.tensor(card["mean"]), "c -> c 1 1"))
        self.register_buffer("std", rearrange(torch.tensor(card["std"]), "c -> c 1 1"))
        self.outputs = ["patches", *(["cls"] if encoder.has_cls else []), "pooled"]

    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        if self.normalise:
            images = (images - self.mean) / self.std
        features = self.encoder(images)
        cls = () if features.cls is None else (features.cls,)
        return (features.patches, *cls, features.pooled("mean"))


def write_onnx(encoder: Encoder, card: dict[str, Any], path: Path, *, normalise: bool) -> Path:
    """Write the graph and, beside it, its card, whole or not at all; the path of the graph.

    The input is `images`, any number of them, float32; the outputs are `patches` [B, N, D], `cls` [B, D]
    where there is a class token, and `pooled` [B, D], the mean over the patches. Where onnxruntime is
    installed, its features are compared with PyTorch's first. Weights of a gigabyte and more go to a file of
    their own.

    Args:
        card: of the encoder, see `save_encoder`.
        normalise: the graph takes pixels in 0..1 and normalises them itself.

    Raises:
        UserError: onnx or onnxscript is not installed.
        RuntimeError: onnxruntime computes other features.
    """
    require_onnx()
    graph = Graph(encoder, card, normalise=normalise)
    height, width = encoder.image_size
    shape = encoder.channels, height, width
    unit = unit_of(card)
    values = {"mean": card["mean"], "std": card["std"]}
    about = {
        **{name: value for name, value in card.items() if name not in ("load", "pool")},
        "input": f"pixels{unit}" if normalise else f"(pixels{unit} - mean) / std",
        "crop_fraction": CROP,
        "outputs": graph.outputs,
        "load": _LOAD.format(
            file=path.name,
            unit=unit,
            channels=encoder.channels,
            height=height,
            width=width,
            preparation="" if normalise else _NORMALISE.format(**values),
        ),
    }

    def write(folder: Path) -> None:
        write_graph(graph, shape, graph.outputs, folder / path.name, about)
        difference = largest_difference(graph, shape, folder / path.name)
        text = json.dumps({**about, "difference_from_pytorch": difference}, indent=2) + "\n"
        (folder / path.name).with_suffix(".json").write_text(text, encoding="utf-8")

    put_all(path.parent, write)
    return path


def require_onnx() -> None:
    """
    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    for needed in ("onnx", "onnxscript"):
        if find_spec(needed) is None:
            raise UserError(f"An export to ONNX needs {needed}: pip install 'unmask[onnx]'")


def translatable(network: Network) -> Network:
    """A copy in eval mode that computes the same in steps which the exporter knows."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if "fused_attn" in vars(module):  # a fused kernel's memory layout may not survive the translation
            vars(module)["fused_attn"] = False
    return network


def write_graph(
    graph: nn.Module, shape: tuple[int, int, int], outputs: list[str], path: Path, about: dict[str, Any]
) -> None:
    """Write a network that takes `images`, any number of them.

    Args:
        graph: returns a tensor, or one for each of the outputs; see `translatable`.
        shape: channels, height and width of an image.
        about: goes into the file, as JSON.
    """
    images = torch.rand(2, *shape)
    with warnings.catch_warnings(), _quiet("onnxscript", "onnx_ir", "torch.onnx"):
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["unmask"] = json.dumps(about)
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())
    program.save(path, external_data=size > ONE_FILE)


def largest_difference(graph: nn.Module, shape: tuple[int, int, int], path: Path) -> float | None:
    """Of onnxruntime's features from PyTorch's, relative to the largest; None without onnxruntime.

    Raises:
        RuntimeError: it is too large.
    """
    if find_spec("onnxruntime") is None:
        log.warning("%s was not checked: onnxruntime is not installed (unmask[onnx] brings it).", path.name)
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in (1, 3):  # neither is the number that the graph was traced with
        images = torch.rand(count, *shape)
        with torch.inference_mode():
            computed = graph(images)
        expected = (computed,) if isinstance(computed, Tensor) else computed
        for found, wanted in zip(session.run(None, {"images": images.numpy()}), expected, strict=True):
            scale = max(1.0, wanted.abs().max().item())
            largest = max(largest, (torch.from_numpy(found) - wanted).abs().max().item() / scale)
    if not largest <= TOLERANCE:
        raise RuntimeError(f"onnxruntime's features differ from PyTorch's by {largest:.1e} of the largest")
    return largest


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Loggers that only tell of errors meanwhile."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
