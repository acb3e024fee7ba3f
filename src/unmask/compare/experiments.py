"""What makes runs with labels one experiment: that nothing but their seeds tells them apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.load import WEIGHTS
from unmask.page import flat
from unmask.runs import read_json, read_log
from unmask.summary import data_name

BEFORE = "pre-training "  # prefix of what is known of the start
UNTOLD = {"kind", "seed", "classes", "checkpoint", "validation", "probe"}  # parts that change no experiment
# Settings that say what was started from, or follow from the data.
FOLLOWING = {"start", "start.name", "start.method", "start.subject", "start.random", "network.random"}
FOLLOWING |= {"data.mean", "data.std"}
# Random weights are a baseline for all methods on their encoder, whose recipes name different ones.
OF_THE_METHOD = {"name", "optim.layer decay", "optim.layer decay convention"}
LENGTH = ("epochs", "steps", "warmup_epochs", "milestones")
TOLD_FIRST = ("name", "data.fraction", "schedule.epochs", "schedule.steps")
FOLLOW_LENGTH = ("schedule.warmup epochs", "schedule.milestones", "step")  # named only if no length differs
MOST_TOLD = 6


def started_from(recipe: Mapping[str, Any]) -> tuple[str, bool]:
    """What a run started from, and whether with random weights; each kind says so in its own section."""
    start = recipe.get("start")
    if isinstance(start, Mapping):
        return str(start.get("name") or start.get("subject") or ""), bool(start.get("random"))
    return str(start), bool(recipe.get("network", {}).get("random"))


def experiment(
    recipe: Mapping[str, Any], architecture: Mapping[str, Any], start: str, card: Mapping[str, Any]
) -> dict[str, str]:
    """All that tells a run with labels from others but data, length, seeds and places, by dotted keys.

    Args:
        recipe: of the run.
        architecture: of its encoder.
        start: as the recipe calls it; a path, or a name of which nothing more is known.
        card: of the encoder that was started from; empty of names.
    """
    facts = _settings(
        {**recipe, "schedule": _shares(recipe.get("schedule", {})), "architecture": architecture}
    )
    return facts | {f"{BEFORE}{key}": text for key, text in _origin(Path(start), card).items()}


def of_random_weights(facts: Mapping[str, str]) -> dict[str, str]:
    """What is left of an `experiment` that starts from random weights: how the encoder drew them."""
    return {
        key: text
        for key, text in facts.items()
        if not key.startswith(BEFORE) or key.startswith(f"{BEFORE}encoder.")
    }


def budget(facts: Mapping[str, str]) -> dict[str, str]:
    """What an `experiment` has to share with its baseline."""
    return {
        key: text for key, text in facts.items() if not key.startswith(BEFORE) and key not in OF_THE_METHOD
    }


def differences(experiments: Sequence[Mapping[str, str]]) -> list[str]:
    """Of each of some experiments what tells it from the others, such as "fraction 0.1"; the first few."""
    keys = {key for one in experiments for key in one}
    keys = {key for key in keys if len({one.get(key) for one in experiments}) > 1}
    for prefix in ("", BEFORE):
        if {f"{prefix}schedule.epochs", f"{prefix}schedule.steps"} & keys:
            keys -= {f"{prefix}{key}" for key in FOLLOW_LENGTH}
    first = [prefix + key for key in TOLD_FIRST for prefix in ("", BEFORE)]
    told = sorted(keys, key=lambda key: (first.index(key) if key in first else len(first), key))[:MOST_TOLD]
    return [", ".join(f"{_word(key)} {one.get(key, '–')}" for key in told) for one in experiments]


def _settings(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Of a place the last part: seeds of one experiment have teachers and tokenizers of their own."""
    told = {key: value for key, value in recipe.items() if key not in UNTOLD}
    return {
        key: Path(text).name if "/" in text else text
        for key, text in flat(told)
        if key.replace(" ", "_") not in FOLLOWING
    }


def _shares(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule without its length, which epochs and steps are two ways to say."""
    shares = {key: value for key, value in schedule.items() if key not in LENGTH}
    if epochs := schedule.get("epochs"):
        shares["warm-up"] = schedule.get("warmup_epochs", 0) / epochs
        shares["milestones"] = [milestone / epochs for milestone in schedule.get("milestones", ())]
    return shares


def _origin(start: Path, card: Mapping[str, Any]) -> dict[str, str]:
    """What is known of the training of a start; nothing of a name."""
    if not start.exists():
        return {}
    run = start if start.is_dir() else start.parent
    made_by = card.get("made_by") or {}
    facts: dict[str, Any] = {"name": made_by.get("recipe"), **read_json(run / "recipe.json")}
    facts["data"] = {**facts.get("data", {}), "name": data_name(read_log(run / "log.jsonl").last("start"))}
    newest = start.is_dir() or start.name == WEIGHTS
    facts |= {"step": made_by.get("step")} if newest else {"weights": start.name}  # the best step is chance
    return _settings(facts)


def _word(key: str) -> str:
    """ "fraction" of "data.fraction", "pre-training recipe" of "pre-training name"."""
    prefix = BEFORE if key.startswith(BEFORE) else ""
    parts = key.removeprefix(BEFORE).split(".")
    if parts[-1] == "name":
        return prefix + (parts[-2] if len(parts) > 1 else "recipe")
    return prefix + parts[-1]
