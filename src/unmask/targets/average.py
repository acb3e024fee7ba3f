"""A moving average of the student as its own teacher."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class MovingAverage(nn.Module):
    """A frozen copy of a module that follows it slowly: a <- m a + (1 - m) w for every weight w.

    Buffers (running statistics) are its own. It is called as the module is, without gradients, and always in
    evaluation mode: no dropout, no stochastic depth.

    Args:
        student: what is copied, as it is now.
        momentum: m in [0, 1]; 0 is a plain copy, 1 never moves.
        batch_statistics: except for its BatchNorms, which follow the mode that is asked for: in training they
            normalise by the batch and update their running statistics, as the student's do.
    """

    def __init__(self, student: nn.Module, *, momentum: float, batch_statistics: bool = False) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"the momentum of a moving average must lie in [0, 1], not {momentum}")
        self.momentum = momentum
        self.batch_statistics = batch_statistics
        self.module = copy.deepcopy(student).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "MovingAverage":
        super().train(False)
        for module in self.modules() if self.batch_statistics else ():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.train(mode)
        return self

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.module(*inputs, **options)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """Move towards the student; called after every optimiser step."""
        pairs = zip(self.module.parameters(), student.parameters(), strict=True)
        for average, weight in pairs:
            average.lerp_(weight, 1 - self.momentum)


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """For as long as a student is its own teacher: no dropout, no stochastic depth."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
