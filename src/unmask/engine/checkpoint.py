"""Checkpoints of a run: whole or not there, the newest few kept.

A checkpoint is a folder `step_00000100` with what Accelerate saves (weights as safetensors, optimiser,
gradient scaler, random states of Python, NumPy and torch), the averaged weights if there are any, and
`state.json`, the rest.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_model, save_model
from timm.utils import ModelEmaV3

from unmask.engine.files import LEFTOVER, leftovers, publish, remove

NAME = re.compile(r"step_(\d{8,})")
AVERAGE = "ema.safetensors"
STATE = "state.json"


@dataclass(kw_only=True)
class State:
    """Where a run stands, beside weights and random numbers.

    Attributes:
        step: optimiser steps done.
        images: in the data set, on which the order of the images depends.
        loss: of the last step; None before the first.
        seconds: spent training, over all resumptions.
        bad: name -> reason of the images that could not be read so far.
        best: step of the checkpoint whose probe scored best; None if none has a score.
        best_score: what it scored.
    """

    images: int
    step: int = 0
    loss: float | None = None
    seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)
    best: int | None = None
    best_score: float = 0.0


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first, without what a killed process left unfinished."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def checkpoint_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step_{step:08d}"


def save_checkpoint(
    accelerator: Accelerator,
    ema: ModelEmaV3 | None,
    state: State,
    folder: Path,
    *,
    keep: int,
    best: int | None,
) -> None:
    """Write `folder/step_XXXXXXXX` and keep the newest `keep` checkpoints, and that of the step `best`. All
    processes call this."""
    path = folder / checkpoint_name(state.step)
    if path.exists():
        return
    unfinished = folder / f"{LEFTOVER}{path.name}"
    if accelerator.is_main_process:
        for leftover in leftovers(folder):
            remove(leftover)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if ema is not None:
            save_model(ema.module, str(unfinished / AVERAGE))
        (unfinished / STATE).write_text(json.dumps(asdict(state)))
        publish(unfinished, path)
        for old in checkpoints(folder)[:-keep]:
            if best is None or old.name != checkpoint_name(best):
                # Renamed first: a process killed while deleting must not leave half a checkpoint with a full
                # name.
                remove(old.rename(folder / f"{LEFTOVER}{old.name}"))
    accelerator.wait_for_everyone()


def read_state(path: Path) -> State:
    """The small part of a checkpoint."""
    return State(**json.loads((path / STATE).read_text()))


def load_checkpoint(accelerator: Accelerator, ema: ModelEmaV3 | None, path: Path) -> None:
    """Put a checkpoint's weights, optimiser and random states in place."""
    accelerator.load_state(str(path))
    if ema is not None:
        load_model(ema.module, str(path / AVERAGE))
