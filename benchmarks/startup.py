"""How long one waits for the first sign of life: each line the median of fresh processes.

    python -m benchmarks.startup

Seconds of the clock, and of the processor, which other programs on the machine do not lengthen.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

PICTURES = 64
UNMASK = [sys.executable, "-m", "unmask.cli"]


def finished(command: list[str]) -> tuple[float, float]:
    """Clock and processor seconds of a command, from its start to its end."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        spent = _processor_seconds(process)
    if process.returncode:
        raise RuntimeError(f"{command} failed")
    return time.perf_counter() - start, spent


def until_logged(command: list[str], log: Path) -> tuple[float, float]:
    """Clock and processor seconds until a training line stands in `log`; the run is then killed."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (log.exists() and '"loss"' in log.read_text()):
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended without a loss")
            time.sleep(0.002)
        elapsed = time.perf_counter() - start
        process.send_signal(signal.SIGKILL)
        spent = _processor_seconds(process)
    return elapsed, spent


def _processor_seconds(process: subprocess.Popen[bytes]) -> float:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def pictures(folder: Path) -> Path:
    """A small folder of noise, 160 x 120 pixels."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(PICTURES):
        pixels = generator.integers(0, 255, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.jpg")
    return folder


def first_loss(data: Path, out: Path) -> tuple[float, float]:
    """Of a method with its defaults; loading the data in the training process starts soonest."""
    command = [*UNMASK, "pretrain", "mae", "--data", str(data), "--out", str(out), "--workers", "0"]
    return until_logged(command, out / "log.jsonl")


def main(runs: Annotated[int, typer.Option(min=1, help="Processes for each line.")] = 5) -> None:
    """Time the start of commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = pictures(folder / "pictures")
        measured: dict[str, Callable[[int], tuple[float, float]]] = {
            "python -c pass": lambda _: finished([sys.executable, "-c", "pass"]),
            "import unmask": lambda _: finished([sys.executable, "-c", "import unmask"]),
            "unmask --help": lambda _: finished([*UNMASK, "--help"]),
            "unmask --version": lambda _: finished([*UNMASK, "--version"]),
            "import torch": lambda _: finished([sys.executable, "-c", "import torch"]),
            f"first loss of MAE, {PICTURES} pictures": lambda run: first_loss(data, folder / f"run{run}"),
        }
        drawn = Table("", "seconds", "lowest", "highest", "CPU seconds", title=f"Median of {runs}")
        taken: dict[str, list[tuple[float, float]]] = {what: [] for what in measured}
        for run in range(runs):
            for what, work in measured.items():
                taken[what].append(work(run))
    for what, pairs in taken.items():
        clock, processor = zip(*pairs, strict=True)
        numbers = median(clock), min(clock), max(clock), median(processor)
        drawn.add_row(what, *(f"{number:.2f}" for number in numbers))
    Console().print(drawn)


if __name__ == "__main__":
    typer.run(main)
