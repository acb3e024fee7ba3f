"""Small folders of pictures and masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from unmask.evaluate.segment.score import IGNORED

SIZE = (12, 16)  # height, width


def mask_of(number: int) -> np.ndarray:
    """Three classes, and a corner that has none."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[:, 8:] = 1
    mask[6:, number % 8 : number % 8 + 5] = 2
    mask[0, 0] = IGNORED
    return mask


def picture_of(mask: np.ndarray, generator: np.random.Generator) -> Image.Image:
    """A colour for every class, with noise."""
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    clean = colours[np.where(mask == IGNORED, 0, mask)]
    return Image.fromarray(
        (clean + generator.integers(-20, 21, size=clean.shape)).clip(0, 255).astype(np.uint8)
    )


def write_scenes(
    folder: Path, *, masks: str = "annotations", parts: dict[str, int] | None = None, shift: int = 0
) -> Path:
    """ADE20K's layout.

    Args:
        parts: number of scenes in each; without any they lie in the folders themselves.
        shift: added to every class index.
    """
    generator = np.random.default_rng(0)
    for part, count in (parts or {"training": 6, "validation": 3}).items():
        for kind in ("images", masks):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            mask = mask_of(number)
            picture_of(mask, generator).save(folder / "images" / part / f"{number}.png")
            shifted = np.where(mask == IGNORED, IGNORED, mask + shift).astype(np.uint8)
            Image.fromarray(shifted).save(folder / masks / part / f"{number}.png")
    return folder
