"""A table of the colours of one's own images, for targets that are classes of colours."""

import warnings
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.vq import kmeans2

from unmask.data import EvaluationLoader, Source, Subset, open_source
from unmask.errors import UserError

SIDE = 64  # pixels that pictures are scaled to: what is left is colour, not noise
POINTS = 2**17  # pixels that are clustered
SEEDS = 2**13  # of them, among which k-means++ chooses where to start
ROUNDS = 20  # of Lloyd's algorithm
SWATCH = 16  # pixels along the side of a colour in the picture


def colours(
    data: str | Path | Source,
    *,
    out: str | Path,
    count: int = 512,
    pictures: int = 2000,
    channels: int = 3,
    seed: int = 0,
) -> Path:
    """Cluster the pixels of images by k-means, and write the centres: a table for `method.colours`.

    Args:
        data: folder, zip or tar of images, or an open source.
        out: `.npy` file to write, [count, channels] float32, pixels in [0, 1], dark ones first; of grey and
            RGB images a PNG beside it shows them.
        count: clusters; Image GPT and SimMIM's ablation use 512.
        pictures: that are looked at, evenly spread over the data.
        channels: of the images.
        seed: of the pixels that are taken, and of the first centres.

    Returns:
        The file.

    Raises:
        UserError: images that cannot be read, or with fewer colours than clusters; a file that exists.
    """
    target = Path(out)
    if target.suffix != ".npy":
        raise UserError(f"{target}: tables of colours are written as .npy; give a name that ends so")
    if target.exists():
        raise UserError(f"{target} exists, and runs may depend on it; give another name, or delete it")
    if not 2 <= count <= SEEDS or pictures < 1:
        raise UserError(f"count={count} must be 2 to {SEEDS:,}, and pictures={pictures} at least 1")
    source = open_source(data)
    generator = np.random.default_rng(seed)
    points = _pixels(source, pictures, channels, generator)
    table = cluster(points, count, generator)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, table)
        if channels in (1, 3):
            _picture(table).save(target.with_suffix(".png"))
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def cluster(
    points: Float[NDArray, "N C"], count: int, generator: np.random.Generator
) -> Float[NDArray, "K C"]:
    """The centres of `count` clusters by k-means, sorted by brightness."""
    different = np.unique(points, axis=0)
    if len(different) < count:
        raise UserError(
            f"the images have {len(different):,} different colours, too few for {count:,} clusters; take "
            "fewer (--count), or look at more pictures (--pictures)"
        )
    seeds = generator.permutation(different)[:SEEDS]
    start, _ = kmeans2(seeds, count, iter=1, minit="++", rng=generator)
    with warnings.catch_warnings():
        # A cluster that lost its last point keeps its colour.
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, _ = kmeans2(points, start, iter=ROUNDS, minit="matrix")
    return centres[np.argsort(centres.mean(1), kind="stable")].astype(np.float32)


def _pixels(
    source: Source, pictures: int, channels: int, generator: np.random.Generator
) -> Float[NDArray, "N C"]:
    """Pixels in [0, 1], as many of every picture."""
    chosen = min(pictures, len(source))
    each = min(SIDE**2, -(-POINTS // chosen))
    loader = EvaluationLoader(
        Subset(source, [index * len(source) // chosen for index in range(chosen)]),
        (SIDE, SIDE),
        batch_size=64,
        channels=channels,
        crop_fraction=1.0,
        interpolation="bilinear",
        pin_memory=False,
    )
    taken = []
    for images, _labels, _indices in loader:
        pixels = rearrange(images.numpy(), "b c h w -> b (h w) c")
        places = generator.permuted(np.tile(np.arange(SIDE**2), (len(pixels), 1)), axis=1)[:, :each]
        taken.append(rearrange(np.take_along_axis(pixels, places[..., None], axis=1), "b n c -> (b n) c"))
    return np.concatenate(taken).astype(np.float64) / 255


def _picture(table: Float[NDArray, "K C"]) -> Image.Image:
    """All colours as squares, row by row."""
    columns = int(np.ceil(np.sqrt(2 * len(table))))
    rows = -(-len(table) // columns)
    squares = np.ones((rows * columns, 3))
    squares[: len(table)] = table
    canvas = rearrange((squares * 255).round().astype(np.uint8), "(r c) d -> r c d", r=rows)
    return Image.fromarray(canvas.repeat(SWATCH, 0).repeat(SWATCH, 1))
