"""The folder of a run: may it be written, what is in it already, and what a run hands back."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.data import Source
from unmask.engine.checkpoint import STATE, State, checkpoints, read_state
from unmask.engine.files import leftovers, remove
from unmask.engine.lock import LOCK
from unmask.errors import UserError
from unmask.recipes.base import AnyPlan, Plan
from unmask.recipes.build import with_defaults
from unmask.runs import read_log, read_plan, task_of

# Everything that a run makes, and what was made of it; nothing else is ever deleted.
MADE = (
    "recipe.json",
    "environment.json",
    "log.jsonl",
    "metrics",
    "images",
    "checkpoints",
    "encoder.safetensors",
    "encoder.json",
    "report.html",
)
MADE_SOMETIMES = (
    "failures",
    "encoder_best.safetensors",
    "encoder_best.json",
    "pyramid.safetensors",
    "pyramid_best.safetensors",
    "tokenizer.safetensors",
    "tokenizer.json",
)
FIRST_STAGE = "tokenizer"  # folder in a run's folder, of the run of the tokenizer that was trained for it
MADE_OF_IT = ("export", "reconstructions")
UNIMPORTANT = ("checkpoint.", "probe.", "validation.")  # settings that do not change a run's weights


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `pretrain` and `train_tokenizer` hand back.

    Attributes:
        folder: of the run.
        step: optimiser steps done, of `total`.
        loss: of the last step; None if there was none.
        seconds: spent training, over all resumptions.
        interrupted: None if the run is finished; 130 if Ctrl-C stopped it, 143 if SIGTERM did (exit codes).
    """

    folder: Path
    step: int
    total: int
    loss: float | None
    seconds: float
    interrupted: int | None = None

    @classmethod
    def of(cls, folder: Path, state: State, *, total: int, interrupted: int | None = None) -> "Run":
        """The run as it stands."""
        return cls(
            folder=folder,
            step=state.step,
            total=total,
            loss=state.loss,
            seconds=state.seconds,
            interrupted=interrupted,
        )


def saved_recipe(folder: Path, *, resume: bool, overwrite: bool) -> Plan | None:
    """The recipe of the run to go on with, or None for a new one. Changes nothing.

    Raises:
        UserError: the folder may not be used so.
    """
    if kind := task_of(folder):
        raise UserError(
            f"--out {folder} holds what `unmask evaluate {kind}` trained; give another folder, or delete it"
        )
    return read_plan(folder) if goes_on(folder, resume=resume, overwrite=overwrite) else None


def goes_on(folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether there is a run to go on with, and not a new one to be begun. Changes nothing.

    Raises:
        UserError: the folder may not be used so.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite deletes it: give one of them")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give the name of a folder that is to be made")
    _require_writable(folder)
    found, stage = _content(folder), folder / FIRST_STAGE
    staged = (
        found == {stage} and stage.is_dir() and (not _content(stage) or (stage / "recipe.json").is_file())
    )
    if not found or (staged and (resume or overwrite or not _content(stage) or _is_finished(stage))):
        return False
    if not staged and not (folder / "recipe.json").is_file():
        raise UserError(
            f"--out {folder} holds files but no run (no recipe.json); give another folder, or empty this one"
        )
    if overwrite:
        return False
    if not resume:
        raise UserError(
            f"--out {folder} holds a run already. Go on with it: --resume. Delete it and start anew: "
            "--overwrite. Or give another folder."
        )
    return True


def _content(folder: Path) -> set[Path]:
    """What lies in a folder, without what killed processes left; empty if it is missing."""
    lying = set(folder.iterdir()) if folder.is_dir() else set()
    return lying.difference(leftovers(folder), {folder / LOCK})


def _is_finished(folder: Path) -> bool:
    return read_log(folder / "log.jsonl").status == "finished"


