"""MAE's linear probe, on cached features; `heads` is the classifier and its training.

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

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unmask.evaluate.heads import (
    RATES,
    Heads,
    check_rates,
    fit,
    held_out_accuracies,
    length_of_training,
)
from unmask.evaluate.probe import Probe


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
    length = length_of_training(
        len(train), epochs=epochs, warmup_epochs=warmup_epochs, batch=probe_batch_size
    )
    check_rates(RATES if lr is None else (lr,))
    copies = train[None] if mirrored is None else torch.stack([train, mirrored])
    settings: dict[str, Any] = {**length, "flip": mirrored is not None}
    shape: dict[str, int] = {"width": train.shape[1], "classes": classes, "seed": seed}
    if lr is None:
        (accuracies,) = held_out_accuracies(copies, train_labels, rates=[RATES], **shape, **length)
        lr = RATES[accuracies.index(max(accuracies))]  # of equals the smallest
        settings["held_out"] = dict(zip(map(str, RATES), accuracies, strict=True))
    heads = Heads(rates=[[lr]], **shape).to(train.device)
    fit(heads, copies, train_labels, **length, seed=seed)
    return Probe(heads.predict(validation)[0, 0], {**settings, "lr": lr})
