"""Figures of a segmentation, against numbers computed by hand."""

import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from unmask.evaluate.segment.score import IGNORED, confusion, cross_entropy, scores

X = IGNORED


def test_a_case_computed_by_hand_with_pixels_that_are_ignored() -> None:
    truth = torch.tensor([[0, 0, 0, 1], [1, 2, X, X]])
    said = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 0]])
    found = scores(confusion(said, truth, 4))
    # 0: two right of three, and one said too many -> 2 / 4. 1: two right of two, one too many -> 2 / 3.
    # 2: none of one. 3: neither there nor said, so it has no part in the mean.
    assert found.iou[:3].tolist() == [1 / 2, pytest.approx(2 / 3), 0.0] and math.isnan(found.iou[3])
    assert found.miou == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert found.pixel_accuracy == pytest.approx(4 / 6)
    assert found.accuracy[:3].tolist() == [pytest.approx(2 / 3), 1.0, 0.0]
    assert found.mean_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.pixels.tolist() == [3, 2, 1, 0]


def test_the_figure_is_of_the_data_set_and_not_the_mean_of_its_images() -> None:
    """A small image that is all wrong and a large one that is mostly right."""
    truths = [torch.tensor([1, 1, X, X]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])]
    saids = [torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])]
    tables = [confusion(said, truth, 2) for truth, said in zip(truths, saids, strict=True)]
    means = [scores(table).miou for table in tables]
    assert scores(tables[0] + tables[1]).miou == pytest.approx((4 / 6 + 4 / 6) / 2)
    assert means == [0.0, 1.0]  # whose mean is a half


def test_it_agrees_with_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (3, 20, 30), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = X
    said = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth.clamp(max=4), 2)
    reference = MulticlassJaccardIndex(5, ignore_index=X, average="none")
    for number in range(3):
        reference.update(said[[number]], truth[[number]])
    table = sum(confusion(said[number], truth[number], 5) for number in range(3))
    assert isinstance(table, torch.Tensor)
    torch.testing.assert_close(scores(table).iou.float(), reference.compute())


def test_perfect_predictions_are_one_and_nothing_is_nothing() -> None:
    truth = torch.tensor([[0, 1, 2, X]])
    found = scores(confusion(truth.clamp(max=2), truth, 3))
    assert (found.miou, found.pixel_accuracy, found.mean_accuracy) == (1.0, 1.0, 1.0)
    empty = scores(torch.zeros(3, 3, dtype=torch.long))
    assert math.isnan(empty.miou) and math.isnan(empty.pixel_accuracy)


def test_the_loss_is_of_pixels_with_a_class() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks = torch.randint(0, 3, (2, 4, 4))
    masks[0, :2] = X
    with torch.no_grad():
        chosen = logits.log_softmax(1).permute(0, 2, 3, 1)[masks != X]
        expected = -chosen.gather(1, masks[masks != X][:, None]).mean()
    loss = cross_entropy(logits, masks)
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert logits.grad is not None and not logits.grad[0, :, :2].any() and logits.grad[1].all()
    nothing = cross_entropy(logits, torch.full_like(masks, X))
    assert nothing == 0 and torch.isfinite(nothing)
