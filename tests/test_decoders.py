"""The decoder: what it may leave out."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unmask.decoders import ViTDecoder
from unmask.encoders.base import Features
from unmask.masking import Mask, RandomMask

GRID = (6, 8)


def decoder(*, cls: bool, depth: int) -> ViTDecoder:
    torch.manual_seed(0)
    return ViTDecoder(40, GRID, cls=cls, dim=32, depth=depth, heads=4)


def inputs(*, cls: bool) -> tuple[Features, Mask]:
    mask = RandomMask(ratio=0.75)(3, GRID)
    return Features(patches=torch.randn(3, 12, 40), cls=torch.randn(3, 40) if cls else None), mask


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_hidden_patches_alone_are_those_of_all(cls: bool, depth: int) -> None:
    model, (seen, mask) = decoder(cls=cls, depth=depth), inputs(cls=cls)
    results = []
    for states in (mask.masked(model(seen, mask)), model(seen, mask, hidden_only=True)):
        model.zero_grad()
        states.square().sum().backward()
        results.append((states, [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(*results)


def test_hidden_patches_alone_cost_less() -> None:
    model, (seen, mask) = decoder(cls=True, depth=2), inputs(cls=True)
    spent = []
    for hidden_only in (False, True):
        with FlopCounterMode(display=False) as counter:
            model(seen, mask, hidden_only=hidden_only)
        spent.append(counter.get_total_flops())
    # In the last block 13 of 49 tokens need no output projection and no MLP, 9 dim^2 together.
    assert spent[0] - spent[1] >= 2 * 3 * 13 * 9 * 32**2
