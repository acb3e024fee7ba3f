"""Pictures from Python: any dataset of images with a length and numbers."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torch.utils.data import Subset as TorchSubset

from unmask.data.decode import DecodeError
from unmask.data.files import Content, Source, numbered, read_file
from unmask.errors import UserError

log = logging.getLogger(__name__)

IMAGES = ("image", "img", "picture", "pixel_values", "jpg", "png")  # names of the column with the pictures
LABELS = ("label", "labels", "class", "target", "fine_label")
KINDS = (
    "a list or tuple, a NumPy array or PyTorch tensor of images, a map-style torch Dataset, or a Hugging "
    "Face Dataset"
)


class Collection(Source):
    """The images of a Python dataset.

    An item is an image, a pair (image, label), or a dictionary (a row of a Hugging Face dataset) with the
    image under one of ``IMAGES`` and perhaps the label under one of ``LABELS``. An image is a Pillow image; a
    NumPy array [H, W], [H, W, C] or [C, H, W]; a tensor [C, H, W] or [H, W]; the bytes of a file or its path;
    or what Hugging Face makes of these without decoding.

    Labels that lie ready are taken: those of lists, of Hugging Face datasets, of torchvision's folders, CIFAR
    and MNIST, and of torch's subsets of them.

    Args:
        data: what holds the items; it is asked for them by number, in the workers too.
        labelled: labels are needed, and all items are read for them if they do not lie ready.

    Raises:
        UserError: no dataset, an empty one, a first item that is no image.
    """

    def __init__(self, data: Any, *, labelled: bool = False) -> None:
        self._data = data
        self._count = _count(data)
        try:
            item = data[0]
            _content(_parts(item)[0])
        except (DecodeError, OSError) as error:
            raise UserError(f"The first item of the data is no image: {error}.") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"The first item of the data cannot be had ({reason}).") from error
        found = _ready_labels(data)
        if found is None and labelled and _parts(item)[1] is not None:
            log.warning("Reading all %d items of the data for their labels.", self._count)
            found = [_parts(data[index])[1] for index in range(self._count)], None
        if found is not None and all(label is not None for label in found[0]):
            self.labels, self.classes = _numbers(*found)

    def __len__(self) -> int:
        return self._count

    def __str__(self) -> str:
        return f"a {type(self._data).__name__} of {self._count:,} images"

    def name(self, index: int) -> str:
        return f"image {index} of the {type(self._data).__name__}"

    def read(self, index: int) -> Content:
        try:
            return _content(_parts(self._data[index])[0])
        except (DecodeError, OSError):
            raise
        except Exception as error:  # somebody else's code, about one item: counted as any bad file is
            raise DecodeError(f"{type(error).__name__}: {error}") from error


def _count(data: Any) -> int:
    if isinstance(data, Mapping):
        raise UserError(
            f"The data is a dictionary ({', '.join(map(str, data))}); give one of its parts, such as "
            "data['train']."
        )
    if isinstance(data, IterableDataset):
        raise UserError("The data is an IterableDataset, which has no numbers; give a map-style Dataset.")
    known = isinstance(data, Sequence | np.ndarray | torch.Tensor | Dataset)
    known = known or _is_of(data, "datasets", "Dataset")
    if not known or isinstance(data, bytes):
        raise UserError(f"The data is a {type(data).__name__}; it must be {KINDS}, or a path.")
    try:
        count = len(data)
    except TypeError as error:
        raise UserError(f"The data is a {type(data).__name__} without a length; define __len__.") from error
    if not count:
        raise UserError(f"The data is a {type(data).__name__} without any item.")
    return count


def _is_of(data: Any, package: str, *names: str) -> bool:
    """Whether it is an instance of a class of a package, which has been imported then; that it need not be
    imported here keeps the start of every program, and its workers, light."""
    known = vars(sys.modules[package]) if package in sys.modules else {}  # maybe somebody's own `datasets`
    return isinstance(data, tuple(known[name] for name in names if name in known))


def _parts(item: Any) -> tuple[Any, Any]:
    """(image, label or None) of an item."""
    if isinstance(item, Mapping):
        column = next((name for name in IMAGES if name in item), None)
        if column is None:
            raise DecodeError(
                f"a row with the columns {', '.join(map(str, item))} and none of {', '.join(IMAGES)}"
            )
        return item[column], next((item[name] for name in LABELS if name in item), None)
    if isinstance(item, tuple | list):
        if not item:
            raise DecodeError("an empty pair")
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _content(image: Any) -> Content:
    """The image in one of the forms that sources hand out."""
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu()
        array = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        # PyTorch puts the channels first; only where the last axis is the shorter one they must be there.
        channels_first = array.ndim == 3 and array.shape[0] <= array.shape[-1]
        return rearrange(array, "c h w -> h w c") if channels_first else array
    if isinstance(image, Image.Image | np.ndarray | bytes):
        return image
    if isinstance(image, str | Path):
        return read_file(Path(image))
    if isinstance(image, Mapping) and {"bytes", "path"} & image.keys():  # undecoded, as Hugging Face has it
        return image["bytes"] if image.get("bytes") is not None else read_file(Path(image["path"]))
    raise DecodeError(f"a {type(image).__name__}, not an image, array, tensor, file's bytes or path")


def _ready_labels(data: Any) -> tuple[list[Any], list[str] | None] | None:
    """(label of every item, class names if the data has some), if no image must be read for them."""
    if isinstance(data, TorchSubset):
        inner = _ready_labels(data.dataset)
        return None if inner is None else ([inner[0][index] for index in data.indices], inner[1])
    if _is_of(data, "torchvision.datasets", "DatasetFolder", "CIFAR10", "MNIST"):
        return [int(target) for target in data.targets], list(data.classes)
    if _is_of(data, "datasets", "Dataset"):
        column = next((name for name in LABELS if name in data.features), None)
        if column is None:
            return None
        feature = data.features[column]
        names = list(feature.names) if _is_of(feature, "datasets", "ClassLabel") else None
        return list(data[column]), names
    if isinstance(data, list | tuple):
        labels = [_parts(item)[1] for item in data]
        return None if all(label is None for label in labels) else (labels, None)
    return None


def _numbers(labels: list[Any], classes: list[str] | None) -> tuple[list[int], list[str]]:
    """Labels as numbers from 0, with the names of the classes."""
    plain: list[Any] = [
        label.item() if isinstance(label, torch.Tensor | np.generic) else label for label in labels
    ]
    if classes is not None and all(isinstance(label, int) and 0 <= label < len(classes) for label in plain):
        return plain, classes
    return numbered([str(label) for label in plain])
