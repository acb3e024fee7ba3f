"""Learning rates in closed form, total lengths, parameter groups."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from unmask.engine.optim import build_optimiser, build_scheduler, parameter_groups, total_steps, warmup_steps
from unmask.recipes.base import Optim, Schedule


def rates(optim: Optim, schedule: Schedule, steps_per_epoch: int) -> list[float]:
    """The learning rate that every step of a run sees."""
    optimiser = build_optimiser(nn.Linear(2, 2), optim)
    scheduler = build_scheduler(optimiser, optim, schedule, steps_per_epoch)
    found = []
    for step in range(total_steps(schedule, steps_per_epoch)):
        scheduler.step_update(step)
        values = {group["lr"] for group in optimiser.param_groups}
        assert len(values) == 1
        found += values
    return found


def mae_rate(
    step: int, *, steps_per_epoch: int, epochs: int, warmup: float, peak: float, least: float
) -> float:
    """He et al.'s formula, at fractional epochs."""
    epoch = step / steps_per_epoch
    if epoch < warmup:
        return peak * epoch / warmup
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


@pytest.mark.parametrize(("steps_per_epoch", "epochs", "warmup"), [(5, 40, 2), (7, 20, 4), (3, 10, 0)])
def test_cosine_is_maes_formula(steps_per_epoch: int, epochs: int, warmup: int) -> None:
    optim = Optim(batch_size=512, base_lr=1.5e-4)
    schedule = Schedule(epochs=epochs, warmup_epochs=warmup, final_lr=0.1)
    peak = 3e-4
    expected = [
        mae_rate(
            step, steps_per_epoch=steps_per_epoch, epochs=epochs, warmup=warmup, peak=peak, least=0.1 * peak
        )
        for step in range(steps_per_epoch * epochs)
    ]
    assert rates(optim, schedule, steps_per_epoch) == pytest.approx(expected, rel=1e-12)


def test_first_step_has_exactly_the_first_rate_of_the_warm_up() -> None:
    found = rates(Optim(lr=0.8), Schedule(epochs=10, warmup_epochs=2, warmup_lr=0.25), 4)
    assert found[0] == 0.2  # a quarter of the peak
    assert found[8] == 0.8  # the peak, where the warm-up ends
    steps = {round(after - before, 12) for before, after in pairwise(found[:9])}
    assert steps == {round(0.6 / 8, 12)}


def test_multistep_drops_at_its_milestones() -> None:
    schedule = Schedule(
        epochs=10, kind="multistep", warmup_epochs=1, milestones=(6, 8.5), decay=0.1, warmup_lr=0
    )
    found = rates(Optim(lr=1.0), schedule, 4)
    assert found[:4] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert found[4:] == pytest.approx([1.0] * 20 + [0.1] * 10 + [0.01] * 6)


def test_constant_rate_after_the_warm_up() -> None:
    found = rates(Optim(lr=1.0), Schedule(steps=10, epochs=None, kind="constant", warmup_epochs=160), 4)
    assert found == pytest.approx([0, 0.5] + [1.0] * 8)  # 160 of 800 epochs: a fifth


def test_steps_replace_epochs_and_keep_the_share_of_warm_up() -> None:
    schedule = Schedule(epochs=100, steps=50, warmup_epochs=10)
    assert total_steps(schedule, 7) == 50
    assert warmup_steps(schedule, 7) == 5
    assert total_steps(Schedule(epochs=3), 7) == 21


def test_warm_up_is_at_most_a_fifth_of_the_run() -> None:
    assert warmup_steps(Schedule(epochs=10, warmup_epochs=40), 10) == 20
    assert warmup_steps(Schedule(epochs=None, steps=4, warmup_epochs=800), 10) == 0
    assert rates(Optim(lr=1.0), Schedule(epochs=None, steps=1), 10) == [1.0]  # no step is wasted at rate 0


def test_warm_up_as_stated_is_any_share_that_leaves_a_step() -> None:
    assert warmup_steps(Schedule(epochs=30, warmup_epochs=20), 10, as_stated=True) == 200
    assert warmup_steps(Schedule(epochs=30, steps=90, warmup_epochs=20), 10, as_stated=True) == 60
    assert warmup_steps(Schedule(epochs=3, warmup_epochs=20), 10, as_stated=True) == 29
    assert warmup_steps(Schedule(epochs=3, warmup_steps=500), 10, as_stated=True) == 6  # a count is bounded


def test_learning_rate_scales_with_the_batch() -> None:
    assert Optim(batch_size=4096, base_lr=1.5e-4).peak_lr == pytest.approx(2.4e-3)
    assert Optim(batch_size=4096, base_lr=1.5e-4, lr=1e-3).peak_lr == 1e-3


class Parts(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.teacher = nn.Linear(3, 4).requires_grad_(False)


def names(module: nn.Module, optim: Optim) -> dict[float, set[str]]:
    """Weight decay -> names of the parameters that have it."""
    found = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, optim)
    return {
        group["weight_decay"]: {found[id(parameter)] for parameter in group["params"]} for group in groups
    }


def test_weight_decay_leaves_out_biases_norms_and_named_parts() -> None:
    module = Parts()
    free = {"layer.bias", "norm.weight", "norm.bias"}
    tokens = {"mask_token", "relative_position_bias_table"}
    assert names(module, Optim(weight_decay=0.05)) == {0.05: {"layer.weight"}, 0.0: free | tokens}
    assert names(module, Optim(weight_decay=0.05, no_decay=())) == {
        0.05: {"layer.weight"} | tokens,
        0.0: free,
    }


def test_decay_shrinks_only_what_it_should() -> None:
    module = Parts()
    optimiser = build_optimiser(module, Optim(lr=0.5, weight_decay=0.1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimiser.step()
    after = module.state_dict()
    assert torch.allclose(after["layer.weight"], before["layer.weight"] * (1 - 0.5 * 0.1))
    assert all(torch.equal(after[name], before[name]) for name in before if name != "layer.weight")
