"""What lies in a data set: formats, sizes, depth, and the pictures that one would rather know of."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from unmask.data import DecodeError, Source
from unmask.data.arrays import Bits, open_picture, resize
from unmask.data.decode import load_pixels
from unmask.data.files import Content
from unmask.data.inspect import Facts, look
from unmask.recipes.base import Data

SIDE = 16  # of the thumbnails that are compared
ALIKE = 0.1  # root mean square difference of two thumbnails, in standard deviations of the data
BLANK = 0.01  # standard deviation of a thumbnail, likewise
NARROW = 4.0  # long side over short side
BLOCK = 1024  # thumbnails compared at a time
STREAM = 4  # of random numbers, beside those of the loader and of the normalisation


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in a sample of the data; pictures are called by name.

    Attributes:
        images: in the data.
        looked_at: of them.
        formats: how many of each.
        kinds: how many of each number of channels and depth, in words.
        width: least, median and largest of those that could be read; pixels.
        height: likewise.
        bad: name -> why it cannot be read.
        unfit: that cannot have the channels of the recipe.
        copies: groups of files with the same bytes.
        alike: groups of pictures that differ by less than their noise, copies left out.
        disagreeing: of both, the groups whose members have different labels.
        small: with a side shorter than the run's images.
        narrow: with one side more than four times as long as the other.
        blank: of one colour.
    """

    images: int
    looked_at: int
    formats: dict[str, int]
    kinds: dict[str, int]
    width: tuple[int, int, int]
    height: tuple[int, int, int]
    bad: dict[str, str]
    unfit: list[str]
    copies: list[list[str]]
    alike: list[list[str]]
    disagreeing: list[list[str]]
    small: list[str]
    narrow: list[str]
    blank: list[str]


def survey(
    source: Source,
    data: Data,
    *,
    sample: int | None,
    seed: int = 0,
    seen: Callable[[], object] = lambda: None,
) -> Survey:
    """Read a random sample of the pictures, whole.

    Args:
        data: how the run would read them.
        sample: pictures to look at; None is all.
        seen: called after each.
    """
    count = len(source) if sample is None else min(sample, len(source))
    generator = np.random.default_rng((STREAM, seed))
    chosen = np.sort(generator.choice(len(source), size=count, replace=False))
    facts: dict[str, Facts] = {}
    bad: dict[str, str] = {}
    hashes: dict[bytes, list[str]] = defaultdict(list)
    thumbnails: dict[str, Float[NDArray, "C s s"]] = {}
    for index in chosen:
        name = source.name(int(index))
        try:
            content = source.read(int(index))
            found = look(content)
            if found.fits(data.channels):
                thumbnails[name] = thumbnail(content, data.channels, data.depth)
            facts[name] = found
            hashes[fingerprint(content)].append(name)
        except (OSError, DecodeError) as error:
            bad[name] = (error.strerror if isinstance(error, OSError) else None) or str(error)
        seen()
    copies = [names for names in hashes.values() if len(names) > 1]
    repeated = {name for names in copies for name in names[1:]}
    kept = [name for name in thumbnails if name not in repeated]
    blank, alike = compare(kept, np.stack([thumbnails[name] for name in kept])) if kept else ([], [])
    classes = {source.name(int(index)): source.labels[index] for index in chosen} if source.labels else {}
    height, width = data.image_size
    return Survey(
        images=len(source),
        looked_at=count,
        formats=dict(Counter(one.format for one in facts.values()).most_common()),
        kinds=dict(Counter(kind(one) for one in facts.values()).most_common()),
        width=_range([one.width for one in facts.values()]),
        height=_range([one.height for one in facts.values()]),
        bad=bad,
        unfit=[name for name in facts if name not in thumbnails],
        copies=copies,
        alike=alike,
        disagreeing=[
            names for names in copies + alike if len({classes[name] for name in names if classes}) > 1
        ],
        small=[name for name, one in facts.items() if one.width < width or one.height < height],
        narrow=[name for name, one in facts.items() if _ratio(one) > NARROW],
        blank=blank,
    )


def thumbnail(content: Content, channels: int, bits: Bits) -> Float[NDArray, "C s s"]:
    """The whole picture, squeezed into a small square.

    Raises:
        DecodeError: it cannot be read to its end.
    """
    picture = open_picture(content, channels, bits)
    if isinstance(picture, Image.Image):
        small, _ = load_pixels(picture, channels, shrink=min(picture.size) / SIDE)
        picture = np.atleast_3d(np.asarray(small))
    return resize(picture, (SIDE, SIDE), "bilinear").float().numpy()


def fingerprint(content: Content) -> bytes:
    """The same for the same bytes."""
    if isinstance(content, bytes):
        return blake2b(content, digest_size=16).digest()
    shape = content.size if isinstance(content, Image.Image) else content.shape
    return blake2b(content.tobytes(), digest_size=16, person=repr(shape).encode()[:16]).digest()


def compare(names: Sequence[str], thumbnails: Float[NDArray, "n C s s"]) -> tuple[list[str], list[list[str]]]:
    """(pictures of one colour, groups of pictures that look the same)."""
    deviation = thumbnails.std((0, 2, 3), dtype=np.float64)
    units = np.where(deviation > 0, deviation, 1)[:, None, None]
    scaled = ((thumbnails - thumbnails.mean((0, 2, 3), keepdims=True)) / units).astype(np.float32)
    plain = scaled.std((2, 3)).max(1) < BLANK
    blank = [name for name, is_plain in zip(names, plain, strict=True) if is_plain]
    rest = np.flatnonzero(~plain)
    group = np.arange(len(names))
    for first, second in _close_pairs(torch.from_numpy(scaled[rest]).flatten(1)):
        a, b = group[rest[first]], group[rest[second]]
        group[group == max(a, b)] = min(a, b)
    groups: dict[int, list[str]] = defaultdict(list)
    for index in rest.tolist():
        groups[int(group[index])].append(names[index])
    return blank, [members for members in groups.values() if len(members) > 1]


def _close_pairs(vectors: Float[torch.Tensor, "n D"]) -> Iterator[tuple[int, int]]:
    squares = vectors.square().sum(1)
    limit = ALIKE**2 * vectors.shape[1]
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        distances = squares[start : start + BLOCK, None] + squares[None] - 2 * block @ vectors.T
        for row, column in (distances < limit).nonzero().tolist():
            if start + row < column:
                yield start + row, column


def kind(facts: Facts) -> str:
    """Channels and depth in words."""
    colours = facts.channels - facts.alpha
    names = {1: "grey", 3: "RGB"}
    name = names.get(colours, f"{colours} channels") + (" with transparency" if facts.alpha else "")
    if facts.pages > 1:
        name += f", {facts.pages} pages"
    depth = "floating point or wide integers" if facts.bits == 32 else f"{facts.bits} bits"
    return f"{name}, {depth}"


def _ratio(facts: Facts) -> float:
    return max(facts.width, facts.height) / min(facts.width, facts.height)


def _range(values: Sequence[int]) -> tuple[int, int, int]:
    return (min(values), int(np.median(values)), max(values)) if values else (0, 0, 0)
