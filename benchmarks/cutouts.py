"""A generated set with exact masks: shapes cut out of one picture and pasted on another.

    python -m benchmarks.cutouts FOLDER [--images PICTURES] [--seed 0]

For semantic segmentation, detection and instance segmentation without a download: what a shape is, is told by
its outline alone, since its colours are those of another picture and a tint drawn at random.
"""

import argparse
import colorsys
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import reduce
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageEnhance

from unmask.data import Source, Subset, decode, open_source, split
from unmask.data.files import IndexedFiles
from unmask.demo_data import demo_archive

BACKGROUND = "background"
FINER = 4  # pixels of a shape's drawing along the side of a pixel of the picture
ATTEMPTS = 20  # to find a place for a shape that touches no other
PARTS = ("training", "validation")

Outline = Callable[[], np.ndarray]  # corners [n, 2], (x, y), within the unit circle


def _regular(corners: int, radii: Sequence[float] = (1.0,)) -> np.ndarray:
    """Corners at even angles, their distances from the centre taken in turn."""
    angles = 2 * np.pi * np.arange(corners) / corners
    distance = np.resize(np.asarray(radii, dtype=float), corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * distance[:, None]


def _cross() -> np.ndarray:
    long, short = 0.95, 0.3
    quarter = np.array([[long, -short], [long, short], [short, short]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, number) for number in range(4)])


SHAPES: dict[str, Outline] = {
    "disc": lambda: _regular(36),
    "square": lambda: _regular(4),
    "triangle": lambda: _regular(3),
    "star": lambda: _regular(10, (1.0, 0.45)),
    "cross": _cross,
}
CLASSES = (BACKGROUND, *SHAPES)


@dataclass(frozen=True)
class Cutout:
    """One shape in a picture.

    Attributes:
        kind: number of its class; 0 is the background.
        corners: [n, 2], (x, y) in pixels.
        mask: [height, width], pixels of which it covers at least half.
    """

    kind: int
    corners: np.ndarray
    mask: Bool[np.ndarray, "height width"]


