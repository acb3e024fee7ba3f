"""Small pictures and folders of them; smooth ones, so that JPEG and resampling change them little."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]: a few waves of random direction."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = []
    for _ in range(3):
        waves = sum(
            np.sin(generator.uniform(2, 9) * x + generator.uniform(2, 9) * y + phase) for phase in range(3)
        )
        channels.append(waves)
    values = np.stack(channels, -1)
    return np.rint(255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 JPEGs in cat/ and dog/, of different sizes."""
    folder = tmp_path / "photos"
    for number in range(24):
        path = folder / ("cat" if number % 3 else "dog") / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = smooth(40 + number, 70 - number, seed=number)
        path.write_bytes(encoded(Image.fromarray(pixels), "JPEG", quality=92))
    return folder
