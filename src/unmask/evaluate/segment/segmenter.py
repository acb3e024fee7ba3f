"""A network that gives every pixel a class: backbone, neck, UPerNet, and how it reads pictures."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unmask.data import normalise
from unmask.data.arrays import Bits, open_picture
from unmask.data.decode import load_pixels
from unmask.engine.files import put, write_text
from unmask.errors import UserError
from unmask.evaluate.segment.augment import resized, scaled_size
from unmask.evaluate.segment.head import Norm, PlainHead, UPerNet, enlarged
from unmask.evaluate.segment.slide import slide
from unmask.export.onnx import Graph, write_graph
from unmask.export.saved import tensors_of
from unmask.neck_parts import Maps
from unmask.necks import Backbone, rebuilt_backbone

FORMAT = 1
WEIGHTS, CARD = "segmenter.safetensors", "segmenter.json"
AUXILIARY_MAP = 2  # the third of the four, of stride 16


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a picture becomes what the network sees.

    Attributes:
        short_side: pixels that the shorter side of a picture is scaled to; None leaves pictures as they are.
        stride: share of a window's side between two windows of a picture that is larger.
        mean: a value a channel, of pixels in [0, 1].
        std: likewise.
        bits: of a channel, see `unmask.data.arrays`.
    """

    short_side: int | None
    stride: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bits: Bits = 8


class Segmenter(nn.Module):
    """Images to class scores of every pixel.

    Attributes:
        backbone: encoder and neck.
        head: UPerNet.
        classes: their names, in the order of the scores.
        reading: how pictures are prepared.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: Sequence[str],
        reading: Reading,
        width: int = 512,
        dropout: float = 0.1,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = UPerNet(backbone.channels, len(classes), width=width, dropout=dropout, norm=norm)
        self.classes, self.reading = tuple(classes), reading
        self._head_options: dict[str, Any] = {"width": width, "dropout": dropout, "norm": norm}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the window that the network takes."""
        return self.backbone.image_size

    @property
    def channels(self) -> int:
        return self.backbone.encoder.channels

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Class scores (logits) of every pixel.

        Args:
            images: normalised by `reading`, of `image_size`.
        """
        return enlarged(self.head(self.backbone(images)), images.shape[2:])

    @torch.no_grad()
    def scores(self, pixels: Shaped[np.ndarray, "H W C"], *, batch_size: int = 8) -> Float[Tensor, "K H W"]:
        """Class scores of a picture of any size, in its own resolution, on the network's device.

        Args:
            pixels: as read, of `reading.bits`.
            batch_size: windows at a time.
        """
        size = pixels.shape[0], pixels.shape[1]
        wanted = scaled_size(*size, self.reading.short_side)
        picture = resized(pixels, (0, 0, size[1], size[0]), wanted)[None].to(self.device)
        image = normalise(picture, self.reading.mean, self.reading.std)[0]
        window = self.image_size
        stride = (max(1, int(window[0] * self.reading.stride)), max(1, int(window[1] * self.reading.stride)))
        found = slide(self, image, window=window, stride=stride, batch_size=batch_size)
        return enlarged(found[None], size)[0]

    def predict(self, picture: Image.Image | np.ndarray) -> Int64[np.ndarray, "H W"]:
        """The class of every pixel of a picture of any size, as an index into `classes`.

        Args:
            picture: a Pillow image, or an array [H, W, C].
        """
        return self.scores(self.pixels_of(picture)).argmax(0).cpu().numpy()

    def pixels_of(self, picture: Image.Image | np.ndarray) -> Shaped[np.ndarray, "H W C"]:
        """A picture upright, with the channels and depth that the network takes."""
        opened = open_picture(picture, self.channels, self.reading.bits)
        if isinstance(opened, Image.Image):
            return np.atleast_3d(np.asarray(load_pixels(opened, self.channels)[0]))
        return opened

    def to_onnx(self, path: str | Path) -> Path:
        """Write it as an ONNX graph: `images` [B, C, h, w], normalised by `reading`, of `image_size`, to
        `scores` [B, K, h, w]. Where onnxruntime is installed, its scores are compared with PyTorch's first.

        Args:
            path: ends in `.onnx`. What the graph needs to know lies beside it as JSON, and in the file.

        Raises:
            UserError: onnx or onnxscript is not installed.
            RuntimeError: onnxruntime computes other scores.
        """
        reading = {name: asdict(self.reading)[name] for name in ("mean", "std", "bits")}
        return write_graph(_ScoreGraph(self), self.card | reading, Path(path))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def card(self) -> dict[str, Any]:
        """What rebuilds it, plain data."""
        return {
            "format": FORMAT,
            "backbone": self.backbone.architecture,
            "head": self._head_options,
            "classes": list(self.classes),
            "reading": asdict(self.reading),
        }


class _ScoreGraph(Graph):
    """A segmenter's scores, on the CPU."""

    outputs = ("scores",)

    def __init__(self, segmenter: Segmenter) -> None:
        shape, reading = (segmenter.channels, *segmenter.image_size), segmenter.reading
        super().__init__(segmenter, shape, mean=reading.mean, std=reading.std, normalise=False)
        self.cpu()

    def answers(self, images: Float[Tensor, "B C h w"]) -> tuple[Tensor, ...]:
        return (self.network(images),)


