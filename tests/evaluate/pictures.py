"""Folders of small pictures with labels, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 60), "red": (220, 50, 40)}


def write_pictures(
    folder: Path, *, each: int, seed: int = 0, colours: tuple[str, ...] = tuple(COLOURS)
) -> Path:
    """`each` noisy pictures of every colour, in a folder named after it."""
    generator = np.random.default_rng(seed)
    for name in colours:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = generator.normal(0, 25, (40, 48, 3)) + generator.normal(0, 20, 3)
            pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder
