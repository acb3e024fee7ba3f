"""The nearest of many vectors, and k-means."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.tokenizers.use import histogram

MOST_SCORES = 2**24  # scores that exist at a time: 64 MB


@torch.no_grad()
def nearest(vectors: Float[Tensor, "n D"], centres: Float[Tensor, "K D"]) -> Int[Tensor, "n"]:
    """The centre of least Euclidean distance to every vector, in float32 whatever the surroundings.

    Half precision would confuse near neighbours.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        # |v - e|^2 = |v|^2 - 2 (v e - |e|^2 / 2), of which |v|^2 is the same for all centres.
        centres = centres.float()
        offset = -0.5 * centres.square().sum(1)
        parts = vectors.float().split(max(1, MOST_SCORES // len(centres)))
        return torch.cat([torch.addmm(offset, part, centres.T).argmax(1) for part in parts])


@torch.no_grad()
def kmeans(
    samples: Float[Tensor, "n D"],
    centres: Float[Tensor, "K D"],
    *,
    spherical: bool,
    iterations: int = 10,
) -> tuple[Float[Tensor, "K D"], Float[Tensor, "K"]]:
    """Lloyd's algorithm.

    Args:
        samples: of length 1 if `spherical`.
        centres: to begin with.
        spherical: centres are kept at length 1.
        iterations: official VQ-KD code: 10.

    Returns:
        The centres, of which one without samples stays where it was; and the samples of each in the last
        iteration.
    """
    chosen = centres.new_zeros(len(centres))
    for _ in range(iterations):
        codes = nearest(samples, centres)
        chosen = histogram(codes, len(centres))
        means = torch.zeros_like(centres).index_add_(0, codes, samples) / chosen.clamp(min=1)[:, None]
        if spherical:
            means = F.normalize(means, dim=1)
        centres = torch.where(chosen[:, None] > 0, means, centres)
    return centres, chosen
