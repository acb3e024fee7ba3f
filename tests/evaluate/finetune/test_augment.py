"""Augmentation draws from the generator that it is given, and disturbs no other."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.arrays import open_picture
from unmask.errors import UserError
from unmask.evaluate.finetune.augment import Mixing, Variation, seeded
from unmask.evaluate.finetune.recipe import FinetuneData, FinetuneOptions

PLAIN = {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0}


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))


def varied(data: FinetuneData, seed: int) -> torch.Tensor:
    return Variation(data)(open_picture(picture()), np.random.default_rng(seed))


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 4


def test_a_view_follows_from_its_generator_whatever_was_drawn_before() -> None:
    data = FinetuneData(image_size=(32, 32))
    first = varied(data, 5)
    random.random()
    np.random.rand(3)  # noqa: NPY002
    torch.rand(3)
    assert torch.equal(first, varied(data, 5))
    assert first.dtype == torch.uint8 and first.shape == (3, 32, 32)
    assert not torch.equal(first, varied(data, 6))
    plain = varied(data.model_copy(update={"augment": None}), 5)
    assert not torch.equal(first, plain)  # the same crop before RandAugment


def test_global_generators_go_on_as_before() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    varied(FinetuneData(image_size=(32, 32)), 5)
    with pytest.raises(ZeroDivisionError), seeded(3):
        1 / 0  # noqa: B018
    Mixing(FinetuneOptions(), FinetuneData(erase=1.0), 4)(*batch(), torch.Generator().manual_seed(0))
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_mixed_labels_are_the_shares_of_what_is_seen() -> None:
    mixing = Mixing(FinetuneOptions(mixup=0, cutmix=1, label_smoothing=0), FinetuneData(erase=0), 8)
    images = torch.arange(8.0)[:, None, None, None].expand(8, 1, 16, 16).clone()
    mixed, shares = mixing(images, torch.arange(8), torch.Generator().manual_seed(2))
    counted = torch.stack([(mixed == value).float().mean((1, 2, 3)) for value in range(8)], dim=1)
    torch.testing.assert_close(shares, counted)
    assert 0 < shares[0, 0] < 1  # the seed draws a real mixture
    torch.testing.assert_close(shares.sum(1), torch.ones(8))


def test_smoothing_is_the_same_with_and_without_mixing() -> None:
    images, labels = batch()
    logits = torch.randn(8, 4)
    plain = Mixing(FinetuneOptions(**{**PLAIN, "label_smoothing": 0.1}), FinetuneData(erase=0), 4)
    never = Mixing(FinetuneOptions(mix_probability=1e-12, label_smoothing=0.1), FinetuneData(erase=0), 4)
    generator = torch.Generator().manual_seed(0)
    first = plain.loss(logits, plain(images.clone(), labels, generator)[1])
    second = never.loss(logits, never(images.clone(), labels, generator)[1])
    torch.testing.assert_close(first, second)


def test_erasing_hides_a_rectangle_of_every_image() -> None:
    images, labels = batch()
    mixing = Mixing(FinetuneOptions(**PLAIN), FinetuneData(erase=1.0), 4)
    torch.manual_seed(0)
    erased, same = mixing(images.clone(), labels, torch.Generator().manual_seed(0))
    changed = (erased != images).any(1)
    assert changed.any((1, 2)).all() and not changed.all((1, 2)).any() and torch.equal(same, labels)
    share = changed.float().mean().item()
    assert 0.02 <= share <= 1 / 3 + 0.05
    torch.manual_seed(0)
    again, _ = mixing(images.clone(), labels, torch.Generator().manual_seed(0))
    assert torch.equal(erased, again)


def test_deep_and_other_pictures_vary_without_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 65535, (40, 40, 5)).astype(np.uint16)
    data = FinetuneData(image_size=(32, 32), channels=5, bits=16, augment=None)
    view = Variation(data)(open_picture(pixels, 5, 16), np.random.default_rng(0))
    assert view.shape == (5, 32, 32) and view.dtype == torch.uint16
    with pytest.raises(ValueError, match="needs RGB pictures of 8 bits, and these have 5"):
        FinetuneData(channels=5, bits=16)


def test_a_wrong_policy_is_named() -> None:
    with pytest.raises(UserError, match=r"data.augment=strong is no RandAugment"):
        Variation(FinetuneData(augment="strong"))
