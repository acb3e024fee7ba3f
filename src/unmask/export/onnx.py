"""Networks as ONNX graphs, for runtimes without PyTorch."""

import copy
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


class Graph(nn.Module, ABC):
    """What a graph computes.

    Args:
        network: is copied.
        shape: of an image: channels, height, width.
        mean: of pixels, a value a channel; so is std.
        normalise: whether the images still are to be normalised.

    Attributes:
        outputs: their names.
    """

    mean: Tensor
    std: Tensor
    outputs: tuple[str, ...]

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        normalise: bool,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        for module in self.network.modules():
            if "fused_attn" in vars(module):  # a fused kernel's memory layout may not survive the translation
                vars(module)["fused_attn"] = False
        self.shape, self.normalise = shape, normalise
        self.register_buffer("mean", rearrange(torch.tensor(mean), "c -> c 1 1"))
        self.register_buffer("std", rearrange(torch.tensor(std), "c -> c 1 1"))

    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        return self.answers((images - self.mean) / self.std if self.normalise else images)

    @abstractmethod
    def answers(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """The outputs for normalised images."""


class EncoderGraph(Graph):
    """Patches, class token if there is one, and the mean over the patches."""

    def __init__(self, encoder: Encoder, card: dict[str, Any], *, normalise: bool) -> None:
        shape = encoder.channels, *encoder.image_size
        super().__init__(encoder, shape, mean=card["mean"], std=card["std"], normalise=normalise)
        self.outputs = ("patches", *(["cls"] if encoder.has_cls else []), "pooled")

    def answers(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        features = self.network(images)
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
    about = {name: value for name, value in card.items() if name not in ("load", "pool")}
    return write_graph(
        EncoderGraph(encoder, card, normalise=normalise), about | {"crop_fraction": CROP}, path
    )


def write_graph(graph: Graph, about: dict[str, Any], path: Path) -> Path:
    """Write a graph and its card, as `write_onnx`.

    Args:
        about: for the card: mean, std, bits and whatever else is known.

    Raises:
        UserError, RuntimeError: likewise.
    """
    for needed in ("onnx", "onnxscript"):
        if find_spec(needed) is None:
            raise UserError(f"An export to ONNX needs {needed}: pip install 'unmask[onnx]'")
    channels, height, width = graph.shape
    unit = unit_of(about)
    values = {"mean": about["mean"], "std": about["std"]}
    about = {
        **about,
        "input": f"pixels{unit}" if graph.normalise else f"(pixels{unit} - mean) / std",
        "outputs": graph.outputs,
        "load": _LOAD.format(
            file=path.name,
            unit=unit,
            channels=channels,
            height=height,
            width=width,
            preparation="" if graph.normalise else _NORMALISE.format(**values),
        ),
    }

    def write(folder: Path) -> None:
        _write_graph(graph, folder / path.name, about)
        difference = _largest_difference(graph, folder / path.name)
        text = json.dumps({**about, "difference_from_pytorch": difference}, indent=2) + "\n"
        (folder / path.name).with_suffix(".json").write_text(text, encoding="utf-8")

    put_all(path.parent, write)
    return path


def _write_graph(graph: Graph, path: Path, about: dict[str, Any]) -> None:
    images = torch.rand(2, *graph.shape)
    with warnings.catch_warnings(), _quiet("onnxscript", "onnx_ir", "torch.onnx"):
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=list(graph.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["unmask"] = json.dumps(about)
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())
    program.save(path, external_data=size > ONE_FILE)


def _largest_difference(graph: Graph, path: Path) -> float | None:
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
        images = torch.rand(count, *graph.shape)
        with torch.inference_mode():
            expected = graph(images)
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
