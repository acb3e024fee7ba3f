"""`log.jsonl`, one JSON object a line: training lines and events. TensorBoard gets the numbers too."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unmask.engine.files import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FIRST_STEPS = 10  # logged one by one: that is when one watches
LINES = 1500  # about as many over a run
WIDEST = 100  # steps between two lines at most
NOT_PLOTTED = ("step", "epoch")


def is_logged(step: int, total: int) -> bool:
    """Whether the `step`-th step of `total`, counted from 1, gets a line."""
    interval = min(WIDEST, max(1, total // LINES))
    return step <= FIRST_STEPS or step % interval == 0 or step == total


class RunLog:
    """Appends to a run's log; every line is handed to the system at once, so that a killed run keeps it.

    Args:
        folder: of the run.
        step: the log is continued from here: what later steps wrote before an interruption is cut.
        written: False writes nothing, for all processes but the first.
    """

    def __init__(self, folder: Path, *, step: int, written: bool = True) -> None:
        self._metrics, self._step, self._written = folder / "metrics", step, written
        self._writer: SummaryWriter | None = None
        path = folder / "log.jsonl" if written else Path(os.devnull)
        if path.is_file():
            cut(path, step)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def event(self, kind: str, step: int, /, **facts: Any) -> None:
        """Something that happened once."""
        self._write({"event": kind, "step": step, **facts})

    def step(self, line: Mapping[str, float]) -> None:
        """The numbers of one step, "step" among them; JSON knows no infinite ones, which become null."""
        self._write({name: value if math.isfinite(value) else None for name, value in line.items()})
        if self._written:
            writer = self._tensorboard()
            for name, value in line.items():
                if name not in NOT_PLOTTED:
                    writer.add_scalar(name, value, int(line["step"]))

    def _write(self, line: Mapping[str, Any]) -> None:
        text = json.dumps({**line, "time": round(time.time(), 3)}, allow_nan=False)
        self._file.write(text + "\n")
        self._file.flush()

    def _tensorboard(self) -> "SummaryWriter":
        if self._writer is None:
            # Imported late: it takes longer than the first step of a small run.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._metrics), purge_step=self._step + 1)
        return self._writer


def cut(path: Path, step: int) -> None:
    """Remove the lines of later steps, and a line that was never finished, in one step."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = "".join(line for line in lines if _is_kept(line, step))
    if kept != "".join(lines):
        write_text(path, kept)


def _is_kept(line: str, step: int) -> bool:
    try:
        content = json.loads(line)
    except ValueError:
        return False
    # An evaluation of a later checkpoint is no part of the training and stays true.
    return content.get("event") == "evaluation" or content.get("step", 0) <= step
