"""The loader against torchvision's, in images per CPU second of one core.

    python -m benchmarks.loader any/folder/of/photos

Both read the same JPEGs and give random crops of 224 x 224 pixels, mirrored or not. torchvision: ImageFolder
(Pillow), RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize, the default collation. unmask: the
batches of bytes that its workers send, and, in a ratio of its own, these and their normalisation on the same
core, which a run on an accelerator does there. Neither has workers. Rounds are interleaved and the best one
counts: the others tell how much of the caches other programs took.

Photos of the three sizes are made from those in the folder (without one, from the bundled drawings):
enlarged, and given the grain of a sensor, without which they would be too easy to decode. The largest are
read a second time as `unmask shrink` leaves them; torchvision still reads the originals then.
"""

import functools
import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from unmask.data import Augment, PretrainLoader, View, decode, make_views, open_image, open_source
from unmask.data.decode import load_crop, oriented_size
from unmask.data.views import IMAGENET_MEAN, IMAGENET_STD, normalise, random_crop
from unmask.demo_data import demo_archive
from unmask.shrink import shrink

SIZES = {"160 x 213": ((213, 160), 400), "500 x 375": ((500, 375), 200), "4000 x 3000": ((4000, 3000), 8)}
SIDE, CROP_SCALE = 224, (0.2, 1.0)
QUALITY, GRAIN = 90, 6.0  # of the JPEG; standard deviation in grey levels
VIEWS = {"images": View()}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
STEPS = ("read", "decode", "resize", "collate")
SHRUNK = 512  # pixels of the shorter side
EPOCHS = (1, 3, 10, 100)  # of a run on photos that are shrunk first
ROUND = 0.25  # CPU seconds of a part in a round, about


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


def measure(
    folder: Path, originals: Path, augment: Augment, batch_size: int, rounds: int
) -> dict[str, float]:
    """CPU milliseconds per image of each part; torchvision reads the originals."""
    source = open_source(folder)
    loader = PretrainLoader(source, VIEWS, augment, batch_size=batch_size, seed=0, workers=0)
    theirs = torchvision_batches(originals, batch_size, augment.interpolation)
    ours, normalised = loader.batches(), (normalise(batch["images"]) for batch in loader.batches())
    batches = {"torchvision": theirs, "collate": ours, "normalised": normalised}
    indices = itertools.cycle(range(len(source)))

    def crop_of(index: int) -> np.ndarray:
        image = open_image(source.read(index))
        generator = np.random.default_rng(index)
        left, top, width, height = random_crop(oriented_size(image), augment, generator)
        return load_crop(image, (left, top, left + width, top + height), shrink=min(width, height) / SIDE)

    def view_of(index: int) -> dict[str, torch.Tensor]:
        return make_views(open_image(source.read(index)), VIEWS, augment, np.random.default_rng(index))

    steps = {"read": source.read, "decode": crop_of, "resize": view_of}
    work: dict[str, Callable[[], object]] = {
        name: functools.partial(next, iterator) for name, iterator in batches.items()
    }
    for name, step in steps.items():
        work[name] = functools.partial(lambda step: [step(next(indices)) for _ in range(batch_size)], step)
    repeats = {
        name: min(40, max(1, round(ROUND / max(seconds(call, 1), 1e-6)))) for name, call in work.items()
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            times[name].append(seconds(call, repeats[name]) / repeats[name] / batch_size * 1000)
    return {name: min(values) for name, values in times.items()}


def likeness(folder: Path, originals: Path, augment: Augment) -> float:
    """Decibels (PSNR) between our views and Pillow's full decoding and resampling of the same crops."""
    source, whole, errors = open_source(folder), open_source(originals), []
    for index in range(min(len(source), 100)):
        data = source.read(index)
        generator = np.random.default_rng(index)
        view = make_views(open_image(data), VIEWS, augment, np.random.default_rng(index))["images"]
        full = decode(whole.read(index))
        own = decode(data).size
        left, top, width, height = random_crop(own, augment, generator)
        scale = full.width / own[0]  # the same crop of the original
        exact = full.crop(tuple(round(scale * x) for x in (left, top, left + width, top + height)))
        exact = exact.resize((SIDE, SIDE), FILTERS[augment.interpolation])
        if generator.random() < 0.5:
            exact = exact.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        errors.append((view.permute(1, 2, 0).double() - torch.from_numpy(np.array(exact))).square().mean())
    return float(10 * torch.log10(255**2 / torch.stack(errors).mean()))


def with_children() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def whole_runs(shrinking: float, times: Mapping[str, float]) -> str:
    """How many times torchvision's images a CPU second a run gets that shrinks first, by its epochs.

    Args:
        shrinking: CPU milliseconds a photo.
        times: of an image, as `measure` gives them.
    """
    ratios = {
        epochs: epochs * times["torchvision"] / (shrinking + epochs * times["collate"]) for epochs in EPOCHS
    }
    listed = ", ".join(f"{ratio:.1f} over {epochs}" for epochs, ratio in ratios.items())
    return f"Shrinking takes {shrinking:.0f} CPU ms a photo, once; with it, the ratio is {listed} epochs."


def main(
    photos: Annotated[
        Path | None, typer.Argument(help="Folder, zip or tar of photos; without, the bundled drawings.")
    ] = None,
    rounds: int = 9,
) -> None:
    torch.set_num_threads(1)
    table = Table(title="images per CPU second; shares of unmask's time in per cent")
    for heading in ("photos", "filter"):
        table.add_column(heading)
    for heading in ("kB", "torchvision", "unmask", "ratio", "normalised", *STEPS, "as Pillow"):
        table.add_column(heading, justify="right")
    runs: list[str] = []
    for name, (size, count) in SIZES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder, smaller = Path(temporary, "photos"), Path(temporary, "smaller")
            kilobytes = make_photos(photos or demo_archive(), folder, size, count)
            kinds = {name: folder}
            if min(size) > SHRUNK:
                before = with_children()
                done = shrink(folder, out=smaller, side=SHRUNK, workers=1, progress=False)
                shrinking = 1000 * (with_children() - before) / count
                kinds[f"the same, shrunk to {SHRUNK}"] = smaller
            for kind, read in kinds.items():
                for interpolation in FILTERS:
                    augment = Augment((SIDE, SIDE), CROP_SCALE, interpolation=interpolation)
                    times = measure(read, folder, augment, min(50, count), rounds)
                    if read is smaller:
                        runs.append(whole_runs(shrinking, times))
                    # Each step was timed with those before it.
                    sums = [times[step] for step in STEPS]
                    shares = [(end - start) / sums[-1] for start, end in itertools.pairwise([0.0, *sums])]
                    table.add_row(
                        kind,
                        interpolation,
                        f"{done.after / count / 1000 if read is smaller else kilobytes:.0f}",
                        *(f"{1000 / times[who]:.0f}" for who in ("torchvision", "collate")),
                        *(f"{times['torchvision'] / times[what]:.2f}" for what in ("collate", "normalised")),
                        *(f"{100 * max(share, 0):.0f}" for share in shares),
                        f"{likeness(read, folder, augment):.1f} dB",
                    )
    console = Console(width=140)
    console.print(table)
    for line in runs:
        console.print(line)


if __name__ == "__main__":
    typer.run(main)
