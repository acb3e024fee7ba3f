"""Pre-flight: look at the data and at the speed before a long run, and say what is wrong in plain words."""

import json as jsonlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unmask.check.pace import Pace, measure_pace
from unmask.check.result import CheckResult, Finding
from unmask.check.survey import Survey, survey
from unmask.check.words import findings, page
from unmask.data import PretrainLoader, Source, open_source
from unmask.data.statistics import Statistics, measure
from unmask.encoders.base import ImageSize
from unmask.engine.files import write_text
from unmask.engine.machine import Machine
from unmask.engine.settle import settle
from unmask.errors import UserError
from unmask.recipes.base import Recipe
from unmask.recipes.resolve import resolve_recipe
from unmask.runs import location

__all__ = ["CheckResult", "Finding", "Pace", "Survey", "check", "page"]

SAMPLE = 2000  # pictures looked at unless told otherwise


def check(
    data: Any,
    method_or_recipe: str | Recipe = "mae",
    *,
    sample: int | None = SAMPLE,
    speed: bool = True,
    encoder: str | None = None,
    image_size: ImageSize | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    compile: bool | None = None,
    checkpointing: bool = False,
    overrides: Mapping[str, Any] | None = None,
    json: str | Path | None = None,
    progress: bool = True,
) -> CheckResult:
    """Read a sample of the data, train a few steps in memory, and say what a run would meet.

    Nothing but `json` is written. Options not named here are those of `pretrain`.

    Args:
        data: as for `pretrain`.
        sample: pictures to look at, chosen at random; None is all of them.
        speed: also measure the loader against the model, which takes about half a minute.
        json: a file for the result.

    Raises:
        UserError: no data, an unknown recipe, not one picture that can be read.
    """
    source = open_source(data)
    asked = resolve_recipe(
        method_or_recipe,
        images=len(source),
        encoder=encoder,
        image_size=image_size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        overrides=overrides,
    )
    with _quiet():
        recipe, trouble = _settled(asked, source)
    found = _survey(source, recipe, sample, progress=progress)
    if len(found.bad) == found.looked_at:
        name, reason = next(iter(found.bad.items()))
        raise UserError(
            f"none of the {found.looked_at:,} pictures that were looked at can be read, to begin with "
            f"{name}: {reason}"
        )
    pace = None
    if speed and trouble is None:
        machine = Machine(
            device=device, precision=precision, workers=workers, compile=compile, checkpointing=checkpointing
        )
        with _quiet():
            pace, trouble = _pace(recipe, source, machine, progress=progress)
    with _quiet():
        statistics = _statistics(recipe, source)
    result = CheckResult(
        data=location(data if isinstance(data, str | Path) else source),
        recipe=recipe,
        survey=found,
        classes=_classes(source),
        statistics=statistics,
        pace=pace,
        findings=list(findings(found, recipe, pace, trouble)),
    )
    if json is not None:
        write_text(Path(json).expanduser(), jsonlib.dumps(result.plain(), indent=2) + "\n")
    return result


def _settled(recipe: Recipe, source: Source) -> tuple[Recipe, str | None]:
    """The complete recipe, or the recipe as it is and why it cannot be completed."""
    try:
        return settle(recipe, source), None
    except UserError as error:
        data = recipe.data.model_copy(update={"bits": recipe.data.bits or 32})
        return recipe.model_copy(update={"data": data}), str(error)


def _survey(source: Source, recipe: Recipe, sample: int | None, *, progress: bool) -> Survey:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("Reading pictures", total=min(sample or len(source), len(source)))
        return survey(source, recipe.data, sample=sample, seed=recipe.seed, seen=lambda: bar.advance(task))


def _pace(
    recipe: Recipe, source: Source, machine: Machine, *, progress: bool
) -> tuple[Pace | None, str | None]:
    """(the pace, None), or (None, why there is none)."""
    with Console(stderr=True, quiet=not progress).status("Training a few steps in memory"):
        try:
            return measure_pace(recipe, source, machine), None
        except UserError as error:
            return None, str(error)


def _statistics(recipe: Recipe, source: Source) -> Statistics | None:
    data = recipe.data
    try:
        return measure(
            source,
            data.image_size,
            channels=data.channels,
            bits=data.depth,
            interpolation=data.interpolation,
            seed=recipe.seed,
        )
    except UserError:  # other channels than the recipe's: said elsewhere
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Bad files were told once; the loaders need not name them again."""
    loader = logging.getLogger(PretrainLoader.__module__)
    level = loader.level
    loader.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loader.setLevel(level)


def _classes(source: Source) -> dict[str, int] | None:
    if source.labels is None or source.classes is None:
        return None
    counts = Counter(source.labels)
    return {name: counts[number] for number, name in enumerate(source.classes)}
