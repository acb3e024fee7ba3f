"""Pictures with boxes and masks, and small detectors, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tests.tiny import tiny_encoder
from unmask.evaluate.detect.detector import Detector, Heads
from unmask.evaluate.detect.masks import run_lengths

SMALL: dict[str, Any] = {
    "width": 16,
    "box_convolutions": 1,
    "box_dim": 32,
    "mask_convolutions": 1,
    "proposals": 60,
    "box_samples": 32,
    "anchor_scale": 4.0,
}
COLOURS = {"disc": (220, 40, 40), "square": (40, 60, 220)}
NAMES = tuple(COLOURS)


def tiny_detector(encoder: str = "vit", *, masks: bool = False, classes: int = 2, **options: Any) -> Detector:
    torch.manual_seed(0)
    heads = Heads(**{**SMALL, **options})
    return Detector(tiny_encoder(encoder), heads, classes=classes, masks=masks)


def write_shapes(
    folder: Path,
    file: str,
    *,
    count: int = 4,
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
    masks: str = "",
) -> Path:
    """Pictures [height, width] with a disc and a square each, and COCO's JSON beside them.

    Args:
        masks: "polygons", "runs", or none.
    """
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    height, width = size
    for number in range(count):
        name = f"{Path(file).stem}-{number}.png"
        picture = Image.new("RGB", (width, height), (200, 200, 200))
        draw = ImageDraw.Draw(picture)
        for kind, (shape, colour) in enumerate(COLOURS.items()):
            side = int(generator.integers(height // 4, height // 2))
            left = int(generator.integers(0, width // 2 - side)) + kind * width // 2
            top = int(generator.integers(0, height - side))
            box = (left, top, left + side - 1, top + side - 1)
            (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=colour)
            own = annotation(len(annotations) + 1, number + 1, 10 * (kind + 1), (left, top, side, side))
            if masks:
                covered = np.all(np.asarray(picture) == colour, axis=2)
                own["segmentation"] = (
                    run_lengths(covered) if masks == "runs" else [corners(left, top, side, side)]
                )
            annotations.append(own)
        picture.save(folder / name)
        images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
    return write_json(folder.parent / file, images, annotations)


def annotation(number: int, image: int, category: int, box: Sequence[float], **more: Any) -> dict[str, Any]:
    area = box[2] * box[3]
    own = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": area,
        "iscrowd": 0,
    }
    return {**own, **more}


def corners(left: float, top: float, width: float, height: float) -> list[float]:
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def write_json(
    path: Path, images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], **more: Any
) -> Path:
    categories = [{"id": 20, "name": "square"}, {"id": 10, "name": "disc"}]
    content = {"images": list(images), "annotations": list(annotations), "categories": categories, **more}
    path.write_text(json.dumps(content))
    return path
