"""What pre-training is worth in segmentation: a run against the weights that it started from.

    python -m benchmarks.segment RUN OUT [--data SCENES] [--seeds 0 1 2] [--epochs N] [KEY=VALUE ...]

Both are trained by `unmask evaluate segment` under the same budget, once with each seed, and the table is of
the runs that are in OUT; one that is there already is not repeated. Without SCENES the generated set of
`benchmarks.cutouts`, with colours that are typical of classes, is written into OUT and taken.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cutouts import write_cutouts
from unmask.engine.files import write_text
from unmask.evaluate.segment import segment
from unmask.options import key_values

STARTS = {"random": True, "trained": False}
FIGURES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


def run(
    start: str, name: str, seed: int, data: Path, folder: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Train one segmenter; its figures and what they cost."""
    began = time.process_time()
    segment(
        start,
        data=data,
        out=folder,
        random=STARTS[name],
        seed=seed,
        workers=0,
        device="cpu",
        overwrite=True,
        progress=False,
        **options,
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    cost = {"cpu_minutes": (time.process_time() - began) / 60, "steps": metrics["steps"]}
    return cost | {figure: metrics[figure] for figure in FIGURES}


def table(out: Path) -> Table:
    """All runs in `out`, a line for each start, and the difference seed by seed."""
    result = Table(
        title="segmentation, per cent of the validation scenes: mean (standard deviation) over seeds"
    )
    for column in ("", "seeds", "steps", "CPU min a run", *FIGURES.values()):
        result.add_column(column, justify="left" if not column else "right")
    found = {
        name: {int(path.stem.rpartition("seed")[2]): json.loads(path.read_text()) for path in paths}
        for name in STARTS
        if (paths := sorted(out.glob(f"{name}-seed*.json")))
    }
    for name, runs in found.items():
        each = list(runs.values())
        figures = [spread([100 * one[figure] for one in each]) for figure in FIGURES]
        minutes = f"{mean(one['cpu_minutes'] for one in each):.1f}"
        result.add_row(name, str(len(each)), str(each[0]["steps"]), minutes, *figures)
    both = sorted(set.intersection(*(set(runs) for runs in found.values()))) if len(found) == 2 else []
    if both:
        gains = [
            spread([100 * (found["trained"][seed][figure] - found["random"][seed][figure]) for seed in both])
            for figure in FIGURES
        ]
        result.add_row("gain", str(len(both)), "", "", *gains)
    return result


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds."""
    return f"{mean(values):.1f}" + (f" ({stdev(values):.1f})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="scenes; the generated ones if not given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of `unmask evaluate segment`")
    options = parser.parse_intermixed_args()  # settings may stand anywhere
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.data or options.out / "cutouts"
    if options.data is None and not (data / "classes.txt").is_file():
        write_cutouts(data, typical_colours=True)
    chosen = {"epochs": options.epochs, "overrides": key_values(options.settings)}
    console = Console(width=110)
    for seed in options.seeds:
        for name in STARTS:
            target = options.out / f"{name}-seed{seed}.json"
            if not target.is_file():
                folder = options.out / f"{name}-seed{seed}"
                write_text(target, json.dumps(run(options.run, name, seed, data, folder, chosen)))
                console.print(table(options.out))
    console.print(table(options.out))


if __name__ == "__main__":
    main()
