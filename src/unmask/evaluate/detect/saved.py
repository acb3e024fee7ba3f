"""A trained detector on disk, and read back."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from unmask.data.decode import MODES, DecodeError, as_upright, decode
from unmask.encoders import rebuilt
from unmask.encoders.itpn import Pyramid
from unmask.engine.files import put, write_text
from unmask.errors import UserError
from unmask.evaluate.detect.detector import Detector, Heads
from unmask.evaluate.detect.found import Found, look
from unmask.load import check_weights

FORMAT = 1
WEIGHTS, CARD = "detector.safetensors", "detector.json"

AnyPicture = str | Path | Image.Image | UInt8[NDArray, "H W _"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What rebuilds a detector, and what its numbers mean; plain data.

    Attributes:
        architecture: of the encoder.
        pyramid: of the feature pyramid that was pre-trained with it; None if there is none.
        heads: fields of `Heads`.
        masks: whether it makes masks.
        names, ids: of the categories, as in the training set's file.
        image_size: height and width of the canvas.
        short_side: of a picture on it, in pixels, if that fits; None: as large as fits.
        mean, std: a channel, for pixels in [0, 1].
        made_by: the run.
    """

    architecture: dict[str, Any]
    pyramid: dict[str, Any] | None
    heads: dict[str, Any]
    masks: bool
    names: Sequence[str]
    ids: Sequence[int]
    image_size: Sequence[int]
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    made_by: dict[str, Any]
    short_side: int | None = None


class TrainedDetector(nn.Module):
    """A detector for pictures of any size, as `load_detector` returns it.

    Attributes:
        detector: the network itself, for images of one size.
        card: what it was trained for.
    """

    def __init__(self, detector: Detector, card: Card) -> None:
        super().__init__()
        self.detector = detector
        self.card = card

    @property
    def names(self) -> tuple[str, ...]:
        """Of the categories that `Found.categories` count."""
        return tuple(self.card.names)

    def find(
        self, pictures: Sequence[AnyPicture], *, threshold: float = 0.5, batch_size: int = 8
    ) -> list[Found]:
        """What is on each picture.

        Args:
            pictures: files, pictures of Pillow, or arrays [H, W, channels] of 8 bits. Pillow's are read as
                their files are: upright, transparency on white.
            threshold: score in [0, 1] from which something counts as found; what scores less than the
                recipe's `heads.score_threshold` (0.05) is never found.

        Raises:
            UserError: a file that is missing or no picture, an array that is none, one picture alone.
        """
        batch = isinstance(pictures, np.ndarray) and pictures.ndim == 4
        if isinstance(pictures, str | Path | Image.Image | np.ndarray) and not batch:
            raise UserError("find() takes a list of pictures, also for a single one: find([picture]).")
        device = next(self.parameters()).device
        options: dict[str, Any] = {
            "canvas": (self.card.image_size[0], self.card.image_size[1]),
            "mean": self.card.mean,
            "std": self.card.std,
            "device": device,
            "short_side": self.card.short_side,
        }
        found: list[Found] = []
        for part in _batches(pictures, batch_size):
            found += look(self.detector, [_opened(one, self.card.channels) for one in part], **options)
        return [one.surest(threshold) for one in found]


def save_detector(detector: Detector, card: Card, folder: Path) -> Path:
    """Write the weights and the card, and return the folder."""
    weights = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    put(folder / WEIGHTS, lambda path: save_file(weights, path, metadata={"format": "pt"}))
    write_text(folder / CARD, json.dumps({"format": FORMAT, **asdict(card)}, indent=2) + "\n")
    return folder


def load_detector(folder: str | Path) -> TrainedDetector:
    """A detector that `unmask evaluate detect` trained, in eval mode, on the CPU.

    Args:
        folder: with `detector.safetensors` and `detector.json`.

    Raises:
        UserError: nothing there, or damaged or foreign files.
    """
    folder = Path(folder).expanduser()
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}; give a folder that `unmask evaluate detect` wrote, after it ended."
            )
    card, heads = _read_card(folder / CARD)
    size = (card.image_size[0], card.image_size[1])
    encoder = rebuilt(card.architecture, image_size=size, channels=card.channels)
    pyramid = None if card.pyramid is None else Pyramid(**card.pyramid)
    detector = Detector(encoder, heads, classes=len(card.names), masks=card.masks, pyramid=pyramid)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is damaged ({error}).") from error
    check_weights(weights, detector.state_dict(), folder / WEIGHTS)
    detector.load_state_dict(weights)
    return TrainedDetector(detector, card).eval()


def _read_card(path: Path) -> tuple[Card, Heads]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise UserError(f"{path} is of another format than this version reads ({FORMAT}). Update unmask.")
        card = Card(**content)
        if "model_name" not in card.architecture:
            raise KeyError("model_name")
        return card, Heads(**card.heads)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a detector's card ({error!r}).") from error


def _batches(pictures: Sequence[AnyPicture], size: int) -> Iterator[Sequence[AnyPicture]]:
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


def _opened(picture: AnyPicture, channels: int) -> Image.Image:
    if isinstance(picture, np.ndarray):
        picture = _of_array(picture)
    if isinstance(picture, Image.Image):
        return as_upright(picture, channels)
    path = Path(picture).expanduser()
    if not path.is_file():
        raise UserError(f"There is no picture {path}.")
    try:
        return decode(path.read_bytes(), channels)
    except DecodeError as error:
        raise UserError(f"{path}: {error}") from error


def _of_array(pixels: NDArray) -> Image.Image:
    grey = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if pixels.dtype != np.uint8 or not (grey.ndim == 2 or (grey.ndim == 3 and grey.shape[2] in MODES)):
        raise UserError(
            "An array must be a picture [height, width, channels] of 8 bits (uint8), 1, 3 or 4 channels, not "
            f"{pixels.dtype} of shape {list(pixels.shape)}."
        )
    return Image.fromarray(grey)
