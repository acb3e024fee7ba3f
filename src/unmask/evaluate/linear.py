"""MAE's linear probe, on cached features.

He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, arXiv 2111.06377, table 10 and the
official main_linprobe.py: batch normalisation without affine parameters, then one linear layer drawn from a
normal distribution of width 0.01; LARS (momentum 0.9, trust coefficient 0.001, no weight decay), 90 epochs of
which 10 warm up, cosine to 0, batch 16384 at learning rate 6.4.

Differences from the official code:
    - Features are computed once, from the centre crop (with `flip` also from its mirror image, one of the two
      drawn anew in every epoch); the paper draws a random resized crop of every image in every epoch.
    - The learning rate is chosen. A LARS step moves the weights by a share of their length, whatever the size
      of the gradient, so what counts is the sum of the learning rates over the steps. The paper has 7,000
      steps on ImageNet and a small data set a few hundred; and nothing but that sum keeps a probe of
      many dimensions from learning few images by heart. Unless a rate is given, one head for each of `RATES`,
      the paper's among them, learns four fifths of the training images; the rate that classifies the last
      fifth best (of few images: every fifth in turn) then trains the head that counts, on all of them.
      Validation images have no part in it.
    - The batch is a twelfth of the training images, between 64 and 16384.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from timm.optim import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.errors import UserError
from unmask.evaluate.probe import Probe

RATES = (0.1, 0.4, 1.6, 6.4, 25.6)
LARGEST_BATCH = 16384  # MAE, table 10
FEWEST_IMAGES = 10
FEW_IMAGES = 1000  # a fifth of them says too little to choose by


def linear_probe(
    train: Float[Tensor, "n D"],
    train_labels: Int64[Tensor, " n"],
    validation: Float[Tensor, "m D"],
    *,
    classes: int,
    mirrored: Float[Tensor, "n D"] | None = None,
    epochs: int = 90,
    warmup_epochs: float | None = None,
    lr: float | None = None,
    probe_batch_size: int | None = None,
    seed: int = 0,
) -> Probe:
    """Classes of the validation images by a linear layer on frozen features.

    Args:
        classes: number of classes, labels are in [0, classes).
        mirrored: features of the flipped training images, in the same order.
        warmup_epochs: None is a ninth of `epochs`, the paper's 10 of 90.
        lr: peak learning rate, not scaled by the batch; None chooses one of `RATES` on held-out training
            images (6.4 is the paper's).
        probe_batch_size: training images in a step; None is a twelfth of them, between 64 and 16384.
        seed: of initial weights, order and fifths; the same seed gives the same answer on one machine.
    """
    count = len(train)
    warmup_epochs = epochs / 9 if warmup_epochs is None else warmup_epochs
    if count < FEWEST_IMAGES:
        raise UserError(
            f"A linear probe needs {FEWEST_IMAGES} training images or more, not {count}. Use knn."
        )
    if epochs < 1 or not 0 <= warmup_epochs < epochs or (lr is not None and lr <= 0):
        raise UserError(
            "A linear probe needs 1 epoch or more, fewer of warm-up, and a learning rate above 0; not "
            f"{epochs}, {warmup_epochs} and {lr}."
        )
    if probe_batch_size is not None and probe_batch_size < 2:
        raise UserError(f"Batch normalisation needs a probe_batch_size of 2 or more, not {probe_batch_size}.")
    batch = probe_batch_size or min(LARGEST_BATCH, max(64, count // 12))
    copies = train[None] if mirrored is None else torch.stack([train, mirrored])
    length: dict[str, Any] = {"epochs": epochs, "warmup_epochs": warmup_epochs, "batch": batch}
    settings: dict[str, Any] = {**length, "flip": mirrored is not None}
    if lr is None:
        accuracies = _held_out_accuracies(copies, train_labels, classes, seed=seed, **length)
        lr = RATES[accuracies.index(max(accuracies))]  # of equals the smallest
        settings["held_out"] = dict(zip(map(str, RATES), accuracies, strict=True))
    heads = Heads(train.shape[1], classes, rates=(lr,), seed=seed).to(train.device)
    fit(heads, copies, train_labels, **length, seed=seed)
    return Probe(heads.predict(validation)[0], {**settings, "lr": lr})


def _held_out_accuracies(
    copies: Float[Tensor, "c n D"], labels: Int64[Tensor, " n"], classes: int, *, seed: int, **length: Any
) -> list[float]:
    """Accuracy of every one of `RATES` on training images held out: a fifth, or of few images all fifths."""
    count = len(labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    folds = order.chunk(5)
    right = []
    for held_out in folds if count < FEW_IMAGES else folds[:1]:
        kept = order[~torch.isin(order, held_out)]
        heads = Heads(copies.shape[2], classes, rates=RATES, seed=seed).to(labels.device)
        fit(heads, copies[:, kept], labels[kept], seed=seed, **length)
        right.append(heads.predict(copies[0, held_out]) == labels[held_out])
    return torch.cat(right, dim=1).double().mean(1).tolist()


class Heads(nn.Module):
    """Linear classifiers that share one normalisation and differ in their learning rate, trained at once.

    Args:
        rates: peak learning rates, one a head.
    """

    def __init__(self, width: int, classes: int, *, rates: Sequence[float], seed: int) -> None:
        super().__init__()
        self.rates = tuple(rates)
        self.classes = classes
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        generator = torch.Generator().manual_seed(seed)
        start = 0.01 * torch.randn(classes, width, generator=generator)
        # Separate parameters: LARS measures the length of each.
        self.weights = nn.ParameterList(start.clone() for _ in rates)
        self.biases = nn.ParameterList(torch.zeros(classes) for _ in rates)

    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B h K"]:
        logits = F.linear(self.norm(features), torch.cat(list(self.weights)), torch.cat(list(self.biases)))
        return rearrange(logits, "b (h k) -> b h k", h=len(self.rates))

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "m D"]) -> Int64[Tensor, "h m"]:
        """Classes by every head."""
        self.eval()
        return torch.cat([self(part).argmax(2) for part in features.split(8192)]).T


def fit(
    heads: Heads,
    copies: Float[Tensor, "c n D"],
    labels: Int64[Tensor, " n"],
    *,
    epochs: int,
    warmup_epochs: float,
    batch: int,
    seed: int,
) -> None:
    """Train heads in place; in every epoch each image is seen once, as one of its copies, but for the last
    incomplete batch."""
    groups = [{"params": [weight], "always_adapt": True} for weight in heads.weights]
    groups += [{"params": [bias], "always_adapt": False} for bias in heads.biases]  # MAE: plain SGD for them
    optimizer = Lars(groups, lr=0.0, momentum=0.9, trust_coeff=0.001, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed + 1)
    count = len(labels)
    batch = min(batch, count)
    heads.train()
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator).to(labels.device)
        which = torch.randint(len(copies), (count,), generator=generator).to(labels.device)
        steps = count // batch
        for step in range(steps):
            factor = _factor(epoch + step / steps, epochs, warmup_epochs)
            for group, rate in zip(optimizer.param_groups, heads.rates * 2, strict=True):
                group["lr"] = rate * factor
            index = order[step * batch : (step + 1) * batch]
            logits = heads(copies[which[index], index])
            targets = repeat(labels[index], "b -> b h", h=len(heads.rates))
            # Summed over heads: each has the gradient that it would have alone.
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) * len(heads.rates)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _factor(epoch: float, epochs: int, warmup: float) -> float:
    """Share of the peak learning rate at a fractional epoch: linear from 0, then half a cosine to 0."""
    if epoch < warmup:
        return epoch / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