def require_new(folder: Path) -> None:
    """A folder that something is to be made in at once, and not gone on with.

    Raises:
        UserError: it holds files, is one, or cannot be made.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"--out {folder} exists already; give another folder, or delete this one")
    _require_writable(folder)


def require_apart(folder: Path, source: Source | Path) -> None:
    """The run's pictures must not become training data."""
    place = Path(str(source))
    if place.is_dir() and folder.resolve().is_relative_to(place.resolve()):
        raise UserError(
            f"--out {folder} lies inside the data, {place}: its pictures would be trained on. Give a folder "
            "elsewhere."
        )


def continued(saved: AnyPlan | None, asked: str | AnyPlan) -> str | AnyPlan:
    """What the options given now are applied to: the saved recipe, if it is meant, so that they need not be
    repeated."""
    return asked if saved is None or asked not in (saved.name, saved.learner.name) else saved


def saved_state(folder: Path, images: int) -> State:
    """Where the run in `folder` stands; at its start if it has no checkpoint yet.

    Raises:
        UserError: the data set has another number of images now.
    """
    newest = checkpoints(folder / "checkpoints")[-1:]
    if not newest:
        return State(images=images)
    if not (newest[0] / STATE).is_file():
        raise UserError(
            f"the weights in {folder} were converted, not trained here: there is no optimiser to go on with"
        )
    state = read_state(newest[0])
    if state.images != images:
        raise UserError(
            f"the run in {folder} was started with {state.images:,} images, but --data has {images:,} now; "
            "their order and the run's length depend on the number. Restore the data, or start a new run."
        )
    return state


def require_unchanged(folder: Path, state: State, *, resumed: bool, overwrite: bool) -> None:
    """Once the folder is locked: what was found in it before is still so.

    Raises:
        UserError: another process has trained there meanwhile.
    """
    newest = checkpoints(folder / "checkpoints")[-1:]
    step = read_state(newest[0]).step if newest else 0
    begun = (folder / "recipe.json").exists() and not resumed and not overwrite
    if begun or (resumed and step != state.step):
        raise UserError(
            f"--out {folder}: another process has trained there meanwhile. Go on with --resume, or give "
            "another folder."
        )


def require_same(saved: Plan, given: Plan) -> None:
    """A run goes on with the recipe that it was started with; only what it saves and measures may change.

    Raises:
        UserError: a contradiction, with both values.
    """
    # A run of an older version says nothing of options that came later; it had their defaults.
    require_equal(with_defaults(saved).model_dump(mode="json"), given.model_dump(mode="json"))


def require_equal(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """The same of two recipes as plain data.

    Raises:
        UserError: a contradiction, with both values.
    """
    before, now = _flat(saved), _flat(given)
    changed = [
        f"{key} is {before.get(key, 'not set')}, not {now.get(key, 'not set')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key) and not key.startswith(UNIMPORTANT)
    ]
    if changed:
        more = f" (and {len(changed) - 4} more)" if len(changed) > 4 else ""
        raise UserError(
            f"--resume goes on with a run as it was started, but of this one {'; '.join(changed[:4])}{more}. "
            "Leave these options out, or start a new run in another folder."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain data with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def clear(
    folder: Path, *, made: Sequence[str] = MADE + MADE_SOMETIMES + MADE_OF_IT, first_stage: bool = True
) -> None:
    """Delete a run from its folder: what a run makes, and nothing else that lies there. The recipe goes last,
    so that the folder stays a run's until all else is gone.

    Args:
        made: files and folders, the recipe first.
        first_stage: also the tokenizer that was trained for it.
    """
    tidy(folder)
    for name in reversed(made):
        remove(folder / name)
    stage = folder / FIRST_STAGE
    if first_stage and (stage / "recipe.json").is_file():
        clear(stage)
        if not any(stage.iterdir()):
            stage.rmdir()


def tidy(folder: Path) -> None:
    """Delete what killed processes left unfinished; among checkpoints, `save_checkpoint` does so."""
    for path in [*leftovers(folder), *leftovers(folder / "images")]:
        remove(path)


def _require_writable(folder: Path) -> None:
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--out {folder}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder}: no permission to write in {nearest}")
