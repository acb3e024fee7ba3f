"""What networks that were trained on labels reached, by what they started from: spread over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.table import Table

from unmask import __version__
from unmask.compare.experiments import budget, differences, experiment, of_random_weights, started_from
from unmask.errors import UserError
from unmask.methods import METHODS
from unmask.page import template
from unmask.runs import read_json, read_log, task_of
from unmask.summary import data_name

# Of what `unmask evaluate KIND` trains: the figure by which it is judged, in metrics.json, and its name.
SCORES = {"finetune": ("score", "top-1"), "segment": ("miou", "mIoU"), "detect": ("AP", "box AP")}
RANDOM = "random weights"
COLUMNS = ("started from", "encoder", "runs", "steps", "score", "over random weights")


@dataclass(frozen=True)
class Evaluation:
    """One finished run with labels.

    Attributes:
        start: what it started from, for people: a method, "random weights", a timm name.
        place: of what it started from, or its name.
        encoder: the architecture.
        facts: what else tells it from other experiments, see `experiments.experiment`.
        score: in [0, 1].
        error: its standard error on the images that it was judged by; None where that is not known.
    """

    folder: Path
    kind: str
    data: str
    start: str
    place: str
    encoder: str
    random: bool
    seed: int
    steps: int
    score: float
    error: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> tuple[Any, ...]:
        """The same for runs of which only the seeds differ."""
        return *self.budget[:4], self.random, self.start, tuple(sorted(self.facts.items()))

    @property
    def budget(self) -> tuple[Any, ...]:
        """The same for a run and its baseline."""
        shared = tuple(sorted(budget(self.facts).items()))
        return self.kind, self.data, self.encoder, self.steps, shared


def are_evaluations(folders: Sequence[Path]) -> bool:
    """Whether all of some run folders were trained on labels.

    Raises:
        UserError: only some of them were.
    """
    kinds = [task_of(folder) for folder in folders]
    if any(kinds) and not all(kinds):
        own = folders[[bool(kind) for kind in kinds].index(True)]
        other = folders[kinds.index(None)]
        raise UserError(
            f"{own} was trained on labels and {other} was pre-trained: compare runs of one kind with each "
            "other"
        )
    return bool(kinds) and all(kinds)


def read_evaluation(folder: Path) -> Evaluation:
    """
    Raises:
        UserError: the run has not finished.
    """
    kind = task_of(folder)
    metrics, recipe = read_json(folder / "metrics.json"), read_json(folder / "recipe.json")
    key, _ = SCORES.get(str(kind), ("score", ""))
    if not isinstance(metrics.get(key), int | float):
        raise UserError(f"{folder} has no result yet (metrics.json): finish it with --resume")
    log = read_log(folder / "log.jsonl")
    start, random = started_from(recipe)
    card = _card(start)
    architecture = (card or read_json(folder / "encoder.json")).get("architecture", {})
    known = experiment(recipe, architecture, start, card)
    return Evaluation(
        folder=folder,
        kind=str(kind),
        data=data_name(log.last("start")),
        start=RANDOM if random else _title(start, card),
        place=start,
        encoder=_encoder(folder, start, card),
        random=random,
        seed=int(recipe["seed"]),
        steps=int(log.steps[-1]["step"]) if log.steps else 0,
        score=float(metrics[key]),
        error=metrics.get(metrics.get("judged_by", ""), {}).get("standard_error"),
        facts=of_random_weights(known) if random else known,
    )


def _card(start: str) -> dict[str, Any]:
    """Of the encoder that was started from; empty of names, and of what is no longer there."""
    path = Path(start)
    return read_json((path if path.is_dir() else path.parent) / "encoder.json") if path.exists() else {}


def _title(start: str, card: Mapping[str, Any]) -> str:
    """The method that trained the start, or what it is called."""
    made_by = card.get("made_by") or {}
    method = made_by.get("method")
    name = METHODS[method].card.title if method in METHODS else method or Path(start).name
    if tuned := made_by.get("fine_tuned"):
        return f"{name}, then fine-tuned ({tuned['recipe']})"
    return str(name)


def _encoder(folder: Path, start: str, card: Mapping[str, Any]) -> str:
    for known in (card, read_json(folder / "encoder.json")):
        if name := known.get("architecture", {}).get("model_name"):
            return str(name)
    return start.removeprefix("random:").split(".")[0]


def facts(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """A row for every experiment, plain data: "kind", "data", "start" (and what tells it from other
    experiments that started alike), "random", "encoder", "steps", "runs" (folders), "seeds", "scores" (of
    each), "mean", "spread" (their standard deviation; None of one), "gain" and "gain_error" (over random
    weights of the same encoder, kind, data, length and settings, paired where all seeds are the same; None
    where there is none).

    Raises:
        UserError: two runs are the same experiment with the same seed.
    """
    groups: dict[tuple[Any, ...], list[Evaluation]] = {}
    for one in sorted(evaluations, key=lambda one: one.seed):
        groups.setdefault(one.group, []).append(one)
    for runs in groups.values():
        _require_distinct(runs)
    labels = _labels([runs[0] for runs in groups.values()])
    rows = []
    for key, runs in sorted(groups.items(), key=lambda item: (item[0][:2], _mean(item[1]))):
        scores = [one.score for one in runs]
        gain, error = _gain(runs, _baseline(runs[0], groups.values()))
        rows.append(
            {
                "kind": runs[0].kind,
                "data": runs[0].data,
                "start": labels[key],
                "random": runs[0].random,
                "encoder": runs[0].encoder,
                "steps": runs[0].steps,
                "runs": [str(one.folder) for one in runs],
                "seeds": [one.seed for one in runs],
                "scores": scores,
                "mean": mean(scores),
                "spread": stdev(scores) if len(scores) > 1 else None,
                "gain": gain,
                "gain_error": error,
            }
        )
    return rows


def _require_distinct(runs: Sequence[Evaluation]) -> None:
    """
    Raises:
        UserError: two runs of one group have both seed and start in common.
    """
    seen: dict[tuple[int, str], Path] = {}
    for one in runs:
        if (other := seen.setdefault((one.seed, one.place), one.folder)) != one.folder:
            raise UserError(
                f"{other} and {one.folder} are the same experiment with the same seed, {one.seed}: leave one "
                "of them out"
            )


def _labels(experiments: Sequence[Evaluation]) -> dict[tuple[Any, ...], str]:
    """What each experiment started from, and what else tells it from those that started alike."""
    alike: dict[tuple[Any, ...], list[Evaluation]] = {}
    for one in experiments:
        alike.setdefault((one.kind, one.data, one.encoder, one.start), []).append(one)
    return {
        one.group: ", ".join([one.start, *filter(None, [difference])])
        for own in alike.values()
        for one, difference in zip(own, differences([one.facts for one in own]), strict=True)
    }


def _baseline(run: Evaluation, groups: Iterable[list[Evaluation]]) -> list[Evaluation]:
    """Runs from random weights with the same budget, by the recipe of the same method if there are such."""
    if run.random:
        return []
    own = [runs for runs in groups if runs[0].random and runs[0].budget == run.budget]
    return max(
        own, key=lambda runs: (runs[0].facts.get("name") == run.facts.get("name"), len(runs)), default=[]
    )


def _mean(runs: Sequence[Evaluation]) -> float:
    return mean(one.score for one in runs)


def _gain(runs: Sequence[Evaluation], baseline: Sequence[Evaluation]) -> tuple[float | None, float | None]:
    """The mean difference, and its standard error over seeds."""
    if not baseline:
        return None, None
    gain = _mean(runs) - _mean(baseline)
    if [one.seed for one in runs] == [one.seed for one in baseline] and len(runs) > 1:
        differences = [one.score - other.score for one, other in zip(runs, baseline, strict=True)]
        return gain, stdev(differences) / math.sqrt(len(differences))
    if min(len(runs), len(baseline)) < 2:
        return gain, None
    parts = (stdev(one.score for one in group) ** 2 / len(group) for group in (runs, baseline))
    return gain, math.sqrt(sum(parts))


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of `COLUMNS` in words; a dash where nothing is known."""
    return [
        row["start"],
        row["encoder"],
        str(len(row["runs"])),
        f"{row['steps']:,}",
        percent(row["mean"], row["spread"]),
        "–" if row["gain"] is None else percent(row["gain"], row["gain_error"], sign="+"),
    ]


