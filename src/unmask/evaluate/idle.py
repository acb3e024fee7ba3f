"""Weights that no answer depends on, as RevColV2's lower levels where only the top one is used."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def freeze_idle(model: nn.Module, answer: Callable[[], Tensor]) -> None:
    """Take weights out of the training that an answer does not depend on: an optimiser would decay them, and
    several processes would wait for their gradients.

    Args:
        answer: what the model, then in eval mode, says of some input; of any shape.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    with torch.enable_grad():
        gradients = torch.autograd.grad(answer().sum(), trained, allow_unused=True)
    model.train(training)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