class Training(nn.Module):
    """What is trained: a segmenter, and beside it a plain head on an inner map that helps it to learn.

    Args:
        auxiliary_width: of the plain head, 256 in the published runs; 0 leaves it out.
    """

    def __init__(self, segmenter: Segmenter, *, auxiliary_width: int = 256, norm: Norm = "batch") -> None:
        super().__init__()
        self.segmenter = segmenter
        channels, classes = segmenter.backbone.channels[AUXILIARY_MAP], len(segmenter.classes)
        self.auxiliary = (
            PlainHead(channels, classes, width=auxiliary_width, norm=norm) if auxiliary_width else None
        )

    def forward(
        self, images: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B K H W"], Float[Tensor, "B K H W"] | None]:
        """Class scores of the segmenter, and of the plain head."""
        maps: Maps = self.segmenter.backbone(images)
        size = images.shape[2:]
        scores = enlarged(self.segmenter.head(maps), size)
        if self.auxiliary is None:
            return scores, None
        return scores, enlarged(self.auxiliary(maps[AUXILIARY_MAP]), size)


def save_segmenter(segmenter: Segmenter, folder: Path, *, made_by: dict[str, Any]) -> Path:
    """Write `segmenter.safetensors` and `segmenter.json`, whole or not at all.

    Args:
        made_by: what trained it, plain data.
    """
    tensors = tensors_of(segmenter)
    put(folder / WEIGHTS, lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}))
    write_text(folder / CARD, json.dumps({**segmenter.card, "made_by": made_by}, indent=2) + "\n")
    return folder / WEIGHTS


def load_segmenter(folder: str | Path) -> Segmenter:
    """A segmenter in eval mode, on the CPU; calling it takes images [B, C, H, W], `predict` takes pictures.

    Args:
        folder: that `unmask evaluate segment` wrote.

    Raises:
        UserError: nothing there, or damaged or foreign weights.
    """
    path = Path(folder).expanduser()
    for needed in (CARD, WEIGHTS):
        if not (path / needed).is_file():
            raise UserError(f"{path} has no {needed}; give the folder of a run of `unmask evaluate segment`.")
    try:
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise UserError(
                f"{path / CARD} has format {card['format']}; this version reads {FORMAT}. Update unmask."
            )
        reading: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in card["reading"].items()
        }
        segmenter = Segmenter(
            rebuilt_backbone(card["backbone"]),
            classes=card["classes"],
            reading=Reading(**reading),
            **card["head"],
        )
        segmenter.load_state_dict(load_file(path / WEIGHTS), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path / WEIGHTS} is damaged, or not of its card ({error}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / CARD} is no segmenter's card ({error!r}).") from error
    return segmenter.eval()
