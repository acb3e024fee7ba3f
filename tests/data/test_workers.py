"""Workers must outlive Ctrl-C, and must not outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, signal, sys
from unmask.data import Augment, PretrainLoader, View, open_source

source, augment = open_source(sys.argv[1]), Augment(image_size=(16, 16))
loader = PretrainLoader(source, {"images": View()}, augment, batch_size=4, seed=0, workers=2)
batches = loader.batches(0)
next(batches)
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
while not stopped:
    next(batches)
for _ in range(20):
    next(batches)
print("still served", flush=True)
"""


def start(photos: Path) -> tuple[subprocess.Popen, list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(photos)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    workers = [int(number) for number in process.stdout.readline().split()]
    assert len(workers) == 2 and all(alive(worker) for worker in workers)
    return process, workers


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(workers: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < end, "a worker lives on without its parent"
        time.sleep(0.05)


pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_leave_the_workers_running(photos, number):
    process, workers = start(photos)
    for worker in workers:
        os.kill(worker, number)
    time.sleep(0.3)
    assert all(alive(worker) for worker in workers)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "still served" in output and process.returncode == 0
    wait_until_gone(workers, 1)


def test_one_lost_worker_ends_all(photos):
    # DataLoader fails in the parent, which then has to end the other worker.
    process, workers = start(photos)
    os.kill(workers[0], signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 1
    wait_until_gone(workers, 1)


def test_no_worker_is_left_when_the_parent_is_killed(photos):
    process, workers = start(photos)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until_gone(workers, 20)  # the workers look for their parent every five seconds
