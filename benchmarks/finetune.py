"""What pre-training is worth to fine-tuning on a few thousand labelled photos, one command.

    python -m benchmarks.finetune DATA OUT [--rows mae simmim-swin itpn] [--seeds 0 1 2] [--epochs N]
        [--pretrained DIR] [--fraction 0.1]

DATA is a labelled folder with `train`, `validation` and `test`. Every row is pre-trained on `train` without
labels, with each seed; a run that lies in DIR as ROW-seedN, as `benchmarks.small_data` leaves it, is taken
instead, and the CPU minutes of its ROW-seedN.json. Then it is fine-tuned on the same pictures with labels,
and so is the same network from the random weights that the run began with: the same steps, augmentation, seed
and learning rate of the head. Only layer decay is left out there, which holds back weights that know nothing.
The weights that are best on the validation images answer the test images, once. What is in OUT already is not
repeated, and what was stopped goes on, its CPU minutes counted from there; the table is of what is there.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from benchmarks.probing import gain, percent
from benchmarks.small_data import ROWS as SMALL_DATA
from benchmarks.small_data import Row
from unmask import pretrain
from unmask.engine.files import write_text
from unmask.evaluate.finetune import finetune
from unmask.runs import read_json, read_log

ROWS = {
    "mae": SMALL_DATA["mae"],
    "simmim-swin": SMALL_DATA["simmim-swin"],
    "itpn": Row(method="itpn", epochs=24),
}
EPOCHS = {"mae": 10, "simmim-swin": 40, "itpn": 10}  # of fine-tuning: about the same CPU minutes
COLUMNS = (
    "",
    "seeds",
    "epochs",
    "CPU min to pre-train",
    "CPU min to fine-tune",
    "random",
    "pre-trained",
    "gain",
    "gain / s.e.",
)


def pretrained(name: str, seed: int, data: Path, out: Path, epochs: int | None) -> tuple[Path, float]:
    """The run of a row, and the CPU minutes that it took here."""
    row, folder = ROWS[name], out / f"{name}-seed{seed}-pretrained"
    start = time.process_time()
    options: dict[str, Any] = {} if (folder / "recipe.json").exists() else dict(row.options)
    pretrain(
        row.method,
        data=data / "train",
        out=folder,
        epochs=epochs or row.epochs,
        seed=seed,
        workers=0,
        resume=True,
        progress=False,
        **options,
    )
    return folder, (time.process_time() - start) / 60


def run(start: Path, seed: int, data: Path, out: Path, *, random: bool, **options: Any) -> dict[str, Any]:
    """Fine-tune, and say of every test image whether it was answered right."""
    began = time.process_time()
    finetune(
        start, data=data, out=out, seed=seed, random=random, workers=0, resume=True, progress=False, **options
    )
    metrics = read_json(out / "metrics.json")
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == metrics["judged_by"]]
    return {
        "right": [row["right"] == "1" for row in rows],
        "minutes": (time.process_time() - began) / 60,
        "steps": metrics["steps"],
        "recipe": metrics["recipe"],
        "images": metrics["train"]["images"],
    }


def table(out: Path) -> str:
    """All results that are in `out`, a line a row, as Markdown."""
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1))]
    for name in ROWS:
        found = [json.loads(path.read_text()) for path in sorted(out.glob(f"{name}-seed*.json"))]
        if not found:
            continue
        both = [[one[kind]["right"] for one in found] for kind in ("random", "trained")]
        difference, error = gain(both[1], both[0])
        known = [one["pretraining"] for one in found if one["pretraining"] is not None]
        fine = mean(one[kind]["minutes"] for one in found for kind in ("random", "trained"))
        lines.append(
            (
                name,
                str(len(found)),
                str(found[0]["epochs"]),
                f"{mean(known):.1f}" if known else "–",
                f"{fine:.1f}",
                percent(both[0]),
                percent(both[1]),
                f"{100 * difference:.1f} ± {100 * error:.1f}",
                f"{difference / error:.1f}" if error else "",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def complete(folder: Path) -> bool:
    """Whether a run has finished."""
    return read_log(folder / "log.jsonl").status == "finished"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of fine-tuning, instead of those of the row")
    parser.add_argument("--pretraining-epochs", type=int, help="instead of those of the row")
    parser.add_argument("--pretrained", type=Path, help="folder of runs that are there already")
    parser.add_argument("--fraction", type=float, help="of the labelled images to train on")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=160)
    for seed in options.seeds:
        for name in options.rows:
            target = options.out / f"{name}-seed{seed}.json"
            if target.is_file():
                continue
            there = None if options.pretrained is None else options.pretrained / f"{name}-seed{seed}"
            if there is not None and complete(there):
                start, minutes = there, read_json(there.with_suffix(".json")).get("cpu_minutes")
            else:
                start, minutes = pretrained(name, seed, options.data, options.out, options.pretraining_epochs)
            epochs = options.epochs or EPOCHS[name]
            result: dict[str, Any] = {"epochs": epochs, "pretraining": minutes}
            for kind in ("random", "trained"):
                folder = options.out / f"{name}-seed{seed}-{kind}"
                own = {"epochs": epochs, "fraction": options.fraction, "random": kind == "random"}
                result[kind] = run(start, seed, options.data, folder, **own)
            write_text(target, json.dumps(result))
            console.print(table(options.out), highlight=False, soft_wrap=True)
    console.print(table(options.out), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
