"""What is evaluated: an encoder from a run, a file, timm or the caller, or the pixels themselves."""

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from unmask.data.arrays import Bits
from unmask.encoders import Encoder, rebuilt
from unmask.encoders.base import ImageSize, height_and_width
from unmask.evaluate.features import PIXELS_SIDE, Extractor, Place, features_at, pixels
from unmask.load import RANDOM, is_path, load_encoder, read_card, resized
from unmask.recipes.base import Choice
from unmask.recipes.build import build_encoder
from unmask.runs import read_recipe, task_of

PIXELS = "pixels"


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        name: as given by the user.
        encoder: None for raw pixels.
        image_size: height and width in pixels.
        mean: None is ImageNet's; so is std.
        bits: of a channel.
        run: the run folder it comes from, if any.
        made_by: provenance from the card.
    """

    name: str
    encoder: Encoder | None
    image_size: tuple[int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bits: Bits = 8
    run: Path | None = None
    made_by: dict[str, Any] | None = None

    @property
    def channels(self) -> int:
        return 3 if self.encoder is None else self.encoder.channels

    def extractor(self, places: Collection[Place], device: str) -> Extractor:
        """Its features of these places on a device; pixels have none to choose from."""
        if self.encoder is None:
            return pixels
        return features_at(self.encoder.to(device), places, mean=self.mean, std=self.std)


def find_subject(run_or_name: str | Path | Encoder, *, image_size: ImageSize | None, seed: int) -> Subject:
    """Load what is to be evaluated; it is the caller's to change.

    Args:
        seed: of random weights.
    """
    if image_size is not None:
        image_size = height_and_width(image_size)
    if isinstance(run_or_name, Encoder):
        encoder = copy.deepcopy(run_or_name)
        if image_size is not None and image_size != encoder.image_size:
            encoder = resized(encoder, image_size)
        return Subject(encoder.architecture["model_name"], encoder, encoder.image_size)
    if run_or_name == PIXELS:
        return Subject(PIXELS, None, image_size or (PIXELS_SIDE, PIXELS_SIDE))
    if is_path(run_or_name):
        weights, card = read_card(run_or_name)
        encoder = load_encoder(run_or_name, image_size=image_size)
        run = weights.parent if (weights.parent / "recipe.json").is_file() else None
        if run is not None and task_of(run) is not None:
            run = None  # something learned from labels: it has no log of a pre-training, nor its recipe
        return Subject(
            str(run_or_name),
            encoder,
            encoder.image_size,
            mean=tuple(card["mean"]),
            std=tuple(card["std"]),
            bits=card.get("bits", 8),
            run=run,
            made_by=card.get("made_by"),
        )
    name = str(run_or_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = load_encoder(name, image_size=image_size)
    if name.startswith(RANDOM):
        return Subject(name, encoder, encoder.image_size)
    published: Any = encoder.model.pretrained_cfg
    return Subject(
        name, encoder, encoder.image_size, mean=tuple(published["mean"]), std=tuple(published["std"])
    )


def untrained(subject: Subject, *, seed: int) -> Subject:
    """The same architecture with random weights: as the run drew them if it is a run, else as timm does."""
    assert subject.encoder is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _untrained(subject)
    if encoder.image_size != subject.image_size:
        encoder = resized(encoder, subject.image_size)
    return replace(subject, encoder=encoder)


def _untrained(subject: Subject) -> Encoder:
    assert subject.encoder is not None
    if subject.run is not None:
        recipe = read_recipe(subject.run)
        options = {**recipe.encoder.options, "pretrained": False}
        return build_encoder(
            recipe.model_copy(update={"encoder": Choice(name=recipe.encoder.name, **options)})
        )
    architecture = subject.encoder.architecture
    return rebuilt(architecture, image_size=subject.image_size, channels=subject.channels)
