"""Whether features tell images apart at all; needs no labels."""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(features: Float[Tensor, "n D"]) -> float:
    """How many directions the features use, between 1 and min(n - 1, D).

    The exponential of the entropy of the normalised singular values of the centred features (Roy and
    Vetterli, The Effective Rank, EUSIPCO 2007; RankMe, arXiv 2210.02885, without centring). It depends on the
    number of images: compare it over the same ones. 0 if all features are equal.
    """
    values = torch.linalg.svdvals(_centred(features))
    total = values.sum()
    if not total > 0:
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def spread(features: Float[Tensor, "n D"]) -> float:
    """How much of the features differs between images: the root mean square distance from their mean, as a
    share of their root mean square length; 0 if all are equal, at most 1."""
    length = features.double().square().mean().sqrt()
    return float(_centred(features).square().mean().sqrt() / length) if length > 0 else 0.0


def _centred(features: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    exact = features.double()
    return exact - exact.mean(0)
