"""What each of SimMIM's heads costs beside the linear one: parameters, operations, a training step (table 2).

    python benchmarks/heads.py
    python benchmarks/heads.py --encoder swin_tiny_patch4_window7_224 --image-size 96 --rounds 5

Steps are forward and backward passes in fp32, without the optimiser, which a batch of the paper's size makes
cheap. All heads take turns, so that what else the machine does strikes them alike; on a CPU processor seconds
are compared, which other programs do not lengthen.
"""

import argparse
import statistics
import time
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from unmask.encoders import create_encoder
from unmask.heads import HeadName
from unmask.masking import Mask
from unmask.methods import SimMIM

HEADS: tuple[HeadName, ...] = get_args(HeadName)


def operations(method: SimMIM, images: torch.Tensor, mask: Mask) -> int:
    """Additions and multiplications of one forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        method(images, mask=mask)
    return counter.get_total_flops()


def seconds(method: SimMIM, images: torch.Tensor, mask: Mask) -> float:
    """Of one forward and backward pass: of the processor, or of the GPU if the images lie there."""
    clock = time.process_time if images.device.type == "cpu" else _gpu_time
    method.zero_grad()
    begun = clock()
    method(images, mask=mask)["loss"].backward()
    return clock() - begun


def _gpu_time() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="swin_base_patch4_window7_224", help="timm's name")
    parser.add_argument("--image-size", type=int, default=192, help="pixels")
    parser.add_argument("--batch-size", type=int, default=1, help="images a step")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every head")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.manual_seed(0)
    size = (options.image_size, options.image_size)
    encoder = create_encoder(options.encoder, image_size=size)
    methods = {name: SimMIM(encoder, head=name).to(options.device) for name in HEADS}
    images = torch.randn(options.batch_size, 3, *size, device=options.device)
    mask = methods["linear"].draw(images)
    flops = {name: operations(method, images, mask) for name, method in methods.items()}
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(options.rounds + 1):
        for name, method in methods.items():
            spent = seconds(method, images, mask)
            if turn:  # the first warms up
                taken[name].append(spent)
    shape = (
        f"{options.batch_size} x {options.image_size} px, {options.device}, {torch.get_num_threads()} threads"
    )
    table = Table("head", title=f"SimMIM's heads on {options.encoder}, {shape}")
    for column in ("parameters of the head", "of all", "GFLOPs an image, forward", "s a step", "cost"):
        table.add_column(column, justify="right")
    for name, method in methods.items():
        head, total = (sum(p.numel() for p in module.parameters()) for module in (method.head, method))
        ratio = statistics.median(own / base for own, base in zip(taken[name], taken["linear"], strict=True))
        gigas = flops[name] / options.batch_size / 1e9
        middle = statistics.median(taken[name])
        table.add_row(name, f"{head:,}", f"{total:,}", f"{gigas:.2f}", f"{middle:.2f}", f"{ratio:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    main()
