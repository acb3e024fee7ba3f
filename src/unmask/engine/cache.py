"""What frozen networks said of crops that come again, kept on disk.

An answer lies at the place of its crop among all crops of all images, in a folder named by all that decides
it beside pixels; the pixels themselves, as the loader made them, must be those that it was given for. A cache
of another teacher, other images or other crops is therefore never taken for this one's, without anybody
having to clear it.

What does not fit is not kept, and nothing makes room: every crop is asked for once in a cycle, where the
crops that were used longest ago are those that are needed next.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Int64, UInt8
from torch import Tensor

from unmask.engine.files import write_text
from unmask.engine.records import Records
from unmask.engine.space import disk_use, in_units
from unmask.errors import UserError
from unmask.targets import Coded, Question, Taught

log = logging.getLogger(__name__)

Answer = Taught | Coded


@dataclass(frozen=True)
class Part:
    """A tensor of an answer: what is kept of it for an image.

    Attributes:
        dtype: in the answer.
        kept: on disk, where all values are the same numbers: codes need no 64 bits.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    kept: torch.dtype

    @property
    def length(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.kept.itemsize


@dataclass(frozen=True)
class Layout:
    """How answers become records, and records answers: bit for bit the same."""

    kind: type[Answer]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, answer: Answer) -> "Layout":
        """That of all answers like this one."""
        parts = []
        for field in fields(answer):
            tensor = getattr(answer, field.name)
            if tensor is not None:
                kept = torch.int32 if tensor.dtype == torch.int64 else tensor.dtype
                parts.append(Part(field.name, tensor.shape[1:], tensor.dtype, kept))
        return cls(type(answer), tuple(parts))

    @property
    def length(self) -> int:
        """Bytes of a record."""
        return sum(part.length for part in self.parts)

    def pack(self, answer: Answer) -> UInt8[np.ndarray, "B length"]:
        """A record for every image."""
        tensors = [getattr(answer, part.name).to(part.kept).flatten(1).contiguous() for part in self.parts]
        return torch.cat([tensor.view(torch.uint8) for tensor in tensors], dim=1).cpu().numpy()

    def unpack(self, records: UInt8[np.ndarray, "B length"], device: torch.device) -> Answer:
        """The answer, on a device."""
        pieces = torch.from_numpy(records).split([part.length for part in self.parts], dim=1)
        tensors = {
            part.name: piece.clone().view(part.kept).unflatten(1, part.shape).to(device).to(part.dtype)
            for part, piece in zip(self.parts, pieces, strict=True)
        }
        return self.kind(**tensors)


class AnswerCache:
    """The answers of one network about one view.

    Args:
        folder: of this network, view and data, and nothing else; made by `open`.
        key: what decides the answers beside pixels, as plain data.
        places: crops of all images.
        room: bytes that may be kept; the first places are.
        accelerator: whose precision the network computes in.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        question: Question,
        layout: Layout,
        *,
        places: int,
        room: float,
        accelerator: Accelerator,
    ) -> None:
        self.folder, self._key, self._question, self._layout = folder, key, question, layout
        self._accelerator = accelerator
        self._records = Records(folder / "answers", length=layout.length)
        self.places = places
        self.kept = max(0, min(places, int(room // self._records.stride)))
        self._writes = True
        self._asked = self._known = 0

    @property
    def size(self) -> int:
        """Bytes when all that there is room for is kept."""
        return self.kept * self._records.stride

    @property
    def introduction(self) -> str:
        """For a person."""
        there, whole = in_units(disk_use(self.folder)), in_units(self.size)
        text = f"Cache: {self.folder}, {there} now, {whole} when all of {self.places:,} crops "
        if self.kept == self.places:
            return text + "are kept."
        return text + (
            f"are kept for which there is room, {self.kept / self.places:.0%}. Of the others the network is "
            "asked every time, in smaller batches, which may round differently."
        )

    def open(self) -> None:
        """Make the folder, or go on with it.

        Raises:
            UserError: it cannot be made.
        """
        try:
            self._records.open()
            write_text(self.folder / "key.json", json.dumps(self._key, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"--cache {self.folder} cannot be made: {error.strerror or error}") from error

    def close(self) -> None:
        """It can be opened again."""
        self._records.close()

    def answer(self, images: Tensor, places: Int64[Tensor, " B"], marks: Int64[Tensor, " B"]) -> Answer:
        """What the network says of images, of which it is not asked again if all was kept.

        If there is room for everything it sees whole batches or none, so that its rounding depends on nothing
        that happens to be there.

        Args:
            images: the view, as the network takes it, on its device.
            places: of the crops, see `Batch.marks`.
            marks: fingerprints of their pixels.
        """
        where = list(zip(places.tolist(), marks.tolist(), strict=True))
        records = np.empty((len(where), self._layout.length), np.uint8)
        known = [self._read(*at, record) for at, record in zip(where, records, strict=True)]
        missing = [row for row, there in enumerate(known) if not there]
        all_anew = bool(missing) and self.kept == self.places
        self._asked += len(where)
        self._known += 0 if all_anew else len(where) - len(missing)
        if not missing:
            return self._layout.unpack(records, images.device)
        fresh = self._ask(images if all_anew else images[missing])
        packed = self._layout.pack(fresh)
        records[missing] = packed[missing] if all_anew else packed
        for row in missing:
            self._write(*where[row], records[row])
        return fresh if all_anew else self._layout.unpack(records, images.device)

    def rate(self) -> float:
        """Share of the images since the last call of which the network was not asked; nan of none."""
        share = self._known / self._asked if self._asked else math.nan
        self._asked = self._known = 0
        return share

    @torch.no_grad()
    def _ask(self, images: Tensor) -> Answer:
        with self._accelerator.autocast():  # as in the learner's forward
            return self._question.ask(images)

    def _read(self, place: int, mark: int, record: UInt8[np.ndarray, " length"]) -> bool:
        try:
            return place < self.kept and self._records.read(place, mark, record)
        except OSError:
            return False

    def _write(self, place: int, mark: int, record: UInt8[np.ndarray, " length"]) -> None:
        if place >= self.kept or not self._writes:
            return
        try:
            self._records.write(place, mark, record)
        except OSError as error:
            # A run must not end because what it can do without cannot be kept.
            self._writes = False
            log.warning("The cache in %s grows no more: %s", self.folder, error.strerror or error)


@dataclass(frozen=True)
class Caches:
    """Those of all questions of a learner, in their order."""

    by_view: Mapping[str, AnswerCache]

    def answers(self, views: Mapping[str, Tensor], marks: Int64[Tensor, "B _"]) -> dict[str, Answer]:
        """What `forward` is given in the place of views."""
        places, *prints = marks.unbind(1)
        return {
            name: cache.answer(views[name], places, own)
            for (name, cache), own in zip(self.by_view.items(), prints, strict=True)
        }

    def rate(self) -> dict[str, float]:
        """ "cached", the smallest `AnswerCache.rate`."""
        return {"cached": round(min(cache.rate() for cache in self.by_view.values()), 4)}

    @property
    def introductions(self) -> list[str]:
        return [cache.introduction for cache in self.by_view.values()]

    def __enter__(self) -> Self:
        """Opens all, see `AnswerCache.open`."""
        for cache in self.by_view.values():
            cache.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for cache in self.by_view.values():
            cache.close()
