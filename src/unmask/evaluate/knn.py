"""Weighted k-nearest-neighbour classification of frozen features.

Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018, arXiv
1805.01978, section 3.4, with the settings of DINO (Caron et al., ICCV 2021, arXiv 2104.14294): cosine
similarity, 20 neighbours, each voting for its class with weight exp(similarity / 0.07).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from unmask.errors import UserError
from unmask.evaluate.probe import Probe


@torch.inference_mode()
def knn(
    train: Float[Tensor, "n D"],
    train_labels: Int64[Tensor, " n"],
    validation: Float[Tensor, "m D"],
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Probe:
    """Classes of the validation images by their nearest training images.

    Of classes with equal votes the first wins, so the same features give the same answer.

    Args:
        classes: number of classes, labels are in [0, classes).
        k: neighbours that vote; all if there are fewer training images.
        temperature: the smaller, the more the nearest ones count.
        chunk: validation images at a time; bounds the memory at chunk * n similarities.
    """
    if k < 1 or not temperature > 0:
        raise UserError(f"k-NN needs k of 1 or more and a temperature above 0, not {k} and {temperature}.")
    k = min(k, len(train))
    train = F.normalize(train, dim=1)
    predictions = []
    for part in validation.split(chunk):
        similarity, index = (F.normalize(part, dim=1) @ train.T).topk(k, dim=1)
        # Relative to the nearest one: a small temperature must not let all weights overflow or vanish.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weight.new_zeros(len(part), classes).scatter_add_(1, train_labels[index], weight)
        predictions.append(votes.argmax(dim=1))
    return Probe(torch.cat(predictions), {"k": k, "temperature": temperature})
