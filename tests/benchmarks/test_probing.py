"""The arithmetic of the tables, and classifiers on features that are known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.probing import answers, gain, percent, spread_or_binomial

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


def test_the_error_of_an_accuracy_is_its_spread_or_that_of_drawing_images() -> None:
    assert spread_or_binomial([0.5, 0.7], 10) == pytest.approx(math.sqrt(0.02))
    assert spread_or_binomial([0.5], 100) == pytest.approx(0.05)
    assert percent([[True] * 3 + [False]]) == "75.0 ± 21.7"


def test_features_that_tell_the_classes_answer_all_and_constant_ones_guess(tmp_path: Path) -> None:
    for part, count in (("train", 12), ("validation", 3), ("test", 2)):
        for name, level in (("dark", 40), ("light", 200)):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                picture = Image.fromarray(np.full((8, 8, 3), level + index, dtype=np.uint8))
                picture.save(tmp_path / part / name / f"{index}.png")

    def brightness(images: torch.Tensor) -> torch.Tensor:
        level = images.float().mean((1, 2, 3)) / 255 - 0.5
        return torch.stack([level, level.square()], dim=1)

    def constant(images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 2)

    found = answers(
        {"brightness": brightness, "constant": constant},
        tmp_path,
        kinds=["knn", "linear"],
        image_size=(8, 8),
        channels=3,
        seed=0,
    )
    for kind in ("knn", "linear"):
        assert found[kind]["brightness"] == [True] * 10  # both held-out parts: 6 and 4 images
        assert sum(found[kind]["constant"]) == 5
