"""Runs side by side: what each was, how far it got, what it scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unmask.errors import UserError
from unmask.evaluate.table import NAMES
from unmask.health import guesses_of, probes_of, score_of
from unmask.methods import METHODS
from unmask.recipes.base import Recipe
from unmask.runs import Log, number, read_log, read_recipe
from unmask.summary import first_and_final, images_seen, score


@dataclass(frozen=True)
class Entry:
    """One run among others.

    Attributes:
        folder: of the run.
        name: the end of its path, as short as it is that of no other.
    """

    folder: Path
    name: str
    recipe: Recipe
    log: Log

    @property
    def method(self) -> str:
        """As its authors write it."""
        name = self.recipe.method.name
        return METHODS[name].card.title if name in METHODS else name

    @property
    def images(self) -> int:
        """Seen so far, repetitions counted."""
        return images_seen(self.recipe.model_dump(), self.log) if self.log.steps else 0

    @property
    def minutes(self) -> float:
        """Of training, by the clock, without the pauses between an interruption and its resume."""
        return self.log.seconds / 60

    @property
    def loss(self) -> float | None:
        """The mean of the last fiftieth of the logged steps."""
        losses = self.log.numbers("loss")
        return first_and_final(losses)[1] if losses else None

    @cached_property
    def guess(self) -> float | None:
        """The lowest loss that needs no learning, as the newest probe that tried found it; None of targets
        for which there is none.
        """
        for probe in reversed(probes_of(self.log)):
            if guesses := guesses_of(probe):
                return min(guesses.values())
        return None

    @property
    def best(self) -> tuple[float, str, int] | None:
        """The highest accuracy that was measured, on the way or after; by what; and at which step (0: random
        weights)."""
        found = [
            (accuracy, NAMES["linear" if "linear" in probe else "knn"], int(probe["step"]))
            for probe in probes_of(self.log)
            if (accuracy := score_of(probe)) is not None
        ]
        found += [
            (
                score(event),
                NAMES.get(str(event["kind"]), str(event["kind"])),
                int(number(event, "step") or self.log.steps[-1]["step"]),
            )
            for event in self.log.all("evaluation")
            if number(event, "score") is not None
        ]
        return max(found, default=None)

    def seen_at(self, step: float) -> float:
        """Images seen at a step."""
        return step * self.recipe.optim.batch_size


def read_entries(runs: Sequence[str | Path]) -> list[Entry]:
    """The runs in the order given.

    Raises:
        UserError: fewer than two, one twice, a folder that is no run.
    """
    folders = [Path(run).expanduser() for run in runs]
    places = [folder.resolve() for folder in folders]
    if len(folders) < 2:
        raise UserError("a comparison needs two runs or more: unmask compare runs/a runs/b")
    for index, place in enumerate(places):
        if place in places[:index]:
            raise UserError(f"{folders[index]} was given twice; name different runs")
    return [
        Entry(folder, name, read_recipe(folder), read_log(folder / "log.jsonl"))
        for folder, name in zip(folders, names_of(places), strict=True)
    ]


def names_of(places: Sequence[Path]) -> list[str]:
    """The ends of different paths, each as short as it is that of no other."""

    def shortest(place: Path) -> str:
        for count in range(1, len(place.parts)):
            end = place.parts[-count:]
            if sum(other.parts[-count:] == end for other in places) == 1:
                return "/".join(end)
        return str(place)

    return [shortest(place) for place in places]
