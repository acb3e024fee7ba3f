"""k-NN must be what its formula says."""

import math

import pytest
import torch

from unmask.errors import UserError
from unmask.evaluate import knn


def by_hand(
    train: list[list[float]], labels: list[int], query: list[float], k: int, temperature: float
) -> int:
    """The formula in plain Python, in double precision."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    nearest = sorted(range(len(train)), key=lambda index: -cosine(train[index], query))[:k]
    votes: dict[int, float] = {}
    for index in nearest:
        votes[labels[index]] = votes.get(labels[index], 0.0) + math.exp(
            cosine(train[index], query) / temperature
        )
    return max(sorted(votes), key=lambda label: votes[label])


@pytest.mark.parametrize("k", [1, 5, 20, 60])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_formula(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(k)
    train = torch.randn(60, 4, generator=generator)
    labels = torch.randint(5, (60,), generator=generator)
    queries = torch.randn(50, 4, generator=generator)
    found = knn(train, labels, queries, classes=5, k=k, temperature=temperature, chunk=7).predictions
    expected = [by_hand(train.tolist(), labels.tolist(), query, k, temperature) for query in queries.tolist()]
    assert found.tolist() == expected


def test_weights_can_outvote_the_majority() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.2]])
    assert knn(train, labels, query, classes=2, k=3).predictions.tolist() == [0]
    assert knn(train, labels, query, classes=2, k=3, temperature=100.0).predictions.tolist() == [1]


def test_length_of_features_does_not_matter() -> None:
    train, queries = torch.randn(40, 8), torch.randn(30, 8)
    labels = torch.arange(40) % 4
    scaled = knn(train * torch.rand(40, 1).add(0.1), labels, queries * 1000, classes=4).predictions
    assert torch.equal(scaled, knn(train, labels, queries, classes=4).predictions)


def test_k_is_clipped_to_the_training_images() -> None:
    probe = knn(torch.eye(3), torch.tensor([0, 1, 1]), torch.eye(3), classes=2, k=20)
    assert probe.settings["k"] == 3
    assert probe.predictions.tolist() == [0, 1, 1]


def test_equal_votes_go_to_the_first_class() -> None:
    train = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    query = torch.tensor([[1.0, 0.0]])
    for labels in ([1, 2], [2, 1]):
        assert knn(train, torch.tensor(labels), query, classes=3).predictions.tolist() == [1]


def test_a_tiny_temperature_is_the_nearest_neighbour() -> None:
    train, queries = torch.randn(30, 5), torch.randn(40, 5)
    labels = torch.randint(3, (30,))
    sharp = knn(train, labels, queries, classes=3, temperature=1e-6).predictions
    assert torch.equal(sharp, knn(train, labels, queries, classes=3, k=1).predictions)


def test_wrong_options() -> None:
    with pytest.raises(UserError, match="k of 1 or more"):
        knn(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), classes=2, k=0)
    with pytest.raises(UserError, match="temperature above 0"):
        knn(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), classes=2, temperature=0.0)
