"""What is found in a run: sentences with their numbers, and how bad they are."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "watch", "bad"]
LEVELS: tuple[Level, ...] = ("good", "watch", "bad")
TITLES = {"good": "Healthy", "watch": "Worth a look", "bad": "Something is wrong"}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        about: what was looked at, the same word at all times.
        what: a sentence with its numbers.
        remedy: what to do about it; empty if nothing.
    """

    about: str
    level: Level
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Verdict:
    """All findings, the worst first."""

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """That of the worst finding; good if there are none."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default="good")

    @property
    def title(self) -> str:
        return TITLES[self.level]

    def __str__(self) -> str:
        """A line a finding, for a terminal."""
        lines = [f"  {finding.what} {finding.remedy}".rstrip() for finding in self.findings]
        return "\n".join([f"{self.title}:" if lines else f"{self.title}.", *lines])
