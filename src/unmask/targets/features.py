"""Vectors that are predicted for every place: how they are normalised, and how far off a prediction is."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unmask.patches import normalise_patches

NormName = Literal["layer", "patch_std", "l2", "none"]
DistanceName = Literal["smooth_l1", "l1", "l2", "cosine"]

NORM_EPS = 1e-6


def _layer(vectors: Tensor) -> Tensor:
    return F.layer_norm(vectors, vectors.shape[-1:], eps=NORM_EPS)


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1)


def _unchanged(vectors: Tensor) -> Tensor:
    return vectors


_NORMS: dict[NormName, Callable[[Tensor], Tensor]] = {
    "layer": _layer,
    "patch_std": normalise_patches,
    "l2": _unit,
    "none": _unchanged,
}


def normalise(vectors: Float[Tensor, "B N D"], norm: NormName) -> Float[Tensor, "B N D"]:
    """Targets as they are to be predicted, each vector on its own.

    Args:
        norm: "layer", mean 0 and variance 1 (a layer norm without weights); "patch_std", the same with the
            unbiased variance (MAE's pixels); "l2", length 1; "none".
    """
    return _NORMS[norm](vectors)


def distance(
    prediction: Float[Tensor, "B n D"],
    target: Float[Tensor, "B n D"],
    loss: DistanceName,
    *,
    beta: float = 1.0,
) -> Float[Tensor, "B n"]:
    """How wrong each prediction is, the mean over its numbers, of whose differences d

    "smooth_l1" takes d^2 / (2 beta) below beta and |d| - beta / 2 above, "l1" |d|, "l2" d^2; "cosine" is
    2 - 2 cos of the angle between the vectors, the squared distance of their directions.
    """
    if loss == "cosine":
        return 2 - 2 * F.cosine_similarity(prediction, target, dim=-1)
    if loss == "smooth_l1":
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=beta).mean(-1)
    difference = prediction - target
    return (difference.abs() if loss == "l1" else difference.square()).mean(-1)
