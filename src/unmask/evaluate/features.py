"""Frozen features of a labelled source, read once for any number of models."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int64, Shaped
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from unmask.data import EvaluationLoader, Source, labels_of, normalise
from unmask.data.arrays import Bits
from unmask.encoders import Encoder
from unmask.errors import UserError

PIXELS_SIDE = 32

# One vector for each image of a batch, of 8, 16 or 32 bits.
Extractor = Callable[[Shaped[Tensor, "B C H W"]], Float[Tensor, "B D"]]


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
        pool: "mean" over the patches, or "cls", the class token.
        layer: the raw output of this block (stage of a Swin), negative ones counted from the end; None is the
            last one's after the final norm.
    """
    encoder.eval()
    check_choice(encoder, pool=pool, layer=layer)

    def vectors(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        take = () if layer is None else (layer,)
        features = encoder(normalise(images, mean, std), take=take)
        if layer is None:
            return features.pooled(pool)
        state = features.taps[0]
        return state[:, 0] if pool == "cls" else state[:, encoder.prefix :].mean(1)

    return vectors


def check_choice(encoder: Encoder, *, pool: str, layer: int | None) -> None:
    """Fail before the first image is read.

    Raises:
        UserError: the encoder has no such pooling or layer.
    """
    blank = torch.zeros(1, encoder.channels, *encoder.image_size, device=next(encoder.parameters()).device)
    try:
        with torch.inference_mode():
            encoder(blank, take=() if layer is None else (layer,)).pooled(pool)
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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task(description, total=len(source))
        for images, batch_labels, _ in loader:
            assert batch_labels is not None  # labels_of has seen them
            if mirror:
                images = images.flip(-1)
            images = images.to(device, non_blocking=True)
            for name, extractor in extractors.items():
                found[name].append(extractor(images).float().cpu())
            labels.append(batch_labels)
            bar.advance(task, len(images))
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(labels)
