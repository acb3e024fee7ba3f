"""The loader against torchvision's, in images per CPU second of one core.

    python benchmarks/loader.py --photos any/folder/of/photos

Both read the same JPEGs and give 224 x 224 random crops, mirrored or not. torchvision: ImageFolder (Pillow),
RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize, the default collation. unmask: the batches of bytes
that its workers send, and, in a column of its own, these and their normalisation on the same core, which a run
on an accelerator does there. Nobody has workers; rounds are interleaved and the median counts.

Photos of the three sizes are made from those in the folder (without one, from the bundled drawings): enlarged, and
given the grain of a sensor, without which enlarged pictures would be too easy to decode. A file has about as many
bits a pixel as one from a camera; the table says how many.
"""

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from unmask.data import Augment, PretrainLoader, View, decode, make_views, open_image, open_source
from unmask.data.decode import load_crop, oriented_size
from unmask.data.views import IMAGENET_MEAN, IMAGENET_STD, normalise, random_crop
from unmask.demo_data import demo_archive

SIZES = {"160 x 213": ((213, 160), 400), "500 x 375": ((500, 375), 200), "4000 x 3000": ((4000, 3000), 8)}
SIDE, CROP_SCALE = 224, (0.2, 1.0)
QUALITY, GRAIN = 90, 6.0  # of the JPEG; standard deviation in grey levels
VIEWS = {"images": View()}
ENOUGH = 1.0  # CPU seconds of a part in a round, about


def make_photos(source_path: Path, folder: Path, size: tuple[int, int], count: int) -> float:
    """Writes the photos; returns kilobytes of one."""
    source, generator = open_source(source_path), np.random.default_rng(0)
    (folder / "all").mkdir(parents=True)
    total = 0
    for number, index in enumerate(generator.choice(len(source), count, replace=count > len(source))):
        picture = decode(source.read(int(index)))
        if picture.height > picture.width:
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        grain = generator.standard_normal(pixels.shape[:2], dtype=np.float32)[:, :, None] * GRAIN
        path = folder / "all" / f"{number:04}.jpg"
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(path, quality=QUALITY)
        total += path.stat().st_size
    return total / count / 1000


def torchvision_batches(folder: Path, batch_size: int, interpolation: str) -> Iterator:
    prepare = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                SIDE, scale=CROP_SCALE, interpolation=transforms.InterpolationMode(interpolation)
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    loader = DataLoader(datasets.ImageFolder(folder, prepare), batch_size=batch_size, shuffle=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def seconds(work: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        work()
    return time.process_time() - start


def measure(folder: Path, augment: Augment, batch_size: int, rounds: int) -> dict[str, float]:
    """CPU milliseconds per image of each part."""
    source = open_source(folder)
    loader = PretrainLoader(source, VIEWS, augment, batch_size=batch_size, seed=0, workers=0)
    theirs = torchvision_batches(folder, batch_size, augment.interpolation)
    ours, normalised = loader.batches(), (normalise(batch["images"]) for batch in loader.batches())
    batches = {"torchvision": theirs, "unmask": ours, "normalised": normalised}
    indices = itertools.cycle(range(len(source)))

    def crop_of(index: int) -> np.ndarray:
        image = open_image(source.read(index))
        box_and_shrink = crop_box(oriented_size(image), augment, index)
        return load_crop(image, box_and_shrink[0], shrink=box_and_shrink[1])

    def view_of(index: int) -> dict[str, torch.Tensor]:
        return make_views(open_image(source.read(index)), VIEWS, augment, np.random.default_rng(index))

    steps = {"read": source.read, "decode": crop_of, "resize": view_of}
    work: dict[str, Callable[[], object]] = {
        name: functools.partial(next, iterator) for name, iterator in batches.items()
    }
    for name, step in steps.items():
        work[name] = functools.partial(lambda step: [step(next(indices)) for _ in range(batch_size)], step)
    repeats = {name: max(1, round(ENOUGH / max(seconds(call, 1), 1e-6) / 4)) for name, call in work.items()}
    repeats = {name: min(count, 40) for name, count in repeats.items()}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            times[name].append(seconds(call, repeats[name]) / repeats[name] / batch_size * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def crop_box(size: tuple[int, int], augment: Augment, seed: int) -> tuple[tuple[int, int, int, int], float]:
    left, top, width, height = random_crop(size, augment, np.random.default_rng(seed))
    return (left, top, left + width, top + height), min(width, height) / SIDE


def likeness(folder: Path, augment: Augment) -> float:
    """Decibels (PSNR) between our views and Pillow's full decoding and resampling of the same crops."""
    source, errors = open_source(folder), []
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for index in range(min(len(source), 100)):
        data = source.read(index)
        generator = np.random.default_rng(index)
        view = make_views(open_image(data), VIEWS, augment, np.random.default_rng(index))["images"]
        full = decode(data)
        left, top, width, height = random_crop(full.size, augment, generator)
        exact = full.crop((left, top, left + width, top + height)).resize(
            (SIDE, SIDE), filters[augment.interpolation]
        )
        if generator.random() < 0.5:
            exact = exact.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        errors.append((view.permute(1, 2, 0).double() - torch.from_numpy(np.array(exact))).square().mean())
    return float(10 * torch.log10(255**2 / torch.stack(errors).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path(demo_archive()), help="folder, zip or tar")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="images per CPU second, one core, 224 px; shares of unmask's time in per cent")
    for heading in (
        "photos", "filter", "torchvision", "unmask", "ratio", "ratio, both normalised", "read", "decode",
        "resize", "collate", "like Pillow",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("photos", "filter") else "right")
    for name, (size, count) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            kilobytes = make_photos(options.photos, Path(folder, "data"), size, count)
            for interpolation in ("bilinear", "bicubic"):
                augment = Augment((SIDE, SIDE), CROP_SCALE, interpolation=interpolation)
                times = measure(Path(folder, "data"), augment, min(50, count), options.rounds)
                whole = times["unmask"]
                # Each step is timed with those before it.
                parts = [times["read"], times["decode"], times["resize"], whole]
                shares = [(b - a) / whole for a, b in itertools.pairwise([0.0, *parts])]
                table.add_row(
                    f"{name}, {kilobytes:.0f} kB",
                    interpolation,
                    f"{1000 / times['torchvision']:.0f}",
                    f"{1000 / whole:.0f}",
                    f"{times['torchvision'] / whole:.2f}",
                    f"{times['torchvision'] / times['normalised']:.2f}",
                    *(f"{max(share, 0):.0%}"[:-1] for share in shares),
                    f"{likeness(Path(folder, 'data'), augment):.1f} dB",
                )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
