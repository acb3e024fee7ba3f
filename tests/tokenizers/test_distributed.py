"""Codebooks of several processes are those of one."""

import socket
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from unmask.processes import processes, summed
from unmask.tokenizers.dvae import DVAE
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


def even(rank: int, count: int) -> dict[str, Tensor]:
    """How unevenly classes come, the gradient as the engine averages it, and the end of the first step."""
    torch.manual_seed(0)
    sizes = {"image_size": (16, 16), "width": 4, "blocks": 1, "decoder_dim": 4, "vocabulary": 6}
    tokenizer = DVAE(**sizes, evenness_weight=1.0, start_spread=2.0)
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)).chunk(count)[rank]
    unevenness = tokenizer(images)["unevenness"]
    unevenness.backward()
    weight = tokenizer.head.weight
    assert weight.grad is not None
    gradient = summed(weight.grad) / processes()
    tokenizer.after_step(1, 10)
    return {"unevenness": unevenness.detach(), "gradient": gradient, "head": weight.detach()}


def member(rank: int, count: int, port: int, out: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    results = {kind: learned(kind, rank, count) for kind in KINDS} | {"even": even(rank, count)}
    torch.save(results, out / f"{rank}.pt")
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
    members = [context.Process(target=member, args=(rank, 2, port, out)) for rank in range(2)]
    for process in members:
        process.start()
    for process in members:
        process.join()
    assert [process.exitcode for process in members] == [0, 0]
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_codebook_of_one(kind: str, two: list[dict[str, dict[str, Tensor]]]) -> None:
    first, second = (state[kind] for state in two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first, learned(kind, 0, 1), rtol=1e-5, atol=1e-6)


def test_two_processes_count_classes_together(two: list[dict[str, dict[str, Tensor]]]) -> None:
    first, second = (state["even"] for state in two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first, even(0, 1), rtol=1e-4, atol=1e-6)
