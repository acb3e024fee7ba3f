"""Codebooks: lookup, gradients, moving averages, k-means, revival, use."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.tokenizers import kmeans as kmeans_module
from unmask.tokenizers.kmeans import kmeans, nearest
from unmask.tokenizers.quantizer import CosineQuantizer, EuclideanQuantizer, Quantizer
from unmask.tokenizers.use import RECENT, CodeUse, histogram, perplexity

KINDS = {"euclidean": EuclideanQuantizer, "cosine": CosineQuantizer}
every_kind = pytest.mark.parametrize("kind", KINDS)


def quantizer(kind: str, vocabulary: int = 8, dim: int = 4, **options: object) -> Quantizer:
    torch.manual_seed(0)
    return KINDS[kind](vocabulary, dim, **{"kmeans_start": False, "revive_after": None, **options})


def vectors(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@every_kind
def test_chooses_the_nearest_whatever_the_autocast(kind: str) -> None:
    quantize, given = quantizer(kind, 64), vectors(3, 50, 4)
    placed = quantize.place(given)
    wanted = torch.cdist(placed, quantize.codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantize(given)
    assert torch.equal(found.codes, wanted) and torch.equal(quantize.codes(given), wanted)
    assert torch.equal(found.vectors, quantize.embed(found.codes))  # bit for bit, in spite of the gradient
    torch.testing.assert_close(found.commitment, (placed - found.vectors).square().mean())


def test_a_lookup_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given, centres = vectors(101, 4), vectors(7, 4, seed=2)
    whole = nearest(given, centres)
    monkeypatch.setattr(kmeans_module, "MOST_SCORES", 7 * 10)
    assert torch.equal(nearest(given, centres), whole)


def test_straight_through_gradient_is_the_identity() -> None:
    quantize = quantizer("euclidean")
    given = vectors(20, 4).requires_grad_()
    upstream = vectors(20, 4, seed=3)
    quantize(given).vectors.backward(upstream)
    assert given.grad is not None and torch.equal(given.grad, upstream)
    assert not list(quantize.parameters())  # the codebook has no gradient at all


def test_cosine_gradient_passes_through_the_normalisation() -> None:
    quantize = quantizer("cosine")
    given, upstream = vectors(20, 4).requires_grad_(), vectors(20, 4, seed=3)
    quantize(given).vectors.backward(upstream)
    other = given.detach().clone().requires_grad_()
    F.normalize(other, dim=-1).backward(upstream)
    assert given.grad is not None and other.grad is not None
    torch.testing.assert_close(given.grad, other.grad)


def test_commitment_of_unit_vectors_is_their_cosine() -> None:
    quantize, given = quantizer("cosine", 5, 16), vectors(30, 16)
    found = quantize(given)
    cosine = (F.normalize(given, dim=-1) * found.vectors).sum(-1)
    torch.testing.assert_close(found.commitment, (2 * (1 - cosine) / 16).mean())


@every_kind
def test_only_chosen_codes_move(kind: str) -> None:
    quantize = quantizer(kind, 32)
    before = quantize.codebook.clone()
    chosen = histogram(quantize(vectors(9, 4)).codes, 32) > 0
    assert torch.equal(quantize.codebook, before)  # not before the step is done
    quantize.settle(1)
    moved = (quantize.codebook != before).any(1)
    assert torch.equal(moved, chosen) and 0 < moved.sum() < 32


def test_euclidean_average_in_closed_form() -> None:
    """After t steps: the sums and counts of the steps, weighed by decay, divided by each other."""
    quantize = quantizer("euclidean", 2, 1, decay=0.9)
    quantize.codebook.copy_(torch.tensor([[-1.0], [1.0]]))
    batches = [torch.tensor([[-2.0], [-1.0], [3.0]]), torch.tensor([[-1.5], [2.0], [1.0], [6.0]])]
    for step, batch in enumerate(batches, start=1):
        quantize(batch)
        quantize.settle(step)
    count = torch.tensor([0.09 * 2 + 0.1 * 1, 0.09 * 1 + 0.1 * 3])
    total = torch.tensor([0.09 * -3 + 0.1 * -1.5, 0.09 * 3 + 0.1 * 9])
    torch.testing.assert_close(quantize.use.count, count)
    smoothed = (count + 1e-5) / (count.sum() + 2e-5) * count.sum()
    torch.testing.assert_close(quantize.codebook[:, 0], total / smoothed)


def test_cosine_average_in_closed_form_and_of_any_number() -> None:
    quantize = quantizer("cosine", 16, 4, decay=0.9)
    given, before = vectors(60, 4), quantize.codebook.clone()
    codes = quantize(given).codes
    quantize.settle(1)
    for code in codes.unique():
        mean = F.normalize(F.normalize(given[codes == code], dim=-1).mean(0), dim=0)
        torch.testing.assert_close(
            quantize.codebook[code], F.normalize(0.9 * before[code] + 0.1 * mean, dim=0)
        )
    torch.testing.assert_close(quantize.codebook.norm(dim=1), torch.ones(16))
    # Every step weighs the same: the same vectors ten times over move the codes as far.
    many = quantizer("cosine", 16, 4, decay=0.9)
    many(given.repeat(10, 1))
    many.settle(1)
    torch.testing.assert_close(many.codebook, quantize.codebook)


@every_kind
def test_parts_of_a_batch_count_together(kind: str) -> None:
    whole, parts = quantizer(kind), quantizer(kind)
    given = vectors(40, 4)
    whole(given)
    for part in given.chunk(4):
        parts(part)
    whole.settle(1)
    parts.settle(1)
    torch.testing.assert_close(whole.state_dict(), parts.state_dict())


@every_kind
def test_evaluation_and_vectors_that_are_no_numbers_leave_no_trace(kind: str) -> None:
    plain, disturbed = (quantizer(kind, revive_after=5) for _ in range(2))
    given = vectors(40, 4)
    disturbed.eval()(vectors(7, 4, seed=5))
    disturbed.train()(vectors(3, 4, seed=6) * math.nan)
    for one in (plain, disturbed):
        one(given)
        one.settle(1)
    assert all(map(torch.equal, plain.state_dict().values(), disturbed.state_dict().values()))


@every_kind
def test_starts_at_kmeans_of_the_first_step(kind: str) -> None:
    """Clumps get codes of their own, wherever the codebook was."""
    quantize = quantizer(kind, 16, 2, kmeans_start=True)
    angles = torch.arange(400) % 4 * (math.pi / 2) + 0.01 * vectors(400)
    clumps = torch.stack([angles.cos(), angles.sin()], 1)
    assert quantize(clumps).commitment > 1e-2 and not quantize.started
    quantize.settle(1)
    found = quantize(clumps)
    assert quantize.started and found.commitment < 1e-4
    assert all(
        len(set(found.codes[i::4].tolist()) & set(found.codes[i + 1 :: 4].tolist())) == 0 for i in range(3)
    )


def test_kmeans_finds_centres_and_keeps_empty_ones() -> None:
    samples = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
    centres, members = kmeans(samples, torch.tensor([[1.0], [4.0], [100.0]]), spherical=False)
    torch.testing.assert_close(centres, torch.tensor([[0.1], [5.1], [100.0]]))
    assert members.tolist() == [2, 2, 0]


@every_kind
def test_idle_codes_move_to_vectors_of_the_batch(kind: str) -> None:
    quantize = quantizer(kind, 64, revive_after=3)
    before, given = quantize.codebook.clone(), vectors(30, 4)
    quantize.use.idle.zero_()
    hit = torch.zeros(64, dtype=torch.bool)
    for step in (1, 2):
        hit |= histogram(quantize(given).codes, 64) > 0
        quantize.settle(step)
        assert torch.equal(quantize.codebook[~hit], before[~hit])
    hit |= histogram(quantize(given).codes, 64) > 0
    quantize.settle(3)
    revived = quantize.codebook[~hit]
    assert len(revived) > 10
    assert (
        torch.cdist(revived, quantize.place(given), compute_mode="donot_use_mm_for_euclid_dist")
        .min(1)
        .values.max()
        < 1e-6
    )
    assert (quantize.use.idle[~hit] == 0).all()


@every_kind
def test_revival_brings_dead_codes_to_life(kind: str) -> None:
    used = {}
    for revive_after in (None, 5):
        quantize = quantizer(kind, 64, revive_after=revive_after)
        for step in range(1, 40):
            found = quantize(5 + vectors(500, 4, seed=step))  # far from the first codebook
            quantize.settle(step)
        used[revive_after] = float((histogram(found.codes, 64) > 0).float().mean())
    assert used[None] < 0.5 and used[5] > 0.9


def test_perplexity_and_use() -> None:
    torch.testing.assert_close(perplexity(torch.full((7,), 3.0)), torch.tensor(7.0))
    torch.testing.assert_close(perplexity(torch.tensor([5.0, 0, 0])), torch.tensor(1.0))
    use = CodeUse(4)
    first = use.figures(torch.tensor([0, 1]))
    torch.testing.assert_close(first["perplexity"], torch.tensor(2.0))
    assert first["used"] == 0.5
    use.observe(torch.tensor([0, 1]))
    use.settle()
    for _ in range(RECENT - 1):
        use.observe(torch.tensor([2]))
        use.settle()
    assert use.figures(torch.tensor([2]))["used"] == 0.75  # the first two are not forgotten yet
    use.observe(torch.tensor([2]))
    use.settle()
    assert use.figures(torch.tensor([2]))["used"] == 0.25


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"revive_after": 0}, {"vocabulary": 1}])
def test_refuses_what_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"decay|revive_after|two codes"):
        CosineQuantizer(**{"vocabulary": 8, "dim": 2, **options})
