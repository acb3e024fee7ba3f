"""Frozen features of a labelled source, read once for any number of models."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from unmask.data import EvaluationLoader, Source, labels_of, normalise
from unmask.data.arrays import Bits
from unmask.encoders import Encoder, Features
from unmask.engine.machine import default_workers
from unmask.errors import UserError

PIXELS_SIDE = 32

# One vector for each image of a batch, of 8, 16 or 32 bits.
Extractor = Callable[[Shaped[Tensor, "B C H W"]], Float[Tensor, "B D"]]


class Place(NamedTuple):
    """Where features are taken from an encoder.

    Attributes:
        layer: the raw output of this block (stage of a Swin), negative ones counted from the end; None is the
            last one's after the final norm.
        pool: how one vector is made of an image's tokens, see `Features.pooled`.
    """

    layer: int | None
    pool: str


def features_of(
    encoder: Encoder,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pool: str = "mean",
    layer: int | None = None,
) -> Extractor:
    """An encoder's frozen features; the encoder is put into eval mode.

    Args:
        mean: of pixels in 0..1, one for each channel, as the encoder was trained with; None is ImageNet's.
        std: likewise.
        pool: see `Place`.
        layer: likewise.
    """
    return features_at(encoder, [Place(layer, pool)], mean=mean, std=std)


def features_at(
    encoder: Encoder,
    places: Collection[Place],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Extractor:
    """As `features_of`, of several places in one pass; their vectors stand one behind the other."""
    encoder.eval()
    widths_of(encoder, places)

    def vectors(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        layers = layer_features(encoder, normalise(images, mean, std), {layer for layer, _ in places})
        return torch.cat([layers[layer].pooled(pool) for layer, pool in places], dim=1)

    return vectors


def layer_features(
    encoder: Encoder, images: Float[Tensor, "B C H W"], layers: Collection[int | None]
) -> dict[int | None, Features]:
    """Class token and patches as they leave each of the layers, in the sense of `Place`."""
    inner = [layer for layer in layers if layer is not None]
    last = encoder(images, take=inner)
    found: dict[int | None, Features] = {None: last}
    for layer, state in zip(inner, last.taps, strict=True):
        cls = state[:, 0] if encoder.has_cls else None
        found[layer] = Features(patches=state[:, encoder.prefix :], cls=cls)
    return found


def widths_of(encoder: Encoder, places: Collection[Place]) -> list[int]:
    """Length of the vectors of each place, known before the first image is read.

    Raises:
        UserError: the encoder has no such pooling or layer.
    """
    blank = torch.zeros(1, encoder.channels, *encoder.image_size, device=next(encoder.parameters()).device)
    try:
        with torch.inference_mode():
            layers = layer_features(encoder, blank, {layer for layer, _ in places})
            return [layers[layer].pooled(pool).shape[1] for layer, pool in places]
    except ValueError as error:
        raise UserError(str(error)) from error


def pixels(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
    """The image itself, averaged down to 32 x 32 and normalised by ImageNet's statistics: the baseline that
    any learned feature should beat."""
    small = torch.nn.functional.interpolate(normalise(images), size=(PIXELS_SIDE, PIXELS_SIDE), mode="area")
    return small.flatten(1)


@torch.inference_mode()
def extract(
    extractors: Mapping[str, Extractor],
    source: Source,
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    bits: Bits = 8,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "cpu",
    mirror: bool = False,
    description: str = "",
    progress: bool = False,
) -> tuple[dict[str, Float[Tensor, "n D"]], Int64[Tensor, " n"]]:
    """Features of the centre view of every image, by every extractor, and the labels; in memory, on the CPU.

    Files that cannot be read are left out, of features and labels alike.

    Args:
        mirror: look at the images flipped left to right.

    Raises:
        UserError: the source has no labels, or too many files cannot be read.
    """
    labels_of(source)
    loader = EvaluationLoader(
        source, image_size, batch_size=batch_size, workers=workers, channels=channels, bits=bits
    )
    found: dict[str, list[Tensor]] = {name: [] for name in extractors}
    labels: list[Tensor] = []
    for images, batch_labels, _ in watched(loader, len(source), description if progress else None):
        assert batch_labels is not None  # labels_of has seen them
        images = images.to(device, non_blocking=True)
        if mirror:
            images = images.flip(-1)
        for name, extractor in extractors.items():
            found[name].append(extractor(images).float().cpu())
        labels.append(batch_labels)
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(labels)


def workers_for(images: int, batch_size: int, wanted: int | None) -> int:
    """Processes that decode; unless a number is wanted, none where starting them would take longer."""
    if wanted is not None:
        return wanted
    return default_workers() if images >= 4 * batch_size else 0


Batch = tuple[Tensor, Tensor | None, Tensor]


def watched(batches: Iterable[Batch], images: int, description: str | None) -> Iterator[Batch]:
    """The batches, with a bar on the terminal that counts images; without one if there is no description."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=description is None) as bar:
        task = bar.add_task(description or "", total=images)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch[0]))
