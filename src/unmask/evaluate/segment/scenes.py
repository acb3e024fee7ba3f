"""Pictures with a class for every pixel, and the look at all of them before anything is trained."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unmask.data.arrays import Bits, open_picture, picture_size
from unmask.data.decode import DecodeError, load_pixels, open_image
from unmask.data.files import read_file
from unmask.data.native import NPY, Pixels
from unmask.engine.machine import cores
from unmask.errors import UserError
from unmask.evaluate.segment.score import IGNORED

log = logging.getLogger(__name__)

Mask = UInt8[np.ndarray, "H W"]
LOSSY = (".jpg", ".jpeg", ".webp")
NAMED = 3  # files or classes that a complaint names


class SceneError(DecodeError):
    """A picture or mask that cannot be used; the message is for people."""


@dataclass(frozen=True)
class Scene:
    """One picture, and the class of every pixel of it, `IGNORED` where it has none."""

    pixels: Pixels
    mask: Mask


class Scenes(ABC):
    """Numbered pictures with masks.

    Attributes:
        classes: their names, in the order of the indices in masks.
        zero_is_no_class: index 0 of the files means no class, and 1 is the first one (ADE20K).
    """

    classes: tuple[str, ...]
    zero_is_no_class: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picture(self, index: int) -> Path: ...

    @abstractmethod
    def indices(self, index: int) -> np.ndarray:
        """The mask [H, W] as the files have it, any integers.

        Raises:
            SceneError: it cannot be read, or is none.
            OSError: likewise.
        """

    def mask(self, index: int) -> Mask:
        """
        Raises:
            SceneError: as `indices`, or an index that no class has.
            OSError: likewise.
        """
        found = self.indices(index).astype(np.int64)
        first = 1 if self.zero_is_no_class else 0
        ignored = (found == IGNORED) | (found < first)
        wrong = found[~ignored & ((found < 0) | (found >= len(self.classes) + first))]
        wrong = np.append(wrong, found[found < 0])
        if wrong.size:
            raise SceneError(
                f"its mask has the class index {wrong[0]}, and the {len(self.classes)} classes have the "
                f"indices {first} to {len(self.classes) - 1 + first}, beside {IGNORED} for pixels without one"
            )
        return np.where(ignored, IGNORED, found - first).astype(np.uint8)

    def read(self, index: int, channels: int = 3, bits: Bits = 8) -> Scene:
        """
        Raises:
            SceneError: picture or mask cannot be used.
        """
        try:
            picture = open_picture(read_file(self.picture(index)), channels, bits)
            if isinstance(picture, Image.Image):
                picture = np.atleast_3d(np.asarray(load_pixels(picture, channels)[0]))
            scene = Scene(picture, self.mask(index))
        except (OSError, DecodeError) as error:
            raise SceneError(reason(error)) from error
        require_same_size(picture, scene.mask)
        return scene


class Part(Scenes):
    """Some of other scenes."""

    def __init__(self, scenes: Scenes, numbers: Sequence[int]) -> None:
        self.classes, self.zero_is_no_class = scenes.classes, scenes.zero_is_no_class
        self._scenes, self._numbers = scenes, list(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def picture(self, index: int) -> Path:
        return self._scenes.picture(self._numbers[index])

    def indices(self, index: int) -> np.ndarray:
        return self._scenes.indices(self._numbers[index])


def survey(scenes: Scenes, *, part: str, channels: int = 3, bits: Bits = 8) -> np.ndarray:
    """Look at every mask and at the size of every picture; [K], the pixels of each class.

    Args:
        part: what complaints call the scenes.

    Raises:
        UserError: a picture or mask that cannot be used, or none with any class.
    """

    def look(index: int) -> tuple[np.ndarray, str | None]:
        try:
            mask = scenes.mask(index)
            require_same_size(open_picture(read_file(scenes.picture(index)), channels, bits), mask)
        except (OSError, DecodeError) as error:
            return np.zeros(256, dtype=np.int64), f"{scenes.picture(index)}: {reason(error)}"
        return np.bincount(mask.ravel(), minlength=256), None

    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes without Python's lock
        looks = list(pool.map(look, range(len(scenes))))
    problems = [problem for _, problem in looks if problem is not None]
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise UserError(
            f"{len(problems)} of the {len(scenes)} pictures in {part} cannot be used. "
            f"{'; '.join(problems[:NAMED])}{more}."
        )
    counts = np.sum([count for count, _ in looks], axis=0)[: len(scenes.classes)]
    if not counts.any():
        raise UserError(f"No pixel of the {len(scenes)} masks in {part} has a class: all are {IGNORED}.")
    return counts


def require_classes(training: Scenes, counts: np.ndarray) -> None:
    """Say which classes nothing can be learned of.

    Args:
        counts: of the scenes to train on, see `survey`.

    Raises:
        UserError: it is all but one, which every network would predict everywhere.
    """
    missing = [name for name, count in zip(training.classes, counts, strict=True) if not count]
    if len(training.classes) - len(missing) < 2:
        name = training.classes[int(counts.argmax())]
        zero = " Where index 0 is a class too, give data.reduce_zero_label=false."
        raise UserError(
            f"All pixels to train on that have a class are {name!r}: there is nothing to tell apart."
            + zero * training.zero_is_no_class
        )
    if missing:
        some = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        log.warning(
            "%d of the %d classes have no pixel in the masks to train on, and are not learned: %s",
            len(missing),
            len(training.classes),
            some,
        )


def require_right_names(parts: Sequence[Scenes], counts: Sequence[np.ndarray]) -> None:
    """Where index 0 means no class, names that were written for indices from 0 on are one too many: the last
    one is of no index, and every other is of its neighbour's pixels.

    Args:
        parts: whose names follow the order of the indices.
        counts: of each, see `survey`.

    Raises:
        UserError: the last class alone has no pixel, and index 0 occurs.
    """
    classes, found = parts[0].classes, np.sum(counts, axis=0) > 0
    if not parts[0].zero_is_no_class or found[-1] or not found[:-1].all():
        return
    if any((scenes.indices(index) == 0).any() for scenes in parts for index in range(len(scenes))):
        raise UserError(
            f"Index 0 means no class (data.reduce_zero_label) and the first name, {classes[0]!r}, is that of "
            f"index 1: so the last one, {classes[-1]!r}, has no pixel, and every other class has. If the "
            "names begin with index 0, give data.reduce_zero_label=false; if not, leave out the last one."
        )


def require_same_size(picture: Image.Image | Pixels, mask: Mask) -> None:
    width, height = picture_size(picture)
    if mask.shape != (height, width):
        raise SceneError(
            f"it has {width} x {height} pixels, its mask {mask.shape[1]} x {mask.shape[0]}; both need the "
            "same size, upright"
        )


def read_indices(path: Path) -> np.ndarray:
    """A mask file as integers [H, W]: a picture of one channel or with a palette, three equal channels, or an
    array (.npy).

    Raises:
        SceneError: anything else.
        OSError: it cannot be read.
    """
    if path.suffix.lower() in LOSSY:
        raise SceneError(f"{path.name} is lossy, which invents classes at edges; save masks as PNG")
    content = read_file(path)
    try:
        if content.startswith(NPY):
            values = np.load(BytesIO(content), allow_pickle=False)
        else:
            image = open_image(content)
            image.load()
            values = np.asarray(image)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise SceneError(f"its mask {path.name} cannot be read ({reason(error)})") from error
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., 1:3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "buif" or not (values == np.floor(values)).all():
        raise SceneError(
            f"its mask {path.name} must hold one class index a pixel; it holds {values.dtype} numbers of "
            f"shape {' x '.join(map(str, values.shape))} (colours of classes have to be made indices first)"
        )
    return values


def reason(error: Exception) -> str:
    """What went wrong, for people."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
