"""A training step (forward, backward, AdamW) of ours and of other libraries, side by side.

    python -m benchmarks.step mae --encoder vit_base_patch16_224 --batch-size 8

All take the same batch, sizes and optimiser, in turns. On the CPU the seconds of the processor count, not of
the clock, so that other programs on the machine do not; on a GPU the device's own. A ratio is the other's
time over ours in the same round: above 1 ours is faster. The matrix peak is the best that a large
multiplication reaches between the rounds.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW, Optimizer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import PEERS, Contender, Missing, ours
from unmask.encoders import create_encoder
from unmask.engine.machine import choose_device, cores
from unmask.methods import METHODS, Method
from unmask.options import image_size as read_image_size

ENCODERS = {"mae": "vit_base_patch16_224", "simmim": "swin_base_patch4_window7_224"}
IMAGE_SIZES = {"mae": (224, 224), "simmim": (192, 192)}
MATRIX_SIDES = {"cpu": 2048, "cuda": 8192}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured of one contender.

    Attributes:
        seconds: of a step, a value a round; of the processor on the CPU.
        flops: of a step, forward and backward.
        peak_memory: bytes on the device while it trains; None on the CPU.
    """

    name: str
    parameters: int
    seconds: list[float]
    flops: int
    peak_memory: int | None


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def step(contender: Contender, optimiser: Optimizer, images: Tensor, precision: str) -> None:
    """One optimiser step."""
    with autocast(images.device, precision), contender.around():
        loss = contender.loss(contender.model, images)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of the processor, or of the GPU."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def count_flops(contender: Contender, images: Tensor) -> int:
    """Forward and backward; attention by plain matrix products, which the counter knows on every device."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        contender.loss(contender.model, images).backward()
    contender.model.zero_grad()
    return counter.get_total_flops()


def matrix_flops(device: torch.device, precision: str, side: int) -> float:
    """Operations a second of a large matrix product: what the best step could reach."""
    left, right = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2))
    left @ right
    return 2 * side**3 / min(seconds(lambda: left @ right, device) for _ in range(3))


def measure(
    contenders: Sequence[Contender],
    images: Tensor,
    *,
    precision: str,
    rounds: int,
    steps: int,
    compiled: bool,
) -> tuple[list[Result], float]:
    """All contenders in turns.

    Args:
        steps: a round; every contender runs one more before the first round.

    Returns:
        A result each, and the operations a second of a large matrix product.
    """
    device = images.device
    flops = [count_flops(contender, images) for contender in contenders]
    optimisers = []
    for contender in contenders:
        contender.model.train()
        if compiled:
            contender.model.compile()
        trained = [parameter for parameter in contender.model.parameters() if parameter.requires_grad]
        optimisers.append(AdamW(trained, lr=1e-4, fused=True))
    taken: list[list[float]] = [[] for _ in contenders]
    memory: list[int | None] = [None for _ in contenders]
    peaks = []
    for index in range(rounds + 1):
        peaks.append(matrix_flops(device, precision, MATRIX_SIDES[device.type]))
        # Everyone goes first as often as last.
        for number in sorted(range(len(contenders)), reverse=bool(index % 2)):

            def several(number: int = number) -> None:
                for _ in range(steps):
                    step(contenders[number], optimisers[number], images, precision)

            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                others = torch.cuda.memory_allocated(device)
            spent = seconds(several, device) / steps
            if device.type == "cuda":
                memory[number] = torch.cuda.max_memory_allocated(device) - others
            if index:  # the first round warms up
                taken[number].append(spent)
    results = [
        Result(
            name=contender.name,
            parameters=sum(p.numel() for p in contender.model.parameters() if p.requires_grad),
            seconds=taken[number],
            flops=flops[number],
            peak_memory=memory[number],
        )
        for number, contender in enumerate(contenders)
    ]
    return results, max(peaks)


def ratios(theirs: Result, first: Result) -> list[float]:
    """Of each round."""
    return [other / own for other, own in zip(theirs.seconds, first.seconds, strict=True)]


def table(results: Sequence[Result], peak: float, *, batch_size: int, title: str) -> Table:
    """One line a contender; the first is what the others are compared with."""
    drawn = Table(title=title, title_justify="left")
    on_gpu = results[0].peak_memory is not None
    unit = "GPU" if on_gpu else "CPU"
    rates = f"{unit} ms a step", f"images a {unit} second"
    for name in ("", "parameters", *rates, "GFLOP an image", "of the matrix peak"):
        drawn.add_column(name, justify="left" if not name else "right")
    if on_gpu:
        drawn.add_column("memory above weights", justify="right")
    drawn.add_column("ratio (lowest - highest)", justify="right")
    for result in results:
        typical, compared = median(result.seconds), ratios(result, results[0])
        cells = [
            result.name,
            f"{result.parameters / 1e6:.1f} M",
            f"{1000 * typical:,.1f}",
            f"{batch_size / typical:,.1f}",
            f"{result.flops / batch_size / 1e9:.2f}",
            f"{result.flops / typical / peak:.0%}",
        ]
        if result.peak_memory is not None:
            cells.append(f"{result.peak_memory / 2**20:,.0f} MB")
        spread = f"{median(compared):.3f} ({min(compared):.3f} - {max(compared):.3f})"
        drawn.add_row(*cells, "" if result is results[0] else spread)
    return drawn


def build(
    name: str,
    encoder: str | None,
    image_size: tuple[int, int] | None,
    *,
    device: torch.device,
    precision: str,
) -> tuple[Method, list[Contender], list[str]]:
    """Our method, all contenders on the device, and why others are missing."""
    method = METHODS[name](
        create_encoder(
            encoder or ENCODERS[name],
            image_size=image_size or IMAGE_SIZES[name],
            **({"position": "sincos", "init": "mae"} if name == "mae" else {}),
        )
    )
    contenders, missing = [ours(method, device, precision)], []
    for peer in PEERS.values():
        try:
            contenders.append(peer(method))
        except Missing as reason:
            missing.append(str(reason))
    for contender in contenders:
        contender.model.to(device)
    return method, contenders, missing


def main(
    method: Annotated[str, typer.Argument(help="mae or simmim.")] = "mae",
    encoder: Annotated[
        str | None, typer.Option(help="timm's name; the paper's base model if not given.")
    ] = None,
    image_size: Annotated[str | None, typer.Option(metavar="N|HxW", help="Pixels.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Of all contenders in turn.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Of each in a round.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="All of them by torch.compile.")] = False,
) -> None:
    """Time a training step of ours and of other libraries."""
    torch.manual_seed(0)
    where = torch.device(choose_device(device))
    size = None if image_size is None else read_image_size(image_size)
    built, contenders, missing = build(method, encoder, size, device=where, precision=precision)
    for reason in missing:
        typer.echo(f"Left out: {reason}.")
    height, width = built.encoder.image_size
    images = torch.randn(batch_size, built.encoder.channels, height, width, device=where)
    results, peak = measure(
        contenders, images, precision=precision, rounds=rounds, steps=steps, compiled=compile
    )
    name = built.encoder.architecture["model_name"]
    machine = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {threads()}"
    title = (
        f"{method} {name}, {height} x {width}, batch {batch_size}, {precision}{', compiled' * compile}, "
        f"{machine}, torch {torch.__version__}; matrix product {peak / 1e12:.3g} TFLOP/s"
    )
    Console(width=180).print(table(results, peak, batch_size=batch_size, title=title))


def threads() -> str:
    count = torch.get_num_threads()
    return f"{count} {'thread' if count == 1 else 'threads'} on {cores()} cores"


if __name__ == "__main__":
    typer.run(main)
