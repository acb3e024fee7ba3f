"""How a run is doing, said while it goes on: probes, and the verdict on its health."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from accelerate.utils import broadcast_object_list

from unmask.engine.checkpoint import State
from unmask.engine.log import RunLog
from unmask.engine.probes import Probes
from unmask.engine.progress import ProgressLine
from unmask.engine.setup import Job
from unmask.health import Verdict, guesses_of, score_of, verdict
from unmask.runs import read_log

LOOKS = 20  # over a run: how often the log is read for a verdict
ACCURACIES = (("linear probe", "linear"), ("k-NN", "knn"))


class Watch:
    """Probes a run and judges it; notes both in its log.

    Args:
        job: the run.
        probes: what is measured.
        log: of the run.
        shown: where a person reads how it goes.
    """

    def __init__(self, job: Job, probes: Probes, log: RunLog, shown: ProgressLine) -> None:
        self._job, self._probes, self._log, self._shown = job, probes, log, shown
        self._every = max(1, job.total // LOOKS)
        self._told: set[str] = set()  # what was found to be wrong
        self._owed = False  # the probe of the weights of before the first step

    def begin(self, state: State) -> None:
        """Before the first step of a run its weights are only remembered: whoever started it wants to see a
        loss soon, and they are probed after that."""
        self._owed = not state.step and self._probes.due(0)
        if self._owed and self._job.accelerator.is_main_process:
            self._probes.remember()

    def probe(self, state: State) -> bool:
        """Measure if it is time to, on the first process; notes in `state` the best score with labels.

        Returns:
            Whether this is the best so far; the same on all processes.
        """
        if self._owed:
            self._owed = False
            self._measure(0)
        if not self._probes.due(state.step):
            return False
        score = score_of(self._measure(state.step))
        if (
            score is None
            or self._job.kind.best is None
            or (state.best is not None and score < state.best_score)
        ):
            return False
        state.best, state.best_score = state.step, score
        return True

    def _measure(self, step: int) -> Mapping[str, Any]:
        """The figures of a probe, of the first process, known to all."""
        accelerator = self._job.accelerator
        found: list[Any] = [self._probes.measure(step) if accelerator.is_main_process else None]
        if accelerator.num_processes > 1:
            broadcast_object_list(found)
        self._log.event("probe", step, **found[0])
        self._shown.say(_in_words(step, found[0]))
        return found[0]

    def look(self, step: int) -> None:
        """Say what is wrong with the run, once, if it is time to look."""
        if step % self._every == 0 and self._job.accelerator.is_main_process:
            found = self._verdict()
            news = [
                finding
                for finding in found.findings
                if finding.level == "bad" and finding.about not in self._told
            ]
            if news:
                self._told |= {finding.about for finding in news}
                self._note(step, found)
                self._shown.say(f"Step {step:,}. {Verdict(tuple(news))}")

    def conclude(self, step: int) -> None:
        """The verdict on all of it, when a run ends."""
        if self._job.accelerator.is_main_process:
            found = self._verdict()
            self._note(step, found)
            if found.findings:
                self._shown.say(str(found))

    def _verdict(self) -> Verdict:
        return verdict(read_log(self._job.folder / "log.jsonl"))

    def _note(self, step: int, found: Verdict) -> None:
        self._log.event(
            "verdict", step, level=found.level, findings=[asdict(finding) for finding in found.findings]
        )


def _in_words(step: int, facts: Mapping[str, Any]) -> str:
    """The figures of a probe in a line."""
    parts = [f"{name} {facts[key]:.1%}" for name, key in ACCURACIES if facts.get(key) is not None]
    parts += [f"effective rank {facts['effective_rank']:.1f}"] if "effective_rank" in facts else []
    parts += [f"loss {facts['probe_loss']:.4g}"] if facts["probe_loss"] is not None else []
    if codes := facts.get("codes"):
        parts.append(
            f"{codes['used']:,} of {codes['vocabulary']:,} codes, perplexity {codes['perplexity']:,.4g}"
        )
    if errors := facts.get("reconstruction"):
        parts.append(f"error {errors['tokenizer']:.3g} against {errors['mean colour']:.3g} of one colour")
    guesses = guesses_of(facts)
    if guesses:
        name = min(guesses, key=lambda guess: guesses[guess])
        parts.append(f"against {guesses[name]:.4g} of {name}")
    return f"Probe at step {step:,}: {', '.join(parts)} ({facts['seconds']:.1f} s)"
