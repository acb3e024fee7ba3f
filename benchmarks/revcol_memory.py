"""What reversible columns keep for the backward pass, by the number of columns and the way to save memory.

    python -m benchmarks.revcol_memory
    python -m benchmarks.revcol_memory --model revcol --columns 4 8 16

Counted are the bytes of all tensors that autograd keeps between forward and backward, each storage once,
weights and images left out. Nothing is timed, so it needs no particular machine.
"""

import argparse
import warnings
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unmask.encoders.columns import MemorySaver
from unmask.encoders.revcol import RevCol
from unmask.encoders.revcolv2 import RevColViT

SAVERS: tuple[MemorySaver, ...] = get_args(MemorySaver)


def saved_bytes(
    model: RevCol | RevColViT, size: tuple[int, int], batch: int, saver: MemorySaver | None
) -> int:
    """Of one forward pass in training mode; None keeps all activations."""
    model.memory_saver = saver or "checkpoint"
    model.set_grad_checkpointing(saver is not None)
    images = torch.randn(batch, 3, *size)
    fixed = {
        tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), images)
    }
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, levels = model.forward_intermediates(images)
    total = sum(kept.values())
    del levels  # until here nothing that was counted may be freed, or its place would be used twice
    return total


def build(name: str, columns: int, side: int) -> RevCol | RevColViT:
    """RevCol-T, or RevColV2 of a width of 384, of so many columns; of RevColV2 half of them go down."""
    if name == "revcol":
        return RevCol(side, num_columns=columns, num_classes=0).train()
    up = (columns + 1) // 2
    return RevColViT(
        side, embed_dim=384, num_heads=6, num_classes=0, up_columns=up, down_columns=columns - up
    ).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="revcolv2", choices=("revcolv2", "revcol"))
    parser.add_argument("--columns", type=int, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=1, help="images")
    options = parser.parse_args()
    # Only bytes are counted here.
    warnings.filterwarnings("ignore", message=".*inverted one after the other are inexact")
    size = (options.image_size, options.image_size)
    shape = f"{options.batch_size} x {options.image_size} px, float32"
    table = Table("columns", title=f"MB kept for the backward pass of {options.model}, {shape}")
    for name in ("plain", *SAVERS):
        table.add_column(name, justify="right")
    for columns in options.columns:
        model = build(options.model, columns, options.image_size)
        found = [saved_bytes(model, size, options.batch_size, saver) for saver in (None, *SAVERS)]
        table.add_row(str(columns), *(f"{count / 1e6:.2f}" for count in found))
    Console().print(table)


if __name__ == "__main__":
    main()
