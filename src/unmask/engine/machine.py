"""The machine that a run is on: device, precision, processes, memory. None of it belongs to a recipe."""

import os
import platform
import resource
import shlex
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch.nn.attention import SDPBackend, sdpa_kernel

from unmask import __version__
from unmask.engine.launch import processes_here
from unmask.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = ("fp32", "bf16", "fp16")

# Measured on one core of an EPYC with avx512_bf16, forward and backward, CPU seconds of fp32 / bf16: ViT-Tiny
# at 64 pixels (width 192) 1.4, ViT-Small 1.5, Swin-Tiny 1.8, but a ViT of width 48 0.4: there the casts cost
# more than they save.
NARROWEST_FOR_BF16_ON_CPU = 128

MOST_WORKERS = 4
CACHE_SIZE = 20.0  # GB


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a run is computed, as a person asks for it; `pretrain` says what each means.

    Attributes:
        cache_size: GB.
    """

    device: str
    precision: str
    workers: int | None
    compile: bool | None
    checkpointing: bool
    cache: Path | None = None
    cache_size: float = CACHE_SIZE


def choose_device(device: str) -> str:
    """ "cpu" or "cuda".

    Raises:
        UserError: an unknown name, or CUDA where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: it must be auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch sees no CUDA device. Check the driver with nvidia-smi and that "
            f"PyTorch is a CUDA build (it is {torch.__version__}), or use --device cpu."
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def choose_precision(precision: str, device: str, width: int) -> Precision:
    """The precision of the forward pass; "auto" is the fastest that trains without loss scaling.

    Args:
        width: of the encoder.

    Raises:
        UserError: an unknown name, or one that the device cannot do.
    """
    if precision == "auto":
        if device == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        return "bf16" if width >= NARROWEST_FOR_BF16_ON_CPU and cpu_has_bf16() else "fp32"
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: it must be auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device == "cpu":
        raise UserError(
            "--precision fp16 needs a GPU: processors compute it slowly. Use bf16 or fp32 on the CPU."
        )
    if (
        precision == "bf16"
        and device == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(f"--precision bf16: {torch.cuda.get_device_name()} has no bf16. Use fp16 or fp32.")
    return precision  # type: ignore[return-value]


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 natively, as far as Linux says."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def make_accelerator(device: str, precision: Precision, accumulate: int) -> Accelerator:
    """Accelerate for one run.

    It keeps one state for a whole process and refuses to change it, but a notebook may well train twice,
    with another precision or device: the state is cleared first (the device's part only where no process
    group hangs on it).
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not distributed)
    # Of several processes: gradients that live in the buckets in which they are exchanged are not held twice.
    exchange = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[exchange],
    )


def leave() -> None:
    """Part from the other processes of the run, if there are any; NCCL complains of those that just go."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def attention(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Around a step: which kernel computes attention.

    PyTorch's choice, but for bf16 on the CPU: there a step with the plain one takes 0.78 (ViT-Tiny, 64 px)
    to 0.95 times (ViT-Small, 224 px) as long as with the fused one, whose backward pass is slow.
    """
    plain = device.type == "cpu" and precision == "bf16"
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def default_workers() -> int:
    """Processes that decode images for this one: of its share of the cores, one is left to the training."""
    return min(MOST_WORKERS, max(cores() // processes_here() - 1, 0))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far: the device's, as PyTorch counts it; on the CPU this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def machine_name(environment: Mapping[str, Any]) -> str:
    """The device and its precision, for people; of what `describe` says."""
    count = environment["processes"]
    device = environment["gpu"] or "CPU"
    return f"{f'{count} x ' if count > 1 else ''}{device} ({environment['precision']})"


def describe(accelerator: Accelerator, precision: Precision) -> dict[str, Any]:
    """What a result may depend on beside the recipe, and what one asks when a run was slow."""
    packages = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")
    gpu = torch.cuda.get_device_name(accelerator.device) if accelerator.device.type == "cuda" else None
    return {
        "unmask": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "device": accelerator.device.type,
        "precision": precision,
        "processes": accelerator.num_processes,
        "command": shlex.join(sys.argv),
        "directory": str(Path.cwd()),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
