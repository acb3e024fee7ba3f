"""What a worker does: read, decode and prepare the pictures of one batch."""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.arrays import Bits, open_picture
from unmask.data.decode import DecodeError
from unmask.data.files import Source
from unmask.data.views import Augment, Interpolation, View, evaluation_view, make_views

# Streams of random numbers: SeedSequence ignores trailing zeros, so each use needs a tag in front.
ORDER_STREAM, AUGMENT_STREAM = 1, 2


class Samples(NamedTuple):
    """What a worker sends: tensors by name (empty when nothing could be read) and the bad files it met.

    `marks`: see `Batch`.
    """

    tensors: dict[str, Tensor]
    bad: dict[str, str]
    complete: bool = True
    marks: Int64[Tensor, "B M"] | None = None


class AugmentedImages(Dataset):
    def __init__(
        self,
        source: Source,
        views: dict[str, View],
        augment: Augment,
        seed: int,
        allowed: int,
        crops: int | None = None,
        marked: tuple[str, ...] = (),
    ) -> None:
        self._source, self._views, self._augment = source, views, augment
        self._seed, self._allowed, self._crops, self._marked = seed, allowed, crops, marked

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Samples:
        bad: dict[str, str] = {}
        samples, marks = [], []
        for epoch, index in keys:
            crop = epoch if self._crops is None else epoch % self._crops
            sample = self._sample(crop, index, bad)
            if sample is None:
                return Samples({}, bad, complete=False)
            samples.append(sample)
            prints = [_fingerprint(sample[name]) for name in self._marked]
            marks.append([crop * len(self._source) + index, *prints])
        return Samples(_stack(samples), bad, marks=torch.tensor(marks) if self._marked else None)

    def _sample(self, crop: int, index: int, bad: dict[str, str]) -> dict[str, Tensor] | None:
        # More failures in a row than may be bad in all settle the matter; that also bounds the search.
        for attempt in range(min(self._allowed + 1, len(self._source))):
            candidate = (index + attempt) % len(self._source)
            # Drawn anew for each candidate from the place that it fills, not from the candidate's own number,
            # or the epoch would hold the same crop of it twice.
            generator = np.random.default_rng((AUGMENT_STREAM, self._seed, crop, index))
            try:
                # The file's bytes are not held any longer than its picture needs them.
                image = open_picture(self._source.read(candidate), self._augment.channels, self._augment.bits)
                return make_views(image, self._views, self._augment, generator)
            except (OSError, DecodeError) as error:
                bad[self._source.name(candidate)] = reason_of(error)
        return None


class CentreImages(Dataset):
    def __init__(
        self,
        source: Source,
        image_size: tuple[int, int],
        crop_fraction: float,
        interpolation: Interpolation,
        channels: int,
        bits: Bits,
    ) -> None:
        self._source, self._image_size, self._crop_fraction = source, image_size, crop_fraction
        self._interpolation, self._channels, self._bits = interpolation, channels, bits

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, indices: list[int]) -> Samples:
        bad: dict[str, str] = {}
        samples = []
        for index in indices:
            try:
                view = evaluation_view(
                    open_picture(self._source.read(index), self._channels, self._bits),
                    self._image_size,
                    crop_fraction=self._crop_fraction,
                    interpolation=self._interpolation,
                    channels=self._channels,
                )
            except (OSError, DecodeError) as error:
                bad[self._source.name(index)] = reason_of(error)
            else:
                samples.append({"images": view, "indices": torch.tensor(index)})
        return Samples(_stack(samples) if samples else {}, bad)


def _stack(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _fingerprint(view: Tensor) -> int:
    """Of the pixels of a view: 64 bits, not all of them 0."""
    digest = hashlib.blake2b(view.numpy().data, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def reason_of(error: Exception) -> str:
    """Why a file could not be read, for people."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
