"""Features of every image of a folder in one file, for search, clustering or a model of one's own."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.data import EvaluationLoader, Source, normalise, open_source
from unmask.encoders import Encoder
from unmask.encoders.base import ImageSize
from unmask.engine.files import put
from unmask.engine.machine import choose_device, workers_for
from unmask.errors import UserError
from unmask.evaluate.features import Place, layer_features, watched, widths_of
from unmask.evaluate.subject import Subject, find_subject
from unmask.runs import location

SUFFIXES = (".parquet", ".npz")


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Attributes:
        path: the file.
        images: number of rows.
        width: length of a feature vector.
        skipped: name -> reason of the images that could not be read.
    """

    path: Path
    images: int
    width: int
    skipped: dict[str, str]


@dataclass(frozen=True)
class Rows:
    """Some images: names, labels, if the data has any, and features [b, D], of patches also [b, N, D]."""

    names: list[str]
    labels: list[int] | None
    features: np.ndarray
    patches: np.ndarray | None


def embed(
    run_or_name: str | Path | Encoder,
    *,
    data: str | Path | Source,
    out: str | Path,
    pool: str = "mean",
    layer: int | None = None,
    patches: bool = False,
    image_size: ImageSize | None = None,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Embedded:
    """Write the features of every image, a row an image, in the order of the data.

    A Parquet file has the columns `name` (path inside the data), `label` (the class, where the data has
    labels), `features` and, if asked for, `patches`, and is written as the images are read, in little memory. A
    NumPy file has arrays of the same names, with `label` as numbers and their names in `classes`, and is
    held in memory until it is written. Both say in `unmask` (Parquet's metadata; a JSON text) where the features
    come from. Images that cannot be read are left out and reported.

    Args:
        run_or_name: what computes the features, as in `evaluate`.
        data: a folder or archive of images, or any source of them.
        out: a `.parquet` or `.npz` file, replaced if it is there.
        pool: how one vector is made of an image's patches, see `Features.pooled`.
        layer: the raw output of this block; None is the last one's after the final norm.
        patches: also the features of every patch, in raster order.
        image_size: height and width in pixels; None is what the encoder was trained with.
        batch_size: images through the encoder at a time; does not change the result.
        seed: of random weights ("random:NAME").

    Raises:
        UserError: a wrong choice, a file that cannot be written, no image that can be read.
    """
    path = _checked(out)
    device = choose_device(device)
    source = data if isinstance(data, Source) else open_source(data)
    subject = find_subject(run_or_name, image_size=image_size, seed=seed)
    if subject.encoder is None:
        raise UserError("Pixels are no features; give a run folder, a timm name, or random:NAME.")
    place = Place(layer, pool)
    (width,) = widths_of(subject.encoder.to(device).eval(), [place])
    loader = EvaluationLoader(
        source,
        subject.image_size,
        batch_size=batch_size,
        workers=workers_for(len(source), batch_size, workers),
        channels=subject.channels,
        max_bad=1.0,  # all others are wanted all the same
    )
    rows = _rows(subject, loader, place, patches=patches, device=device, progress=progress)
    about = _about(subject, data, place, source.classes)
    write = _write_parquet if path.suffix == ".parquet" else _write_npz
    counts: list[int] = []

    def counted() -> Iterator[Rows]:
        for some in rows:
            counts.append(len(some.names))
            yield some
        if not counts:
            raise UserError(f"None of the {len(source)} images could be read: {dict(list(loader.bad.items())[:3])}")

    put(path, lambda unfinished: write(unfinished, counted(), about))
    return Embedded(path, sum(counts), width, dict(loader.bad))
