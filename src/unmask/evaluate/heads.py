"""Linear classifiers on frozen features, many of them trained at once.

Classifier and training are those of MAE's linear probe, which `linear` describes: batch normalisation without
affine parameters, one linear layer, LARS with warm-up and a cosine.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.errors import UserError

RATES = (0.1, 0.4, 1.6, 6.4, 25.6)  # 6.4 is the paper's
LARGEST_BATCH = 16384  # MAE, table 10
FEWEST_IMAGES = 10
FEW_IMAGES = 1000  # a fifth of them says too little to choose by
MOMENTUM, TRUST = 0.9, 0.001


class Heads(nn.Module):
    """Linear classifiers over one or several sets of features, trained at once as if each were alone.

    The heads of one set share its normalisation and differ in their learning rate.

    Args:
        width: of every set of features.
        rates: peak learning rates: for each set those of its heads, as many in every set.
        seed: of the initial weights, the same ones for every head.
    """

    rates: Float[Tensor, "s h"]

    def __init__(self, width: int, classes: int, *, rates: Sequence[Sequence[float]], seed: int) -> None:
        super().__init__()
        self.register_buffer("rates", torch.tensor(rates))
        sets, heads = self.rates.shape
        self.norm = nn.BatchNorm1d(sets * width, affine=False, eps=1e-6)
        start = 0.01 * torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))
        self.weights = nn.Parameter(repeat(start, "k d -> s h k d", s=sets, h=heads).clone())
        self.biases = nn.Parameter(torch.zeros(sets, heads, classes))

    def forward(self, features: Float[Tensor, "B sD"]) -> Float[Tensor, "s B h K"]:
        """Logits.

        Args:
            features: of every set, one behind the other.
        """
        sets, heads = self.rates.shape
        inputs = rearrange(self.norm(features), "b (s d) -> s b d", s=sets)
        weights = rearrange(self.weights, "s h k d -> s d (h k)")
        logits = torch.baddbmm(rearrange(self.biases, "s h k -> s 1 (h k)"), inputs, weights)
        return rearrange(logits, "s b (h k) -> s b h k", h=heads)

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "m sD"]) -> Int64[Tensor, "s h m"]:
        """Classes by every head."""
        self.eval()
        answers = [self(part).argmax(3) for part in features.split(8192)]
        return rearrange(torch.cat(answers, dim=1), "s m h -> s h m")


def length_of_training(
    count: int, *, epochs: int, warmup_epochs: float | None, batch: int | None
) -> dict[str, Any]:
    """Epochs, epochs of warm-up and batch for `count` training images, as `fit` takes them.

    Args:
        warmup_epochs: None is a ninth of `epochs`, the paper's 10 of 90.
        batch: None is a twelfth of the images, between 64 and 16384.

    Raises:
        UserError: too few images, or numbers that make no training.
    """
    warmup_epochs = epochs / 9 if warmup_epochs is None else warmup_epochs
    if count < FEWEST_IMAGES:
        raise UserError(
            f"A linear probe needs {FEWEST_IMAGES} training images or more, not {count}. Use knn."
        )
    if epochs < 1 or not 0 <= warmup_epochs < epochs:
        raise UserError(
            f"A linear probe needs 1 epoch or more, fewer of warm-up; not {epochs} and {warmup_epochs}."
        )
    if batch is not None and batch < 2:
        raise UserError(f"Batch normalisation needs a probe_batch_size of 2 or more, not {batch}.")
    batch = batch or min(LARGEST_BATCH, max(64, count // 12))
    return {"epochs": epochs, "warmup_epochs": warmup_epochs, "batch": batch}


def check_rates(rates: Sequence[float]) -> None:
    """Fail before the first image is read.

    Raises:
        UserError: none, or one that is not above 0.
    """
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UserError(f"A linear probe needs a learning rate above 0, not {', '.join(map(str, rates))}.")


def held_out_accuracies(
    copies: Float[Tensor, "c n sD"],
    labels: Int64[Tensor, " n"],
    *,
    width: int,
    classes: int,
    rates: Sequence[Sequence[float]],
    seed: int,
    **length: Any,
) -> list[list[float]]:
    """Accuracy of heads on training images held out: a fifth, or of few images all fifths in turn.

    Args:
        rates: as of `Heads`.
        length: as of `fit`.

    Returns:
        For each set of features the accuracies of its heads.
    """
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    folds = order.chunk(5)
    right = []
    for held_out in folds if count < FEW_IMAGES else folds[:1]:
        kept = order[~torch.isin(order, held_out)]
        heads = Heads(width, classes, rates=rates, seed=seed).to(labels.device)
        fit(heads, copies[:, kept], labels[kept], seed=seed, **length)
        right.append(heads.predict(copies[0, held_out]) == labels[held_out])
    return torch.cat(right, dim=2).double().mean(2).tolist()


def fit(
    heads: Heads,
    copies: Float[Tensor, "c n sD"],
    labels: Int64[Tensor, " n"],
    *,
    epochs: int,
    warmup_epochs: float,
    batch: int,
    seed: int,
) -> None:
    """Train heads in place; in every epoch each image is seen once, as one of its copies, but for the last
    incomplete batch."""
    momenta = torch.zeros_like(heads.weights), torch.zeros_like(heads.biases)
    generator = torch.Generator().manual_seed(seed + 1)
    count = len(labels)
    batch = min(batch, count)
    heads.train()
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator).to(labels.device)
        which = torch.randint(len(copies), (count,), generator=generator).to(labels.device)
        steps = count // batch
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]
            logits = heads(copies[which[index], index])
            targets = repeat(labels[index], "b -> (s b h)", s=logits.shape[0], h=logits.shape[2])
            # Summed over heads: each has the gradient that it would have alone.
            loss = F.cross_entropy(logits.flatten(0, 2), targets, reduction="sum") / batch
            _lars_step(heads, loss, momenta, factor=_factor(epoch + step / steps, epochs, warmup_epochs))


def _lars_step(heads: Heads, loss: Tensor, momenta: tuple[Tensor, Tensor], *, factor: float) -> None:
    """Weights by LARS, biases by SGD, as MAE does.

    An optimiser measures the length of a whole parameter; here each head has its own, in one operation.
    """
    of_weights, of_biases = torch.autograd.grad(loss, [heads.weights, heads.biases])
    with torch.no_grad():
        length = heads.weights.norm(dim=(2, 3), keepdim=True)
        slope = of_weights.norm(dim=(2, 3), keepdim=True)
        trust = torch.where((length > 0) & (slope > 0), TRUST * length / (slope + 1e-8), 1.0)
        rates = factor * heads.rates
        steps = (
            (heads.weights, of_weights * trust, rates[..., None, None]),
            (heads.biases, of_biases, rates[..., None]),
        )
        for momentum, (parameter, direction, rate) in zip(momenta, steps, strict=True):
            momentum.mul_(MOMENTUM).add_(direction)
            parameter.sub_(rate * momentum)


def _factor(epoch: float, epochs: int, warmup: float) -> float:
    """Share of the peak learning rate at a fractional epoch: linear from 0, then half a cosine to 0."""
    if epoch < warmup:
        return epoch / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
