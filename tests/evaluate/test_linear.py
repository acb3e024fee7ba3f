"""The linear probe must learn what is linear, and only that."""

import math

import pytest
import torch
from torch import Tensor

from unmask.errors import UserError
from unmask.evaluate import linear_probe
from unmask.evaluate.heads import RATES, Heads, _factor, fit


def accuracy(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, **options: object) -> float:
    probe = linear_probe(train, labels, test, classes=int(labels.max()) + 1, **options)
    return (probe.predictions == test_labels).float().mean().item()


def blobs(
    count: int, *, classes: int = 4, width: int = 16, distance: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Gaussians of unit variance around corners that are `distance` apart, far from the origin and scaled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    corners = torch.eye(classes, width) * distance / math.sqrt(2)
    features = torch.randn(count, width, generator=generator) + corners[labels]
    return 50 + features * torch.logspace(-2, 2, width), labels


def test_separable_blobs_are_separated() -> None:
    assert accuracy(*blobs(400, distance=14, seed=0), *blobs(200, distance=14, seed=1)) == 1.0


def test_reaches_the_best_possible_accuracy() -> None:
    """Two Gaussians at distance d: no classifier is right more often than Phi(d / 2)."""
    train, test = (blobs(count, classes=2, distance=2.0, seed=seed) for count, seed in ((2000, 0), (4000, 1)))
    best = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert accuracy(*train, *test) == pytest.approx(best, abs=0.02)


def test_noise_is_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(500, 32, generator=generator), torch.randn(1000, 32, generator=generator)
    labels, test_labels = torch.arange(500) % 5, torch.arange(1000) % 5
    assert accuracy(train, labels, test, test_labels) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 1000))


def test_the_chosen_rate_suits_the_data() -> None:
    """Overlapping classes in many dimensions ask for a smaller rate than a boundary that is far to go to."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 2
    wide = torch.randn(600, 200, generator=generator)
    wide[:, 0] += 2.0 * labels
    # Two nearly equal features, whose small difference says the class.
    hard = torch.randn(600, 1, generator=generator) + 0.005 * torch.randn(600, 2, generator=generator)
    hard[:, 0] += 0.02 * labels
    settings = [linear_probe(features, labels, features, classes=2).settings for features in (wide, hard)]
    assert settings[0]["lr"] < settings[1]["lr"]
    for one in settings:
        assert list(one["held_out"]) == [str(rate) for rate in RATES]
        assert one["held_out"][str(one["lr"])] == max(one["held_out"].values())


def test_same_seed_same_answer() -> None:
    train, labels = blobs(300, distance=1.5, seed=0)
    test, _ = blobs(300, distance=1.5, seed=1)
    answers = [
        linear_probe(
            train, labels, test, classes=4, epochs=12, warmup_epochs=2, lr=1.6, seed=seed
        ).predictions
        for seed in (0, 0, 1)
    ]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_heads_learn_as_if_alone() -> None:
    features, labels = blobs(128, distance=2, seed=0)
    length = {"epochs": 3, "warmup_epochs": 1, "batch": 32, "seed": 5}
    other = features.flip(1) ** 2
    rates = ((0.4, 6.4), (1.6, 0.1))
    together = Heads(16, 4, rates=rates, seed=5)
    fit(together, torch.cat([features, other], dim=1)[None], labels, **length)
    for row, inputs in enumerate((features, other)):
        for column, rate in enumerate(rates[row]):
            alone = Heads(16, 4, rates=[[rate]], seed=5)
            fit(alone, inputs[None], labels, **length)
            for part in ("weights", "biases"):
                found, expected = getattr(together, part)[row, column], getattr(alone, part)[0, 0]
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_one_step_is_the_papers() -> None:
    """LARS by hand: weights move by lr * 0.001 * |w| / |g| along g, biases (one-dimensional) by plain SGD."""
    features, labels = torch.randn(64, 16), torch.arange(64) % 4
    heads = Heads(16, 4, rates=[[6.4]], seed=0)
    weight = heads.weights[0, 0].detach().clone()
    normal = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
    error = (torch.softmax(normal @ weight.T, 1) - torch.nn.functional.one_hot(labels, 4)) / 64
    gradient = error.T @ normal
    fit(heads, features[None], labels, epochs=1, warmup_epochs=0, batch=64, seed=0)
    expected = weight - 6.4 * 0.001 * weight.norm() / gradient.norm() * gradient
    torch.testing.assert_close(heads.weights[0, 0].detach(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(heads.biases[0, 0].detach(), -6.4 * error.sum(0), rtol=1e-4, atol=1e-6)


def test_schedule() -> None:
    assert _factor(0, 90, 10) == 0
    assert _factor(5, 90, 10) == 0.5
    assert _factor(10, 90, 10) == 1
    assert _factor(50, 90, 10) == pytest.approx(0.5)
    assert _factor(90, 90, 10) == pytest.approx(0)
    assert _factor(0, 90, 0) == 1


def test_warm_up_is_a_ninth() -> None:
    features, labels = blobs(40, distance=2, seed=0)
    settings = [
        linear_probe(features, labels, features, classes=4, lr=1.0, epochs=epochs).settings
        for epochs in (90, 9)
    ]
    assert [one["warmup_epochs"] for one in settings] == [10, 1]


def test_mirrored_features_are_used() -> None:
    """Classes that only mirror images tell apart: without them mirror images to validate are a guess."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    plain = torch.randn(200, 8, generator=generator)
    mirrored = torch.randn(200, 8, generator=generator)
    mirrored[:, 0] += 8.0 * labels - 4
    with_them = accuracy(plain, labels, mirrored, labels, lr=6.4, mirrored=mirrored)
    assert accuracy(plain, labels, mirrored, labels, lr=6.4) < 0.8 < 0.95 < with_them


def test_batch_follows_the_data() -> None:
    def batch(count: int) -> int:
        features, labels = blobs(count, distance=14, seed=0)
        return linear_probe(
            features, labels, features, classes=4, epochs=1, warmup_epochs=0, lr=1.0
        ).settings["batch"]

    assert [batch(count) for count in (40, 3072, 240_000)] == [64, 256, 16384]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "1 epoch or more"),
        ({"epochs": 10, "warmup_epochs": 10}, "fewer of warm-up"),
        ({"lr": 0.0}, "learning rate above 0"),
        ({"probe_batch_size": 1}, "2 or more"),
    ],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    features, labels = blobs(40, distance=2, seed=0)
    with pytest.raises(UserError, match=message):
        linear_probe(features, labels, features, classes=4, **options)


def test_too_few_images() -> None:
    features, labels = blobs(8, distance=2, seed=0)
    with pytest.raises(UserError, match="Use knn"):
        linear_probe(features, labels, features, classes=4)
