"""The demo pictures: 1,141 public-domain drawings in 13 classes. SOURCE.md tells where they come from."""

from importlib import resources
from pathlib import Path


def demo_archive() -> Path:
    """The zip file with `train/<class>/*.png` and `validation/<class>/*.png`, 96 x 96 px on white."""
    return Path(str(resources.files(__name__) / "pictures.zip"))
