"""Ctrl-C and a cluster's SIGTERM: noted, and obeyed when the step is done."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

MESSAGE = b"\nStopping after this step; the run can be resumed.%s\n"


class StopRequest:
    """Notes SIGINT and SIGTERM while entered, instead of ending the process; a second Ctrl-C ends it at once.

    Outside the main thread Python allows no handlers: there it notes nothing and signals act as they did.

    Args:
        told: say on stderr that the signal was understood.

    Attributes:
        signal: number of the first signal that came; None if none did.
    """

    def __init__(self, *, told: bool = True) -> None:
        self.signal: int | None = None
        self._told = told
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int | None:
        """What a shell expects of a process stopped by the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return None if self.signal is None else 128 + self.signal

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            # A plain write: print may be in the middle of one when the signal comes.
            if self._told:
                os.write(2, MESSAGE % (b" Ctrl-C again quits at once." if number == signal.SIGINT else b""))
