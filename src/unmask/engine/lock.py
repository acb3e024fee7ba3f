"""One process trains in a run folder at a time."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from unmask.errors import UserError

LOCK = ".lock"


class RunLock:
    """Held while entered; the system releases it when the process ends, however it ends.

    A POSIX record lock: unlike flock's it is not shared by forked workers, which may outlive a process that
    was killed, and it works on network file systems.

    Args:
        folder: of the run; made if it is missing.
        held: False does nothing, for all processes of a run but the first.
    """

    def __init__(self, folder: Path, *, held: bool = True) -> None:
        self._path, self._held = folder / LOCK, held
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        while self._held and self._descriptor is None:
            self._descriptor = self._locked()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)

    def _locked(self) -> int | None:
        """The locked file; None if its last holder deleted it in between, which calls for another try."""
        folder = self._path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"--out {folder} cannot be made: {error.strerror or error}") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 100).decode(errors="replace").strip()
            os.close(descriptor)
            if not isinstance(error, BlockingIOError | PermissionError):
                raise UserError(f"--out {folder} cannot be locked: {error.strerror or error}") from error
            raise UserError(
                f"--out {folder}: another process{f' ({holder})' if holder else ''} is training there. Wait "
                "for it, stop it, or give another folder."
            ) from error
        try:
            named = self._path.stat()
        except FileNotFoundError:
            named = None
        if named is None or not os.path.samestat(named, os.fstat(descriptor)):
            os.close(descriptor)
            return None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        return descriptor
