"""What pre-training is worth to a detector, and three stages of boxes to one: the tables of docs/detect.md.

    python -m benchmarks.detect DATA OUT [--run RUN] [--rows random run cascade] [--seeds 0 1 2]

DATA holds a folder of pictures and COCO's JSON for each part, `train` and `val`, perhaps `test`; or is what
`python -m benchmarks.cutouts` wrote. Without RUN, an encoder is pre-trained on the training pictures first,
one for every seed. Every row is trained with the settings of `unmask evaluate detect`'s small recipe; its
best weights on `val` are judged on `test`, or where there is none on `val`. What is in OUT already is not
repeated; the table is of what is there.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unmask import detect, load_detector, pretrain
from unmask.engine.files import write_text
from unmask.evaluate.detect import Annotations, average_precision, read_annotations

FIGURES = ("AP", "AP50", "AP75", "mask_AP", "mask_AP50")
JUDGED_AT = 0.05  # lowest score that counts, as in training
# Of the pre-training: squares of the pictures of which a cell is about as large as it is for the detector.
CROPS = {"data.crop_scale": (0.07, 0.25), "data.crop_ratio": (0.9, 1.11), "probe.every": 0}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train.

    Attributes:
        random: start from the weights that the run itself started from.
    """

    random: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "random": Row(random=True),
    "run": Row(),
    "cascade": Row(overrides={"heads.kind": "cascade"}),
}


@dataclass(frozen=True)
class Part:
    pictures: Path
    annotations: Path


def parts_of(data: Path) -> dict[str, Part]:
    """Training, validation, and what is judged."""
    if (data / "masks_training.json").is_file():
        found = {
            name: Part(data / "images" / name, data / f"masks_{name}.json")
            for name in ("training", "validation")
        }
        return {"train": found["training"], "val": found["validation"], "test": found["validation"]}
    found = {name: Part(data / name, data / f"{name}.json") for name in ("train", "val", "test")}
    return {**found, "test": found["test"] if found["test"].annotations.is_file() else found["val"]}


def pretrained(data: Path, out: Path, seed: int, epochs: int) -> Path:
    """A run of MAE on the training pictures; the one that is there if it is finished."""
    folder = out / f"mae-seed{seed}"
    if not (folder / "encoder.safetensors").is_file():
        pretrain(
            "mae",
            data=parts_of(data)["train"].pictures,
            out=folder,
            epochs=epochs,
            batch_size=32,
            seed=seed,
            workers=0,
            overwrite=True,
            progress=False,
            overrides=CROPS,
        )
    return folder


def measure(
    row: Row, run: Path, seed: int, data: Path, folder: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Train one detector, and judge it."""
    parts, start = parts_of(data), time.process_time()
    detect(
        run,
        data=parts["train"].pictures,
        annotations=parts["train"].annotations,
        val_data=parts["val"].pictures,
        val_annotations=parts["val"].annotations,
        out=folder,
        random=row.random,
        seed=seed,
        workers=0,
        overwrite=True,
        progress=False,
        overrides=row.overrides,
        **options,
    )
    minutes = (time.process_time() - start) / 60
    train = read_annotations(parts["train"].annotations, parts["train"].pictures)
    test = read_annotations(parts["test"].annotations, parts["test"].pictures, like=train)
    return {"cpu_minutes": minutes, **judge(folder, test)}


def judge(folder: Path, annotations: Annotations) -> dict[str, Any]:
    """The figures of a trained detector on a part that had no share in its training."""
    detector = load_detector(folder)
    if torch.cuda.is_available():
        detector = detector.cuda()
    photos = annotations.photos
    found = detector.find([photo.path for photo in photos], threshold=JUDGED_AT)
    pairs = {photo.id: own for photo, own in zip(photos, found, strict=True)}
    return average_precision(pairs, annotations, masks=detector.card.masks, each_class=True)


def table(out: Path) -> Table:
    """All runs that are in `out`, a line a row: per cent, mean over seeds (standard deviation)."""
    runs = {
        name: {
            int(path.stem.rsplit("seed", 1)[1]): json.loads(path.read_text())
            for path in sorted(out.glob(f"{name}-seed*.json"))
        }
        for name in ROWS
    }
    every = [one for own in runs.values() for one in own.values()]
    figures = [name for name in FIGURES if any(name in one for one in every)]
    classes = (
        [line["class"] for line in every[0]["classes"]] if every and len(every[0]["classes"]) < 6 else []
    )
    result = Table(title="average precision, per cent: mean over seeds")
    for column in (
        "",
        "seeds",
        "CPU min a run",
        *figures,
        *(f"AP {name}" for name in classes),
        "over random",
    ):
        result.add_column(column.replace("_", " "), justify="left" if not column else "right")
    for name, own in runs.items():
        if own:
            cells = [spread([100 * one[figure] for one in own.values()]) for figure in figures]
            cells += [spread([100 * of_class(one, title) for one in own.values()]) for title in classes]
            minutes = mean(one["cpu_minutes"] for one in own.values())
            result.add_row(name, str(len(own)), f"{minutes:.1f}", *cells, gain(own, runs["random"]))
    return result


def of_class(run: dict[str, Any], name: str) -> float:
    return next(line["AP"] or 0.0 for line in run["classes"] if line["class"] == name)


def gain(own: dict[int, Any], base: dict[int, Any]) -> str:
    """Mean difference of AP to the random start of the same seed, and its standard error."""
    both = [100 * (one["AP"] - base[seed]["AP"]) for seed, one in own.items() if seed in base]
    if own is base or not both:
        return ""
    error = f" ± {stdev(both) / len(both) ** 0.5:.1f}" if len(both) > 1 else ""
    return f"{mean(both):+.1f}{error}"


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds."""
    return f"{mean(values):.1f}" + (f" ({stdev(values):.1f})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path, help="pre-trained run to start from, for all seeds")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of the detector, instead of the recipe's")
    parser.add_argument("--pretraining-epochs", type=int, default=150)
    parser.add_argument("--image-size", type=int, nargs=2, default=(144, 192), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=150)
    given = {"epochs": options.epochs, "image_size": tuple(options.image_size)}
    for seed in options.seeds:
        run = options.run or pretrained(options.data, options.out, seed, options.pretraining_epochs)
        for name in options.rows:
            target = options.out / f"{name}-seed{seed}.json"
            if not target.is_file():
                folder = options.out / f"{name}-seed{seed}"
                result = measure(ROWS[name], run, seed, options.data, folder, given)
                write_text(target, json.dumps(result))
                console.print(table(options.out))
    console.print(table(options.out))


if __name__ == "__main__":
    main()
