"""Where pictures and masks lie: ADE20K's folders and their relatives."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from unmask.data.sources import Folder
from unmask.engine.machine import cores
from unmask.engine.run import require_apart
from unmask.errors import UserError
from unmask.evaluate.segment.scenes import NAMED, Part, SceneError, Scenes, read_indices
from unmask.evaluate.segment.score import IGNORED

log = logging.getLogger(__name__)

IMAGES = "images"
MASKS = ("annotations", "masks", "labels")
TRAINING, VALIDATION = ("training", "train"), ("validation", "val", "test")
NAMES = ("classes.txt", "objectInfo150.txt")
HELD_OUT = 5  # without parts, every fifth picture of a random order validates
LAYOUT = (
    "images/training and annotations/training with pictures and index masks of the same names, likewise "
    "validation (annotations may be called masks or labels, the parts train and val); or images and masks "
    "without parts, of which a fifth then validates; or COCO's polygons with --annotations"
)


class MaskFiles(Scenes):
    """Pictures, and masks in files of their own."""

    def __init__(
        self, pairs: Sequence[tuple[Path, Path]], classes: tuple[str, ...], *, zero_is_no_class: bool
    ) -> None:
        self.classes, self.zero_is_no_class = classes, zero_is_no_class
        self._pairs = list(pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def picture(self, index: int) -> Path:
        return self._pairs[index][0]

    def indices(self, index: int) -> np.ndarray:
        return read_indices(self._pairs[index][1])


def find_mask_files(
    data: Path, *, classes: Path | None = None, reduce_zero_label: bool = False, out: Path | None = None
) -> tuple[Scenes, Scenes]:
    """(training, validation) of a folder.

    Args:
        classes: text file with a name a line; None is `classes.txt` or ADE20K's `objectInfo150.txt` in the
            folder, or else numbers up to the largest index in the masks.
        reduce_zero_label: index 0 means no class (ADE20K), and names begin with index 1.
        out: the run's folder.

    Raises:
        UserError: another layout, pictures without a mask, a run's folder among them.
    """
    if not data.is_dir():
        raise UserError(f"There is no folder {data}. Needed: {LAYOUT}.")
    training, validation = _folders(data)
    for folder in (*training, *(validation or ())):
        if out is not None:
            require_apart(out, folder)
    pairs = _pairs(*training)
    held_out = _pairs(*validation) if validation is not None else []
    names = _names(data, classes) or _numbered([*pairs, *held_out], reduce_zero_label)
    found = MaskFiles(pairs, names, zero_is_no_class=reduce_zero_label)
    if validation is not None:
        return found, MaskFiles(held_out, names, zero_is_no_class=reduce_zero_label)
    return split(found)


def split(scenes: Scenes) -> tuple[Scenes, Scenes]:
    """(four fifths, a fifth), always the same ones.

    Raises:
        UserError: too few to split.
    """
    if len(scenes) < 2:
        raise UserError(f"{len(scenes)} picture cannot be split into training and validation; give more.")
    order = np.random.default_rng(0).permutation(len(scenes))
    count = max(1, round(len(scenes) / HELD_OUT))
    return Part(scenes, sorted(order[count:])), Part(scenes, sorted(order[:count]))


def read_names(path: Path) -> tuple[str, ...]:
    """Names of classes, a line each; of ADE20K's table the last column.

    Raises:
        UserError: it cannot be read, or says nothing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The names of the classes cannot be read from {path} ({error}).") from error
    lines = [line for line in lines if line]
    if lines and lines[0].split("\t")[-1] == "Name":
        lines = [line.split("\t")[-1].split(",")[0] for line in lines[1:]]
    if not lines or len(lines) >= IGNORED:
        raise UserError(f"{path} has {len(lines)} names; needed are 1 to {IGNORED - 1}, one a line.")
    return tuple(lines)


Pair = tuple[Path, Path]


def _folders(data: Path) -> tuple[Pair, Pair | None]:
    """(pictures, masks) to train on, and to validate on if the folder says which."""
    for masks in MASKS:
        for training in TRAINING:
            for validation in VALIDATION:
                for pattern in ("{kind}/{part}", "{part}/{kind}"):
                    four = [
                        data / pattern.format(kind=kind, part=part)
                        for part in (training, validation)
                        for kind in (IMAGES, masks)
                    ]
                    if all(folder.is_dir() for folder in four):
                        return (four[0], four[1]), (four[2], four[3])
        if (data / IMAGES).is_dir() and (data / masks).is_dir():
            parts = [one.name for one in (data / IMAGES).iterdir() if one.name in (*TRAINING, *VALIDATION)]
            if not parts:
                return (data / IMAGES, data / masks), None
    raise UserError(f"{data} has no layout that is known. Needed: {LAYOUT}.")


def _pairs(images: Path, masks: Path) -> list[Pair]:
    """Pictures and masks whose names differ in nothing but the ending."""
    pictures, found = _by_stem(images), _by_stem(masks)
    missing = sorted(pictures.keys() - found.keys())
    if missing:
        some = ", ".join(pictures[stem].name for stem in missing[:NAMED])
        raise UserError(
            f"{len(missing)} of the {len(pictures)} pictures in {images} have no mask of the same name in "
            f"{masks} ({some}{', ...' if len(missing) > NAMED else ''})."
        )
    if spare := len(found.keys() - pictures.keys()):
        log.warning("%d masks in %s have no picture and are left out", spare, masks)
    return [(pictures[stem], found[stem]) for stem in sorted(pictures)]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in Folder(folder).names:
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in found:
            raise UserError(f"{folder} has two files called {stem}: {found[stem].name} and {name}.")
        found[stem] = folder / name
    return found


def _names(data: Path, classes: Path | None) -> tuple[str, ...] | None:
    if classes is not None:
        return read_names(classes)
    return next((read_names(data / name) for name in NAMES if (data / name).is_file()), None)


def _numbered(pairs: Sequence[Pair], reduce_zero_label: bool) -> tuple[str, ...]:
    """Indices as names, up to the largest that occurs."""

    def largest_of(pair: Pair) -> int:
        try:
            values = read_indices(pair[1])
        except (SceneError, OSError) as error:
            raise UserError(f"{pair[0]}: {error}.") from error
        return max((int(value) for value in np.unique(values) if value != IGNORED), default=-1)

    with ThreadPoolExecutor(cores()) as pool:
        largest = max(pool.map(largest_of, pairs), default=-1)
    first = 1 if reduce_zero_label else 0
    if largest < first:
        raise UserError(f"No mask has a class: all of their pixels are {IGNORED}{' or 0' * first}.")
    if largest > IGNORED:
        raise UserError(
            f"A mask has the class index {largest}, and at most {IGNORED} classes are possible ({IGNORED} "
            "means that a pixel has none)."
        )
    return tuple(str(number) for number in range(first, largest + 1))