def percent(value: float, spread: float | None, *, sign: str = "") -> str:
    """ "71.2 ± 0.8 %"; without a spread "71.2 %"."""
    return f"{100 * value:{sign}.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}") + " %"


def titles(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """What each table is about, by kind and data, in the order of the rows."""
    found = {(row["kind"], row["data"]): SCORES[row["kind"]][1] for row in rows}
    return {(kind, data): f"{kind} on {data}, {score}" for (kind, data), score in found.items()}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Tables for the terminal."""
    tables = []
    for place, title in titles(rows).items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in COLUMNS:
            words = column in COLUMNS[:2]
            table.add_column(column, justify="left" if words else "right", no_wrap=column == COLUMNS[0])
        for row in rows:
            if (row["kind"], row["data"]) == place:
                table.add_row(*cells(row))
        tables.append(table)
    return tables


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same tables for a page."""
    parts = []
    for place, title in titles(rows).items():
        own = [cells(row) for row in rows if (row["kind"], row["data"]) == place]
        lines = ["| " + " | ".join(line) + " |" for line in ([*COLUMNS], ["---"] * len(COLUMNS), *own)]
        parts.append(f"{title}:\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same as a self-contained HTML page, with bars."""
    tables = []
    for place, title in titles(rows).items():
        own = [row for row in rows if (row["kind"], row["data"]) == place]
        bars = [
            {
                "label": f"{row['start']}, {row['encoder']}",
                "width": f"{100 * row['mean']:.1f}",
                "value": percent(row["mean"], row["spread"]),
                "own": not row["random"],
            }
            for row in own
        ]
        tables.append({"title": title, "bars": bars, "rows": [cells(row) for row in own]})
    count = sum(len(row["runs"]) for row in rows)
    return template("evaluations.html").render(
        tables=tables, columns=COLUMNS, count=count, version=__version__
    )
