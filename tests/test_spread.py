"""Effective rank and spread of features whose answer is known."""

import pytest
import torch

from unmask.spread import effective_rank, spread


def test_rank_counts_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(2)
    for directions in (1, 2, 5):
        # Plus and minus along each direction: equal singular values, mean 0.
        features = torch.cat([sign * basis[:directions] for sign in (1, -1)])
        assert effective_rank(features) == pytest.approx(directions, rel=1e-5)
        assert effective_rank(features + 100) == pytest.approx(directions, rel=1e-3)  # centred
    unequal = torch.stack([signs, torch.tensor([0.1, -0.1, -0.1, 0.1])], dim=1)
    assert 1 < effective_rank(unequal) < 2


def test_rank_of_equal_features_is_zero() -> None:
    assert effective_rank(torch.full((5, 8), 3.0)) == 0


def test_spread_is_a_share_of_the_length() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 16, generator=generator)
    assert spread(noise) == pytest.approx(1, abs=0.01)
    assert spread(noise + 7) == pytest.approx(1 / 50**0.5, rel=0.02)
    assert spread(torch.full((5, 8), 3.0)) == 0
    assert spread(torch.zeros(5, 8)) == 0
