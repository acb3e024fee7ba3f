"""What the loop for labels trains: classification, segmentation, detection."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from unmask.engine.checkpoint import State
from unmask.engine.machine import Precision, attention

Item = TypeVar("Item")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Process:
    """One of the processes that share a job, and how it computes.

    Attributes:
        precision: of a forward pass.
        workers: processes that decode for this one.
        index: which one this is, of `count`.
    """

    device: torch.device
    precision: Precision = "fp32"
    workers: int = 0
    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files."""
        return self.index == 0

    def share(self, items: int) -> range:
        """The items, of so many, that fall to this process: every `count`-th one."""
        return range(self.index, items, self.count)

    def together(self, found: Sequence[Item]) -> list[Item]:
        """What all processes found, in their order; all of them call this."""
        return list(found) if self.count == 1 else gather_object(list(found))

    def forward(self) -> AbstractContextManager[Any]:
        """Around forward passes outside training: their precision, and no gradients."""
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        stack.enter_context(attention(self.device, self.precision))
        if self.precision in DTYPES:
            stack.enter_context(torch.autocast(self.device.type, DTYPES[self.precision]))
        return stack


class Task(ABC):
    """A network that learns from labels: what it is, how it is fed, how it is judged.

    Nothing here is an optimiser, a loader or a loop, and nothing may be kept on `self` between two calls:
    samples are made in other processes, and any call may be the first after a resume.

    Attributes:
        model: what is trained, and kept whole in checkpoints. Weights that no loss reaches must not require
            gradients.
        score: the figure of `validate` by which the best weights are kept; higher is better.
        blocks: of the network, for layer decay; heads have the depth `blocks` + 1.
        width: of its transformer, 0 without one: narrow ones are slower in bf16 on a CPU.
        made: files and folders that `conclude` writes; `--overwrite` deletes them.
    """

    model: nn.Module
    score: str
    blocks: int
    width: int = 0
    made: tuple[str, ...] = ()

    @abstractmethod
    def samples(self) -> int:
        """Samples in the training set."""

    @abstractmethod
    def name_of(self, index: int) -> str:
        """What logs call a training sample: the path of its picture."""

    @abstractmethod
    def sample(self, index: int, generator: np.random.Generator) -> Any:
        """One augmented training sample, on the CPU; called in workers.

        Args:
            generator: of all that is random about it; it follows from the run's seed, the epoch and `index`.

        Raises:
            OSError, DecodeError: its picture cannot be read; the next one takes its place.
        """

    @abstractmethod
    def collate(self, samples: list[Any]) -> Any:
        """A batch of them: tensors, in dictionaries, lists and tuples; called in workers."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch: "loss" is minimised, the others are logged.

        Args:
            model: `self.model` as Accelerate wraps it; to be called once.
            batch: on the device.
            generator: on the CPU, of all that is random here (mixup); it follows from seed, step and process.
        """

    @abstractmethod
    def validate(self, model: nn.Module, process: Process) -> dict[str, float]:
        """Figures of the validation set, the same in all processes.

        Every process looks at its `process.share` and `process.together` brings together what they found.

        Args:
            model: in eval mode, on the device; the moving average of the weights if there is one.
        """

    def depth_of(self, name: str) -> int | None:
        """The depth of a parameter of `model`, for layer decay: 0 is the stem, k the k-th block. None, the
        default, is the head's."""
        return None

    @abstractmethod
    def conclude(self, model: nn.Module, folder: Path, process: Process, state: State) -> None:
        """Pictures, tables and weights for use without the run, when it ends.

        All processes call this, and the first one writes. A run that was killed here does it again.

        Args:
            model: with the best weights, in eval mode, on the device.
            folder: of the run.
            state: where the run stands: its steps, the best of them, what could not be read.
        """
