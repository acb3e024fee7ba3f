"""A check in plain sentences."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from unmask.check.pace import Pace
from unmask.check.result import CheckResult, Finding
from unmask.check.survey import Survey
from unmask.data.statistics import Statistics
from unmask.recipes.base import Data, Recipe
from unmask.summary import as_duration, as_memory

NAMED = 3  # files named in a sentence
WAITING = 0.1  # share of the time from which on the loader is too slow
MARKS = {"good": "[green]✓[/]", "watch": "[yellow]![/]", "bad": "[bold red]✗[/]"}


def findings(survey: Survey, recipe: Recipe, pace: Pace | None, trouble: str | None) -> Iterator[Finding]:
    """What a person should know, worst first within data and speed."""
    yield _readable(survey, recipe.data)
    if survey.unfit:
        yield Finding(
            "bad",
            f"{_pictures(survey.unfit)} cannot be turned into {recipe.data.channels} channels "
            f"({_names(survey.unfit)}); set data.channels.",
        )
    if survey.copies:
        extra = sum(len(names) - 1 for names in survey.copies)
        verb = "is an exact copy of another" if extra == 1 else "are exact copies of others"
        yield Finding("watch", f"{_pictures(extra)} {verb} ({_groups(survey.copies)}).")
    if survey.alike:
        extra = sum(len(names) - 1 for names in survey.alike)
        verb = "looks like another" if extra == 1 else "look like others"
        yield Finding("watch", f"{_pictures(extra)} {verb} ({_groups(survey.alike)}).")
    if survey.disagreeing:
        count = len(survey.disagreeing)
        them = "A group of such pictures has" if count == 1 else f"{count:,} groups of such pictures have"
        yield Finding("watch", f"{them} different labels ({_groups(survey.disagreeing)}).")
    if survey.small:
        yield _small(survey, recipe.data)
    if survey.narrow:
        yield Finding(
            "watch",
            f"{_pictures(survey.narrow)} {_are(survey.narrow)} more than four times as long as wide; crops "
            f"show little of them ({_names(survey.narrow)}).",
        )
    if survey.blank:
        yield Finding(
            "watch",
            f"{_pictures(survey.blank)} {_are(survey.blank)} of one colour: there is nothing to learn from "
            f"({_names(survey.blank)}).",
        )
    if trouble is not None:
        yield Finding("bad", f"This recipe cannot run here: {trouble}")
    if pace is not None:
        yield from _of_pace(pace, recipe)


def _readable(survey: Survey, data: Data) -> Finding:
    looked_at = survey.looked_at
    if not survey.bad:
        return Finding("good", f"All {looked_at:,} pictures that were looked at can be read.")
    share = len(survey.bad) / looked_at
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(survey.bad.items())[:NAMED])
    too_many = share > max(data.max_bad, min(10 / looked_at, 1 / 4) if data.max_bad else 0)
    consequence = (
        f"a run would stop, as data.max_bad allows {data.max_bad:.0%}"
        if too_many
        else "a run skips " + ("it" if len(survey.bad) == 1 else "them")
    )
    return Finding(
        "bad" if too_many else "watch",
        f"{len(survey.bad):,} of {looked_at:,} pictures ({share:.1%}) cannot be read; {consequence}. "
        f"{reasons}.",
    )


def _small(survey: Survey, data: Data) -> Finding:
    height, width = data.image_size
    size = f"{height} × {width}"
    if len(survey.small) < survey.looked_at / 2:
        return Finding(
            "watch",
            f"{_pictures(survey.small)} {_are(survey.small)} smaller than {size} and will be enlarged "
            f"({_names(survey.small)}).",
        )
    usual = min(survey.width[1], survey.height[1]) // 32 * 32
    advice = f"; --image-size {usual} costs less and loses nothing" if usual >= 32 else ""
    return Finding(
        "watch",
        f"{len(survey.small):,} of {survey.looked_at:,} pictures are smaller than {size} and will be enlarged"
        f"{advice}.",
    )


def _of_pace(pace: Pace, recipe: Recipe) -> Iterator[Finding]:
    if not pace.fits:
        parts = recipe.optim.accumulate * 2 ** math.ceil(math.log2(pace.batch / pace.measured_batch))
        yield Finding(
            "bad",
            f"A batch of {pace.batch:,} does not fit into memory, one of {pace.measured_batch:,} does: use "
            f"optim.accumulate={parts}, which cuts it into parts, or --checkpointing.",
        )
    if pace.data_wait >= WAITING:
        yield Finding(
            "watch",
            f"The model waits for the loader {pace.data_wait:.0%} of the time: use more --workers, or store "
            "the pictures smaller.",
        )
    else:
        yield Finding(
            "good", f"The loader keeps up: the model waits for it {pace.data_wait:.0%} of the time."
        )


def page(result: CheckResult) -> RenderableType:
    """The whole check for a terminal."""
    survey, facts = result.survey, Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in (*_of_data(result), *_of_run(result)):
        facts.add_row(label, escape(text))
    sentences = Table.grid(padding=(0, 1))
    for finding in result.findings:
        sentences.add_row(Text.from_markup(MARKS[finding.level]), escape(finding.text))
    part = "" if survey.looked_at == survey.images else f", {survey.looked_at:,} of which were looked at"
    title = f"[bold]{escape(result.data)}[/]: {survey.images:,} images{part}"
    return Group(Text.from_markup(title), "", facts, "", sentences)


def _of_data(result: CheckResult) -> Iterator[tuple[str, str]]:
    survey, statistics = result.survey, result.statistics
    yield "Formats", _counts(survey.formats)
    yield "Kinds", _counts(survey.kinds)
    yield "Width", _range(survey.width)
    yield "Height", _range(survey.height)
    yield "Labels", _classes(result.classes)
    if statistics is not None:
        yield "Normalisation", _normalisation(result.recipe.data, statistics)


def _of_run(result: CheckResult) -> Iterator[tuple[str, str]]:
    recipe, pace = result.recipe, result.pace
    height, width = recipe.data.image_size
    encoder = f"{recipe.encoder.name}, {height} × {width} pixels, batch {recipe.optim.batch_size:,}"
    yield "Recipe", f"{recipe.name}: {encoder}"
    if pace is None:
        return
    workers = f"{pace.workers} worker{'s' * (pace.workers != 1)}"
    smaller = f", in batches of {pace.measured_batch:,}" if pace.measured_batch != pace.batch else ""
    yield "Machine", f"{pace.machine}, {workers}"
    yield (
        "Images/s",
        f"loader {pace.loader:,.0f}, model {pace.model:,.0f}, together {pace.together:,.0f}{smaller}",
    )
    yield "Memory", f"{as_memory(pace.memory_mb)}{smaller}"
    epochs = recipe.schedule.epochs if recipe.schedule.steps is None else None
    length = f"{pace.steps:,} steps" + (f" ({epochs:,} epochs)" if epochs else "")
    yield "Whole run", f"about {_long(pace.seconds)} for {length}"


def _normalisation(data: Data, measured: Statistics) -> str:
    numbers = "; ".join(
        f"{name} {', '.join(f'{value:.3g}' for value in values)}"
        for name, values in (("mean", measured.mean), ("std", measured.std))
    )
    used = {"imagenet": "the run uses ImageNet's", "measure": "which the run uses"}.get(
        data.normalisation or "", "the run uses the recipe's own"
    )
    return f"{numbers} (of {measured.images:,}); {used}"


def _classes(classes: dict[str, int] | None) -> str:
    if classes is None:
        return "none (not needed to pre-train)"
    counts = sorted(classes.values())
    spread = f"{counts[0]:,} to {counts[-1]:,} images each, median {median(counts):,.0f}"
    return f"{len(counts):,} classes of {spread}"


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{count:,} {name}" for name, count in list(counts.items())[:6]]
    return "; ".join([*shown, *([f"{len(counts) - 6} more"] if len(counts) > 6 else [])])


def _range(values: Sequence[int]) -> str:
    least, middle, most = values
    return f"{least:,} pixels" if least == most else f"{least:,} to {most:,} pixels, median {middle:,}"


def _pictures(names: Sequence[str] | int) -> str:
    count = names if isinstance(names, int) else len(names)
    return f"{count:,} picture{'s' * (count != 1)}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _names(names: Sequence[str]) -> str:
    return ", ".join(_short(name) for name in names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _groups(groups: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(" = ".join(_short(name) for name in names[:2]) for names in groups[:NAMED])
    return shown + ("; ..." if len(groups) > NAMED else "")


def _short(name: str) -> str:
    """The end of a path: folder and file."""
    return "/".join(Path(name.rsplit(":", 1)[-1]).parts[-2:])


def _long(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds > 2 * 86400 else as_duration(seconds)
