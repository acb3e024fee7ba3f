"""What a check found, as plain data."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from unmask.check.pace import Pace
from unmask.check.survey import Survey
from unmask.data.statistics import Statistics
from unmask.recipes.base import Recipe


@dataclass(frozen=True)
class Finding:
    """One sentence about data or speed; "watch" is worth a look, "bad" will stop a run or spoil it."""

    level: Literal["good", "watch", "bad"]
    text: str


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What `check` hands back.

    Attributes:
        data: what was checked.
        recipe: that the data was looked at for, complete.
        survey: of the pictures.
        classes: number of images of each class, or None without labels.
        statistics: of the pixels, measured; None where they have other channels than the recipe.
        pace: None where it was not asked for, or the recipe cannot run.
        findings: in plain sentences.
    """

    data: str
    recipe: Recipe
    survey: Survey
    classes: dict[str, int] | None
    statistics: Statistics | None
    pace: Pace | None
    findings: list[Finding]

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        parts = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "recipe"
        }
        content = {
            name: [dataclasses.asdict(one) for one in part] if name == "findings" else _plain(part)
            for name, part in parts.items()
        }
        return {**content, "recipe": json.loads(self.recipe.to_json())}


def _plain(part: Any) -> Any:
    if isinstance(part, Statistics):
        return part._asdict()
    return dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else part
