"""Codebooks of several processes are those of one."""

import socket
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from unmask.tokenizers.quantizer import CosineQuantizer, EuclideanQuantizer, Quantizer

pytestmark = pytest.mark.slow

KINDS = {"euclidean": EuclideanQuantizer, "cosine": CosineQuantizer}
STEPS = 8


def learned(kind: str, rank: int, count: int) -> dict[str, Tensor]:
    """A codebook after some steps, of which this process sees its part of every batch: k-means, moving
    averages, revival."""
    torch.manual_seed(rank if count > 1 else 0)  # what differs at first is made equal by k-means
    quantizer: Quantizer = KINDS[kind](24, 4, revive_after=2)
    for step in range(1, STEPS + 1):
        batch = torch.randn(64, 4, generator=torch.Generator().manual_seed(step))
        quantizer(batch.chunk(count)[rank])
        quantizer.settle(step)
    return quantizer.state_dict()


def member(rank: int, count: int, port: int, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    torch.save({kind: learned(kind, rank, count) for kind in KINDS}, out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes ends with."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=member, args=(rank, 2, port, out)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_codebook_of_one(kind: str, two: list[dict[str, dict[str, Tensor]]]) -> None:
    first, second = (state[kind] for state in two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first, learned(kind, 0, 1), rtol=1e-5, atol=1e-6)
