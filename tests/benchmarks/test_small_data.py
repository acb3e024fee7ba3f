"""The arithmetic of the small-data table."""

import math

import pytest
import torch

from benchmarks.small_data import ROWS, gain
from unmask.recipes.build import build_method
from unmask.recipes.resolve import resolve_recipe

Answers = list[list[bool]]


def test_the_error_of_one_seed_is_that_of_the_paired_difference() -> None:
    mean, error = gain([[True, True, False, True]], [[False, True, False, True]])
    assert mean == 0.25
    assert error == pytest.approx(math.sqrt(0.25 / 4))  # variance of (1, 0, 0, 0) over 4 images


def test_more_seeds_add_their_own_variance_and_share_the_images() -> None:
    trained: Answers = [[True, True, False, False], [True, True, True, False]]
    random: Answers = [[False] * 4, [False] * 4]
    mean, error = gain(trained, random)
    by_image, by_seed = torch.tensor([1, 1, 0.5, 0]), torch.tensor([0.5, 0.75])
    assert mean == pytest.approx(0.625)
    assert error == pytest.approx(math.sqrt(by_image.var() / 4 + by_seed.var() / 2))


def test_an_encoder_that_answers_as_before_gains_nothing() -> None:
    same: Answers = [[True, False, True], [True, True, False]]
    assert gain(same, same) == (0, 0)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_can_be_built_and_probed(name: str) -> None:
    row = ROWS[name]
    method = build_method(resolve_recipe(row.method, images=3068, **row.options))
    assert row.layer is None or -method.encoder.depth <= row.layer < method.encoder.depth