def write_cutouts(
    folder: str | Path,
    *,
    images: str | Path | None = None,
    seed: int = 0,
    training: int = 160,
    validation: int = 48,
    sides: tuple[int, int] = (112, 160),
    most: int = 4,
    typical_colours: bool = False,
) -> Path:
    """Write the set, and return its folder.

    What is in it::

        images/training/00000.jpg          RGB; sides drawn from `sides`, so they differ
        annotations/training/00000.png     index of the class of every pixel, 0 the background
        instances_training.json            COCO; polygons of the outlines
        masks_training.json                COCO; the exact masks, as uncompressed run lengths
        ... and the same for validation
        classes.txt                        a name a line, in the order of the indices

    That is ADE20K's layout, except that 0 is a class and nothing is ignored. In both COCO files category ids
    are the indices 1, 2, ... of `annotations`, boxes [x, y, width, height] are the extents of the masks,
    areas count their pixels, and shapes neither overlap nor leave the picture; one picture in twelve has
    none. The same arguments give the same files, and more pictures leave the first ones as they are.

    Args:
        images: pictures for backgrounds and colours (folder, archive or list, see `unmask.data.open_source`);
            None is the bundled drawings. Those of its held-out part, if it has one, are for validation only.
        training: number of pictures to train on; so is `validation`.
        sides: shortest and longest side of a picture in pixels.
        most: shapes in a picture, at most.
        typical_colours: the shapes of a class have colours alike, so that a network learns to find them in
            minutes; otherwise the outline alone tells the class.
    """
    folder = Path(folder)
    sources = _sources(demo_archive() if images is None else images, seed)
    for number, (part, count) in enumerate(zip(PARTS, (training, validation), strict=True)):
        for kind in ("images", "annotations"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        pictures, found = [], []
        for index in range(count):
            generator = np.random.default_rng((seed, number, index))
            picture, cutouts = _compose(sources[number], generator, sides, most, typical_colours)
            width, height = picture.size
            indices = np.zeros((height, width), dtype=np.uint8)
            for cutout in cutouts:
                indices[cutout.mask] = cutout.kind
            picture.save(folder / "images" / part / f"{index:05}.jpg", quality=92)
            Image.fromarray(indices).save(folder / "annotations" / part / f"{index:05}.png")
            pictures.append({"id": index, "file_name": f"{index:05}.jpg", "width": width, "height": height})
            found.append(cutouts)
        for name, outline in (("instances", _polygon), ("masks", _run_lengths)):
            text = json.dumps(_coco(pictures, found, outline))
            (folder / f"{name}_{part}.json").write_text(text, encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return folder


def _sources(images: str | Path, seed: int) -> tuple[Source, Source]:
    """Pictures for training, and others for validation."""
    source = open_source(images)
    parts = source.parts() if isinstance(source, IndexedFiles) else {}
    held_out = next((part for part in ("validation", "val", "test") if part in parts), None)
    if "train" in parts and held_out is not None:
        return Subset(source, parts["train"]), Subset(source, parts[held_out])
    return split(source, seed=seed)


def _compose(
    source: Source,
    generator: np.random.Generator,
    sides: tuple[int, int],
    most: int,
    typical_colours: bool,
) -> tuple[Image.Image, list[Cutout]]:
    width, height = (int(side) for side in generator.integers(sides[0], sides[1] + 1, size=2))
    canvas = _filled(source, generator, (width, height), brightness=0.75)
    wanted = 0 if generator.random() < 1 / 12 else int(generator.integers(1, most + 1))
    taken = np.zeros((height, width), dtype=bool)
    cutouts: list[Cutout] = []
    for _ in range(wanted):
        for _ in range(ATTEMPTS):
            cutout, coverage = _place(generator, (width, height))
            # A pixel of air on all sides keeps shapes apart.
            if not (taken & _grown(cutout.mask)).any():
                break
        else:
            continue
        taken |= cutout.mask
        filling = _filled(source, generator, canvas.size, brightness=1.0)
        if typical_colours:
            filling = Image.blend(
                filling, Image.new("RGB", canvas.size, _colour(cutout.kind, generator)), 0.7
            )
        canvas.paste(filling, mask=coverage)
        cutouts.append(cutout)
    return canvas, cutouts


def _place(generator: np.random.Generator, size: tuple[int, int]) -> tuple[Cutout, Image.Image]:
    """A shape somewhere in a picture of this (width, height), and how much of every pixel it covers."""
    kind = int(generator.integers(1, len(CLASSES)))
    radius = generator.uniform(0.1, 0.24) * min(size)
    angle = generator.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = [generator.uniform(radius + 1, side - radius - 1) for side in size]
    corners = SHAPES[CLASSES[kind]]() @ turn * radius + centre
    drawing = Image.new("L", (size[0] * FINER, size[1] * FINER))
    ImageDraw.Draw(drawing).polygon([(x * FINER, y * FINER) for x, y in corners], fill=255)
    covered = reduce(np.asarray(drawing) / 255, "(h p) (w q) -> h w", "mean", p=FINER, q=FINER)
    coverage = Image.fromarray(np.rint(covered * 255).astype(np.uint8))
    return Cutout(kind, corners, covered >= 0.5), coverage


def _filled(
    source: Source, generator: np.random.Generator, size: tuple[int, int], *, brightness: float
) -> Image.Image:
    """A crop of a picture, tinted, as large as `size`."""
    picture = decode(source.read(int(generator.integers(len(source)))))
    width, height = picture.size
    scale = generator.uniform(0.5, 0.9) * min(width / size[0], height / size[1])
    crop = size[0] * scale, size[1] * scale
    left, top = generator.uniform(0, width - crop[0]), generator.uniform(0, height - crop[1])
    box = (left, top, left + crop[0], top + crop[1])
    grown = picture.resize(size, Image.Resampling.BICUBIC, box=box)
    tint = Image.new("RGB", size, tuple(int(part) for part in generator.integers(0, 256, size=3)))
    return ImageEnhance.Brightness(Image.blend(grown, tint, 0.35)).enhance(brightness)


def _colour(kind: int, generator: np.random.Generator) -> tuple[int, ...]:
    """One of the colours of a class: its hue varies by a tenth of the circle, brightness more."""
    hue = (kind / len(SHAPES) + generator.uniform(-0.05, 0.05)) % 1
    parts = colorsys.hsv_to_rgb(hue, generator.uniform(0.6, 1.0), generator.uniform(0.5, 1.0))
    return tuple(round(255 * part) for part in parts)


def _grown(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The mask and the pixels around it."""
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    return np.logical_or.reduce(
        [padded[down : down + rows, right : right + columns] for down in range(3) for right in range(3)]
    )


def _coco(
    pictures: list[dict[str, Any]], found: list[list[Cutout]], outline: Callable[[Cutout], Any]
) -> dict[str, Any]:
    annotations = []
    for picture, cutouts in zip(pictures, found, strict=True):
        for cutout in cutouts:
            rows, columns = (np.flatnonzero(cutout.mask.any(axis)) for axis in (1, 0))
            left, top = int(columns[0]), int(rows[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture["id"],
                    "category_id": cutout.kind,
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "area": int(cutout.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": outline(cutout),
                }
            )
    categories = [{"id": kind, "name": CLASSES[kind]} for kind in range(1, len(CLASSES))]
    return {"images": pictures, "annotations": annotations, "categories": categories}


def _polygon(cutout: Cutout) -> list[list[float]]:
    return [[round(float(value), 2) for value in cutout.corners.flatten()]]


def _run_lengths(cutout: Cutout) -> dict[str, list[int]]:
    """How many pixels in turn are outside and inside, column by column, beginning outside."""
    inside = cutout.mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(inside, prepend=False, append=not inside[-1]))
    return {"counts": np.diff(changes, prepend=0).tolist(), "size": list(cutout.mask.shape)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path, help="pictures to cut from; the bundled drawings if not given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_cutouts(options.folder, images=options.images, seed=options.seed))


if __name__ == "__main__":
    main()
