"""A moving average follows by its closed form, is never trained, and may keep statistics of its own."""

import pytest
import torch
from torch import nn

from unmask.targets.average import MovingAverage


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))


def test_it_follows_by_its_momentum() -> None:
    model = student()
    average = MovingAverage(model, momentum=0.9)
    start = [parameter.clone() for parameter in average.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
    for _ in range(3):
        average.follow(model)
    for before, after in zip(start, average.parameters(), strict=True):
        torch.testing.assert_close(after, 0.9**3 * before + (1 - 0.9**3) * 2.0)


@pytest.mark.parametrize("own", [False, True])
def test_only_batch_norms_may_know_that_they_train(own: bool) -> None:
    average = MovingAverage(student(), momentum=0.9, batch_statistics=own)
    norm, dropout = average.module[1], average.module[2]
    assert norm.training == own and not dropout.training and not average.training
    rows = torch.randn(64, 3) * 4 + 7
    average.train()
    first = average(rows)
    assert torch.equal(average(rows), first) and not first.requires_grad  # no dropout
    assert bool(norm.running_mean.any()) == own
    if own:
        expected = nn.functional.batch_norm(average.module[0](rows), None, None, norm.weight, norm.bias, True)
        torch.testing.assert_close(first, average.module[3](expected))
    kept = norm.running_mean.clone()
    average.eval()(rows)
    assert torch.equal(norm.running_mean, kept) and not norm.training


def test_no_gradient_reaches_it() -> None:
    model = student()
    average = MovingAverage(model, momentum=0.5)
    (model(torch.randn(4, 3)) - average(torch.randn(4, 3))).sum().backward()
    assert all(parameter.grad is None for parameter in average.parameters())
    with pytest.raises(ValueError, match="must lie in"):
        MovingAverage(model, momentum=-0.1)
