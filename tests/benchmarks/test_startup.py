"""The start-up benchmark waits for what it says."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.startup import finished, pictures, until_logged


def test_a_command_is_timed_to_its_end() -> None:
    clock, processor = finished([sys.executable, "-S", "-c", "import time; time.sleep(0.3)"])
    assert clock >= 0.3 > processor


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="failed"):
        finished([sys.executable, "-S", "-c", "raise SystemExit(3)"])


def test_a_run_is_ended_at_its_first_loss(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    code = f"""if True:
        import time
        log = open({str(log)!r}, "w", buffering=1)
        print('{{"event": "start"}}', file=log)
        time.sleep(0.2)
        print('{{"loss": 1}}', file=log)
        time.sleep(60)
    """
    start = time.perf_counter()
    clock, processor = until_logged([sys.executable, "-S", "-c", code], log)
    assert 0.2 <= clock <= time.perf_counter() - start < 60
    assert processor < clock
    with pytest.raises(RuntimeError, match="without a loss"):
        until_logged([sys.executable, "-S", "-c", "pass"], tmp_path / "never.jsonl")


def test_there_are_pictures(tmp_path: Path) -> None:
    assert len(list(pictures(tmp_path / "pictures").iterdir())) == 64
