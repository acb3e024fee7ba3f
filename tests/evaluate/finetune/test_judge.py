"""Figures of answers, against hand-computed cases."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from unmask.data import Source, open_source
from unmask.engine.task import Process
from unmask.evaluate.finetune.judge import Judged, judge, per_class
from unmask.evaluate.finetune.pictures import confusion_picture
from unmask.evaluate.finetune.recipe import FinetuneData


def answers(labels: list[int], predictions: list[int], confidences: list[float]) -> Judged:
    sure = np.asarray(confidences, dtype=np.float32)
    return Judged(
        indices=np.arange(len(labels)),
        labels=np.asarray(labels),
        predictions=np.asarray(predictions),
        confidences=sure,
        losses=-np.log(sure),
        ranks=np.asarray([int(a != b) for a, b in zip(labels, predictions, strict=True)]),
        bad={},
    )


def test_figures_by_hand() -> None:
    judged = answers([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 2], [0.9, 0.8, 0.7, 0.6, 0.95, 0.5])
    figures = judged.figures(3)
    assert figures["top1"] == pytest.approx(4 / 6)
    assert figures["standard_error"] == pytest.approx(math.sqrt(4 / 6 * 2 / 6 / 6))
    assert figures["mean_class_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert "top5" not in figures
    assert judged.confusion(3).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert judged.mistakes() == [4, 2]  # the surest first
    rows = per_class(judged, ["a", "b", "c"], [5, 6, 7])
    assert rows[0] == {
        "class": "a",
        "trained": 5,
        "judged": 3,
        "accuracy": pytest.approx(2 / 3),
        "precision": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "taken_for": "b",
        "times": 1,
    }
    assert rows[2]["taken_for"] is None and rows[2]["accuracy"] == 1


def test_a_class_that_is_never_answered_has_no_precision() -> None:
    rows = per_class(answers([0, 1], [0, 0], [0.5, 0.5]), ["a", "b", "c"], [1, 1, 1])
    assert rows[1]["precision"] is None and rows[1]["accuracy"] == 0
    assert rows[2]["accuracy"] is None and rows[2]["f1"] is None


class Brightness(nn.Module):
    """Logits by how close an image's mean is to each of eight levels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels = torch.linspace(0, 1, 8, device=images.device)
        return -50 * (images.mean((1, 2, 3))[:, None] - levels).abs()


def levels(labels: list[int]) -> Source:
    pictures = [np.full((20, 20, 3), round(255 * label / 7), np.uint8) for label in labels]
    return open_source(
        [(picture, label) for picture, label in zip(pictures, labels, strict=True)], labelled=True
    )


def test_answers_of_a_model_that_knows(tmp_path: object) -> None:
    data = FinetuneData(image_size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    labels = [3, 1, 7, 0, 2, 4, 6, 5, 3]
    whole = judge(Brightness(), levels(labels), data, Process(device=torch.device("cpu")), batch_size=4)
    assert whole.predictions.tolist() == labels == whole.labels.tolist()
    figures = whole.figures(8)
    assert figures["top1"] == figures["top5"] == figures["mean_class_accuracy"] == 1


def test_processes_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    data = FinetuneData(image_size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    source = levels([3, 1, 7, 0, 2, 4, 6, 5, 3])
    alone = judge(Brightness(), source, data, Process(device=torch.device("cpu")), batch_size=4)
    parts = []
    for index in range(2):
        process = Process(device=torch.device("cpu"), index=index, count=2)
        monkeypatch.setattr(Process, "together", lambda self, found: list(found))
        parts.append(judge(Brightness(), source, data, process, batch_size=2))
    assert parts[0].indices.tolist() == [0, 2, 4, 6, 8] and parts[1].indices.tolist() == [1, 3, 5, 7]
    order = np.argsort(np.concatenate([part.indices for part in parts]))
    losses = np.concatenate([part.losses for part in parts])[order]
    np.testing.assert_allclose(losses, alone.losses, rtol=1e-6)


@pytest.mark.parametrize("count", [2, 30, 150])
def test_confusion_pictures_of_any_size(count: int) -> None:
    picture = confusion_picture(np.eye(count, dtype=np.int64), [f"class {number}" for number in range(count)])
    assert 300 < picture.width < 2000 and 250 < picture.height < 2000
