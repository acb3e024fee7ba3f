"""What codes tell of images is measured as features are; reconstructions go to a classifier that is fixed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.engine.workshop import NearestColour, register
from unmask.codes import evaluation
from unmask.codes.evaluation import evaluate_codes, extractors_of
from unmask.codes.table import summary
from unmask.data.views import imagenet_statistics
from unmask.export.tokenizer import save_tokenizer
from unmask.recipes.base import Choice

RED, BLUE = (0.75, 0.25, 0.25), (0.25, 0.25, 0.75)


class Hue(nn.Module):
    """Class 0 says that an image is blue, class 1 that it is red."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))[:, [2, 0]]


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register(monkeypatch)
    built = NearestColour(image_size=(32, 32), channels=3, vocabulary=3)
    with torch.no_grad():
        built.colours.copy_(torch.tensor([RED, BLUE, (9.0, 9.0, 9.0)]))
    made_by = {"step": 1, "steps": 1}
    choice = Choice(name="nearest", vocabulary=3, stride=8)
    return save_tokenizer(built, tmp_path / "tok", choice=choice, made_by=made_by)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Red and blue pictures, with some noise."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 12)):
        for name, level in (("blue", BLUE), ("red", RED)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                noise = generator.normal(0, 0.02, (32, 32, 3))
                Image.fromarray(((np.array(level) + noise) * 255).astype(np.uint8)).save(
                    folder / f"{index}.png"
                )
    return tmp_path / "data"


def test_codes_that_tell_classes_score_fully(
    tokenizer: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Hue(), *imagenet_statistics(3, (0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr(evaluation, "_classifier", lambda name: judge)
    options: dict[str, Any] = {"device": "cpu", "workers": 0, "progress": False}
    result = evaluate_codes(tokenizer, data=data, json=tmp_path / "result.json", **options)
    for scores in result["scores"].values():
        assert scores["knn"]["top1"] == scores["linear"]["top1"] == 1
    assert result["codes"]["used"] == 2 and result["codes"]["places"] == 24 * 16
    assert result["classifier"] == {
        "name": "efficientnet_lite0",
        "same": 1,
        "original": 1,
        "reconstruction": 1,
    }
    assert json.loads((tmp_path / "result.json").read_text()) == result
    lines = [line for line in summary(result) if isinstance(line, str)]
    assert lines[0].startswith("2 of 3 codes in use at 384 places, perplexity 2")
    assert "in 100.0% of all cases; right: 100.0%" in lines[1]
    plain = evaluate_codes(tokenizer, data=data, classifier=None, **options)
    assert plain["classifier"] is None


def test_histogram_and_mean_vector_are_those_of_the_codes() -> None:
    tokenizer = NearestColour(image_size=(32, 32), channels=3, vocabulary=3)
    with torch.no_grad():
        tokenizer.colours.copy_(torch.tensor([0.0, 1.0, 9.0])[:, None].expand(3, 3))
    images = torch.zeros(1, 3, 32, 32)
    images[..., :8] = 1  # a quarter of the places
    vectors, histogram, pixels = (extractor(images) for extractor in extractors_of(tokenizer).values())
    torch.testing.assert_close(histogram, torch.tensor([[0.75, 0.25, 0.0]]))
    torch.testing.assert_close(vectors, torch.full((1, 3), 0.25))
    assert pixels.shape == (1, 3 * 32 * 32)
