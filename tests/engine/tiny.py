"""A run that takes a second, in this process or in one that can be killed."""

import json
import multiprocessing
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from unmask.engine.pretrain import Run, pretrain

STEPS = 24
TINY = {
    "encoder.embed_dim": 48,
    "encoder.depth": 2,
    "encoder.num_heads": 3,
    "encoder.patch_size": 8,
    "method.decoder_dim": 48,
    "method.decoder_depth": 1,
    "method.decoder_heads": 3,
    "checkpoint.pictures": 1000,
    "probe.every": 0,
}


def pictures(folder: Path, count: int = 50) -> Path:
    """Coloured blocks; 50 of them are six batches of eight and two that are left."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        blocks = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(6, 0).repeat(6, 1)).save(folder / f"{index:03d}.png")
    return folder


def run(
    data: Path, out: Path, *, method: str = "mae", overrides: dict[str, Any] | None = None, **options: Any
) -> Run:
    """A tiny method on one thread; one that goes on is given nothing that it was started with."""
    torch.set_num_threads(1)
    defaults: dict[str, Any] = {"workers": 0, "progress": False, "device": "cpu"}
    if options.get("resume") and out.exists():
        defaults["overrides"] = overrides
    else:
        defaults |= {"image_size": (32, 32), "batch_size": 8, "encoder": "vit_tiny_patch16_224"}
        defaults |= {"steps": STEPS, "overrides": TINY | (overrides or {})}
    return pretrain(method, data=data, out=out, **(defaults | options))


def child(data: Path, out: Path, overrides: dict[str, Any], options: dict[str, Any]) -> None:
    # The way to start processes is inherited; workers are to be started as in a run of one's own.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    sys.exit(run(data, out, overrides=overrides, **options).interrupted)


def start(data: Path, out: Path, overrides: dict[str, Any] | None = None, **options: Any) -> BaseProcess:
    """`run` in another process: forked from a server that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=child, args=(data, out, overrides or {}, options))
    process.start()
    return process


def lines(out: Path) -> list[dict[str, Any]]:
    """All whole lines of the log, which may be written to."""
    path = out / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def training(out: Path) -> list[tuple[float, ...]]:
    """What must not depend on interruptions, of each training line."""
    names = ("step", "epoch", "loss", "lr", "grad_norm")
    return [tuple(line[name] for name in names) for line in lines(out) if "event" not in line]


def events(out: Path) -> list[str]:
    """The names of all events, but for the verdicts, which every run has at its end."""
    return [line["event"] for line in lines(out) if line.get("event", "verdict") != "verdict"]


def weights(out: Path, step: int = STEPS) -> dict[str, Tensor]:
    """All tensors of a checkpoint's weights, and of its averaged weights if it has some."""
    folder = out / "checkpoints" / f"step_{step:08d}"
    tensors = load_file(folder / "model.safetensors")
    if (folder / "ema.safetensors").exists():
        tensors |= {f"ema.{name}": value for name, value in load_file(folder / "ema.safetensors").items()}
    return tensors


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
