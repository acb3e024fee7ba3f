"""The line that says how a run is doing: kept up to date on a terminal, elsewhere printed now and then."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from unmask.engine.checkpoint import State
from unmask.engine.setup import Job
from unmask.summary import as_duration, as_memory

BETWEEN_PRINTS = 10.0  # seconds, where the output is no terminal
BETWEEN_UPDATES = 0.2  # seconds, on a terminal
SMOOTHING = 0.95  # of the loss shown


class ProgressLine:
    """Shows step, loss, images/s, time left, share of time waiting for data, peak memory; on stderr.

    Args:
        step: steps already done.
        shown: False shows nothing.
    """

    def __init__(self, *, step: int, total: int, shown: bool) -> None:
        self._console = Console(stderr=True, quiet=not shown, highlight=False)
        self._total, self._loss, self._rates = total, 0.0, ""
        self._start, self._first = time.perf_counter(), step
        self._next = 0.0
        self._seen = 0
        self._bar: Progress | None = None
        if shown and self._console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(bar_width=20)
            self._bar = Progress(*columns, console=self._console, auto_refresh=False, transient=False)
            self._task = self._bar.add_task("starting", total=total, completed=step)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, soft_wrap=True)

    def rates(
        self, *, images_per_s: float, data_wait: float, memory_mb: float, cached: float | None = None
    ) -> None:
        """What is only measured now and then."""
        self._rates = f"  {images_per_s:,.0f} images/s  data wait {data_wait:.0%}  {as_memory(memory_mb)}"
        self._rates += "" if cached is None else f"  cached {cached:.0%}"

    def step(self, step: int, loss: float) -> None:
        """One more step is done."""
        # Plain mean at first, so that the first loss counts no more than those after it.
        self._seen += 1
        self._loss += (loss - self._loss) * max(1 - SMOOTHING, 1 / self._seen)
        now = time.perf_counter()
        if now < self._next and step < self._total:
            return
        self._next = now + (BETWEEN_PRINTS if self._bar is None else BETWEEN_UPDATES)
        left = (now - self._start) / (step - self._first) * (self._total - step)
        text = f"step {step:,}/{self._total:,}  loss {self._loss:.4f}{self._rates}  left {as_duration(left)}"
        if self._bar is None:
            self.say(text)
        else:
            self._bar.update(self._task, description=text, completed=step, refresh=True)


def headline(job: Job, state: State, *, resumed: bool) -> str:
    """What is about to be done, on what, and where it will lie."""
    recipe = job.recipe
    trained = sum(parameter.numel() for parameter in job.parameters) / 1e6
    length = f"{job.total:,} steps of {recipe.optim.batch_size} ({len(job.loader):,} an epoch)"
    what = f"{recipe.title}, {trained:.1f} M parameters"
    where = f"{state.images:,} images, {length}, {job.machine_name} -> {job.folder}"
    return (f"Going on from step {state.step:,}: " if resumed else "") + f"{what}; {where}"
