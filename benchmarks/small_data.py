"""What pre-training on a few thousand photos is worth: the table of docs/small-data.md, one command.

    python -m benchmarks.small_data DATA OUT [--rows mae simmim-swin simmim-vit] [--seeds 0 1 2]

DATA is a labelled folder with `train`, `validation` and `test`. Every row is pre-trained on `train` with each
seed; its encoder, and the same one with the random weights that a run of this seed starts from, are probed by
`unmask evaluate linear`'s classifier on one layer that was fixed beforehand. Both parts that are held out are
asked. A run that is in OUT already is not repeated; the table is of the runs that are there.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.probing import answers, gain
from unmask import pretrain
from unmask.engine.files import write_text
from unmask.evaluate import Place
from unmask.evaluate.subject import find_subject, untrained


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method and encoder, as `unmask pretrain` gets them.

    Attributes:
        epochs: length of the run.
        options: of `pretrain`; what is not named is the default for so few images.
        layer: block whose output is probed, mean over the patches; None is the last after the final norm.
    """

    method: str
    epochs: int
    options: dict[str, Any] = field(default_factory=dict)
    layer: int | None = None


ROWS = {
    "mae": Row(method="mae", epochs=40),
    "simmim-swin": Row(method="simmim", epochs=8),
    "simmim-vit": Row(
        method="simmim",
        epochs=24,
        options={
            "encoder": "vit_tiny_patch16_224",
            "image_size": 64,
            "batch_size": 64,
            "lr": 1e-3,
            "overrides": {
                "encoder.patch_size": 8,
                "encoder.depth": 6,
                "encoder.position": "sincos",
                "encoder.init": "mae",
                "method.mask_size": 8,
                "method.mask_ratio": 0.75,
                "method.local_window": 15,
                "method.loss": "l2",
                "data.crop_scale": (0.4, 1.0),
                "optim.betas": (0.9, 0.95),
                "schedule.warmup_epochs": 2,
            },
        },
    ),
}


def run(row: Row, seed: int, data: Path, folder: Path, epochs: int) -> dict[str, Any]:
    """Pre-train, and ask both encoders about every held-out image."""
    start = time.process_time()
    pretrain(
        row.method,
        data=data / "train",
        out=folder,
        epochs=epochs,
        seed=seed,
        workers=0,
        overwrite=True,
        progress=False,
        **row.options,
    )
    minutes = (time.process_time() - start) / 60
    return {"cpu_minutes": minutes, "epochs": epochs, **probe(row, seed, data, folder)}


def probe(row: Row, seed: int, data: Path, folder: Path) -> dict[str, list[bool]]:
    """Whether each held-out image is classified right, by the trained and by the initial encoder."""
    subject = find_subject(folder, image_size=None, seed=seed)
    encoders = {"trained": subject, "random": untrained(subject, seed=seed)}
    places = [Place(row.layer, "mean")]
    extractors = {name: one.extractor(places, "cpu") for name, one in encoders.items()}
    size = {"image_size": subject.image_size, "channels": subject.channels}
    return answers(extractors, data, kinds=["linear"], seed=seed, **size)["linear"]


def table(out: Path) -> Table:
    """All runs that are in `out`, a line a row."""
    result = Table(title="linear probe, top-1 % of the held-out images: mean over seeds")
    for column in ("", "seeds", "epochs", "CPU min a run", "random", "trained", "gain", "gain / s.e."):
        result.add_column(column, justify="left" if not column else "right")
    for name in ROWS:
        runs = [json.loads(path.read_text()) for path in sorted(out.glob(f"{name}-seed*.json"))]
        if not runs:
            continue
        difference, error = gain([one["trained"] for one in runs], [one["random"] for one in runs])
        accuracy = {
            key: [100 * mean(one[key]) for one in runs] for key in ("random", "trained")
        }  # of each seed
        result.add_row(
            name,
            str(len(runs)),
            str(runs[0]["epochs"]),
            f"{mean(one['cpu_minutes'] for one in runs):.1f}",
            *(spread(accuracy[key]) for key in ("random", "trained")),
            f"{100 * difference:.1f} ± {100 * error:.1f}",
            f"{difference / error:.1f}" if error else "",
        )
    return result


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds."""
    return f"{mean(values):.1f}" + (f" ({stdev(values):.1f})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="instead of those of the table")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    for seed in options.seeds:
        for name in options.rows:
            target = options.out / f"{name}-seed{seed}.json"
            if not target.is_file():
                folder = options.out / f"{name}-seed{seed}"
                row = ROWS[name]
                result = run(row, seed, options.data, folder, options.epochs or row.epochs)
                write_text(target, json.dumps(result))
                console.print(table(options.out))
    console.print(table(options.out))


if __name__ == "__main__":
    main()
