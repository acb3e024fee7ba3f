"""Features of every image of a folder in one file, for search, clustering or a model of one's own."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask import __version__
from unmask.data import EvaluationLoader, Source, normalise, open_source
from unmask.encoders import Encoder
from unmask.encoders.base import ImageSize
from unmask.engine.files import put
from unmask.engine.machine import choose_device
from unmask.errors import UserError
from unmask.evaluate.features import Place, layer_features, watched, widths_of, workers_for
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
    labels), `features` and, if asked for, `patches`, and is written as the images are read, in little
    memory. A NumPy file has arrays of the same names, with `label` as numbers and their names in `classes`,
    and is held in memory until it is written. Both say in `unmask` (Parquet's metadata; a JSON text) where
    the features come from. Images that cannot be read are left out and reported.

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
    source = open_source(data)
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
        bits=subject.bits,
        max_bad=1.0,  # the others are wanted all the same
    )
    rows = _rows(subject, loader, place, patches=patches, device=device, progress=progress)
    about = json.dumps({**_about(subject, place), "data": location(data)})
    write = _write_parquet if path.suffix == ".parquet" else _write_npz
    put(path, lambda unfinished: write(unfinished, rows, source.classes, about))
    skipped = {_inside(name, source): reason for name, reason in loader.bad.items()}
    return Embedded(path, len(source) - len(skipped), width, skipped)


def _checked(out: str | Path) -> Path:
    """The file to write, before hours of work are lost for want of a folder or a package."""
    path = Path(out).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} must end in one of {', '.join(SUFFIXES)}, which say the format.")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UserError(f"Cannot write {path}: it must be a file in a folder that is there.")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UserError(
            "A .parquet file needs pyarrow: pip install 'unmask[parquet]'; or write an .npz file."
        )
    return path


def _about(subject: Subject, place: Place) -> dict[str, Any]:
    assert subject.encoder is not None
    return {
        "unmask": __version__,
        "encoder": subject.name,
        "architecture": subject.encoder.architecture,
        "made_by": subject.made_by,
        "image_size": subject.image_size,
        **place._asdict(),
    }


def _rows(
    subject: Subject, loader: EvaluationLoader, place: Place, *, patches: bool, device: str, progress: bool
) -> Iterator[Rows]:
    """Batch by batch what can be read.

    Raises:
        UserError: nothing can.
    """
    encoder, source = subject.encoder, loader.source
    assert encoder is not None
    for images, labels, indices in watched(loader, len(source), "images" if progress else None):
        with torch.inference_mode():  # not around the yield, where it would reach the caller
            normalised = normalise(images.to(device, non_blocking=True), subject.mean, subject.std)
            found = layer_features(encoder, normalised, {place.layer})[place.layer]
            features = _array(found.pooled(place.pool))
            of_patches = _array(found.patches) if patches else None
        names = [_inside(source.name(index), source) for index in indices.tolist()]
        yield Rows(names, None if labels is None else labels.tolist(), features, of_patches)
    if len(loader.bad) == len(source):
        name, reason = next(iter(loader.bad.items()))
        raise UserError(f"None of the {len(source)} images could be read. The first, {name}: {reason}")


def _inside(name: str, source: Source) -> str:
    """The path inside the data, of the whole one, which messages show."""
    whole = str(source)
    return name[len(whole) + 1 :] if name.startswith(whole) else name


def _array(features: Tensor) -> np.ndarray:
    return features.float().cpu().numpy()


def _write_parquet(path: Path, rows: Iterator[Rows], classes: list[str] | None, about: str) -> None:
    import pyarrow
    from pyarrow import parquet

    with ExitStack() as stack:
        writer = None
        for some in rows:
            columns = {"name": pyarrow.array(some.names, pyarrow.string())}
            if some.labels is not None and classes is not None:
                columns["label"] = pyarrow.array([classes[label] for label in some.labels], pyarrow.string())
            columns["features"] = _column(some.features)
            if some.patches is not None:
                columns["patches"] = _column(some.patches)
            table = pyarrow.table(columns, metadata={"unmask": about})
            if writer is None:
                writer = stack.enter_context(parquet.ParquetWriter(path, table.schema))
            writer.write_table(table)


def _column(values: np.ndarray) -> Any:
    """An array of lists of one length, or of lists of such lists, without a copy of the numbers."""
    import pyarrow

    column = pyarrow.array(values.reshape(-1))
    for length in reversed(values.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, length)
    return column


def _write_npz(path: Path, rows: Iterator[Rows], classes: list[str] | None, about: str) -> None:
    parts = list(rows)
    arrays = {
        "name": np.array([name for some in parts for name in some.names]),
        "features": np.concatenate([some.features for some in parts]),
        "unmask": np.array(about),
    }
    if classes is not None:
        arrays["label"] = np.array([label for some in parts for label in some.labels or []], dtype=np.int64)
        arrays["classes"] = np.array(classes)
    if parts[0].patches is not None:
        arrays["patches"] = np.concatenate([some.patches for some in parts if some.patches is not None])
    np.savez(path, allow_pickle=False, **arrays)
