"""Two processes never train in one folder at a time."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tests.engine.tiny import pictures, run
from unmask.engine.lock import LOCK, RunLock
from unmask.errors import UserError


def hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with RunLock(folder):
        if os.fork() == 0:  # as a loader's worker, which outlives a parent that is killed
            signal.pause()
        ready.set()
        signal.pause()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    data, out = pictures(tmp_path / "pictures"), tmp_path / "run"
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(out, ready))
    holder.start()
    assert ready.wait(30)
    child = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])
    try:
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(UserError, match=f"process {holder.pid} on .* is training there"):
                run(data, out, steps=2, **options)
        assert [path.name for path in out.iterdir()] == [LOCK]
        holder.kill()
        holder.join()
        assert run(data, out, steps=2).step == 2  # though the worker is still there, and so is the file
    finally:
        os.kill(child, signal.SIGKILL)
    assert not (out / LOCK).exists()


def test_run_that_another_process_began_meanwhile_is_left_alone(tmp_path: Path) -> None:
    from unmask.engine.checkpoint import State
    from unmask.engine.run import require_unchanged

    data, out = pictures(tmp_path / "pictures"), tmp_path / "run"
    run(data, out, steps=4, overrides={"checkpoint.every": 2})
    with pytest.raises(UserError, match="meanwhile"):
        require_unchanged(out, State(images=50), resumed=False, overwrite=False)
    with pytest.raises(UserError, match="meanwhile"):
        require_unchanged(out, State(images=50, step=2), resumed=True, overwrite=False)
    require_unchanged(out, State(images=50, step=4), resumed=True, overwrite=False)
    require_unchanged(out, State(images=50), resumed=False, overwrite=True)


def test_other_processes_of_a_run_hold_nothing(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run", held=False):
        assert not (tmp_path / "run").exists()
