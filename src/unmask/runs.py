"""A run folder read back, at any stage of the run: its log, its recipe, its method."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import SAFE_WEIGHTS_NAME
from pydantic import ValidationError
from safetensors.torch import load_file

from unmask.data import Source
from unmask.engine.checkpoint import AVERAGE, checkpoints
from unmask.errors import UserError
from unmask.methods import Method
from unmask.recipes.base import Plan, Recipe, explain
from unmask.recipes.base import read_plan as parse_plan
from unmask.recipes.build import build_method

Line = Mapping[str, Any]
STATUS = {"end": "finished", "stopped": "interrupted", "failed": "failed"}


@dataclass(frozen=True)
class Log:
    """What log.jsonl holds.

    Attributes:
        steps: training lines, one a step, ascending; of a step that was trained again after a crash the
            last counts.
        events: all other lines, in the order written.
        seconds: time spent training, without the pauses between an interruption and its resume.
    """

    steps: tuple[Line, ...]
    events: tuple[Line, ...]
    seconds: float

    def all(self, name: str) -> list[Line]:
        """The events of one name."""
        return [event for event in self.events if event["event"] == name]

    def last(self, *names: str) -> Line:
        """The newest event with one of these names; empty if there is none."""
        return next((event for event in reversed(self.events) if event["event"] in names), {})

    def numbers(self, key: str) -> list[float]:
        """A field of all training lines, where it is a finite number."""
        return [value for line in self.steps if (value := number(line, key)) is not None]

    @property
    def status(self) -> str:
        """finished, interrupted (it said so), failed, or unfinished: still running, or killed."""
        return STATUS.get(self.last("start", "resume", *STATUS).get("event", ""), "unfinished")


def number(line: Line, key: str) -> float | None:
    """A field as a number; None if it is missing, of another type, or not finite."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def location(data: Any) -> str:
    """What logs call the data: a path that is right from any folder, or what a source calls itself."""
    if isinstance(data, str | Path):
        return str(Path(data).expanduser().resolve())
    return str(data) if isinstance(data, Source) else f"a {type(data).__name__} of images"


def read_log(path: Path) -> Log:
    """Read a log that may be missing, still be written to, or have been cut off in the middle of a line."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    steps: dict[int, Line] = {}
    events: list[Line] = []
    seconds, before = 0.0, None
    for raw in text.splitlines():
        line = _parse(raw)
        now = number(line, "time")
        if "event" in line:
            events.append(line)
            before = now if line["event"] in ("start", "resume") else before
        elif isinstance(line.get("step"), int):
            steps[line["step"]] = line
            if now is not None:
                seconds += max(0.0, now - before) if before is not None else 0.0
                before = now
    return Log(tuple(steps[step] for step in sorted(steps)), tuple(events), seconds)


def _parse(raw: str) -> Line:
    try:
        line = json.loads(raw)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run folder; empty if the file is missing."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not hold a JSON object ({error}). Restore the file, or train again."
        ) from error


def task_of(run: Path) -> str | None:
    """What was learned from labels in a run folder, "finetune" for instance; None of all other folders."""
    path = run / "recipe.json"
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return recipe.get("kind") if isinstance(recipe, dict) and isinstance(recipe.get("kind"), str) else None


def read_plan(run: Path) -> Plan:
    """The recipe of a run folder in which something was pre-trained.

    Raises:
        UserError: it is no run folder, or its recipe is of another version or was damaged.
    """
    path = run / "recipe.json"
    if not path.is_file():
        raise UserError(
            f"{run} is not a run folder: it has no recipe.json. "
            "Give the folder that --out named when pre-training."
        )
    if kind := task_of(run):
        raise UserError(
            f"{run} holds what `unmask evaluate {kind}` trained; give the folder of a pre-training run"
        )
    try:
        return parse_plan(path)
    except ValidationError as error:
        raise UserError(f"{path} is no recipe that this version can read: {explain(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: it is no text ({error.reason})") from error


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run folder in which a method was trained.

    Raises:
        UserError: as `read_plan`, or it holds a tokenizer.
    """
    plan = read_plan(run)
    if not isinstance(plan, Recipe):
        raise UserError(f"{run} holds a tokenizer, {plan.name}; give the folder of an encoder's run")
    return plan


def load_method(run: Path, recipe: Recipe | None = None) -> Method:
    """The method of a run as of its newest checkpoint, on the CPU, in evaluation mode.

    If the run averages its weights, these are taken.

    Args:
        recipe: to build the method from, if options that shape no weights should differ; None is the run's.

    Raises:
        UserError: no run folder, no checkpoint yet, or weights that do not fit the recipe.
    """
    recipe = recipe or read_recipe(run)
    found = checkpoints(run / "checkpoints")
    if not found:
        raise UserError(f"{run} has no checkpoint yet; wait until the run has saved one")
    average = found[-1] / AVERAGE
    path = average if average.is_file() else found[-1] / SAFE_WEIGHTS_NAME
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn first, which should disturb nobody
        method = build_method(recipe, folder=run)
    try:
        # Wrappers for several devices and for compilation leave their prefix on every name.
        weights = {
            name.removeprefix("module.").removeprefix("_orig_mod."): tensor
            for name, tensor in load_file(path).items()
        }
        method.load_state_dict(weights)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} does not hold the weights of the run's recipe: {error}") from error
    return method.eval()
