"""Guesses that need no learning, as pictures: what the loss of a method that predicts pixels must beat."""

import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from unmask.masking import Mask
from unmask.methods.base import Method


def grey(images: Float[Tensor, "B C H W"], hidden: Bool[Tensor, "B 1 H W"]) -> Float[Tensor, "B C H W"]:
    """The mean of the data everywhere, which normalisation has moved to 0."""
    return torch.zeros_like(images)


def mean_colour(
    images: Float[Tensor, "B C H W"], hidden: Bool[Tensor, "B 1 H W"]
) -> Float[Tensor, "B C H W"]:
    """The mean of an image's visible pixels everywhere."""
    visible = (~hidden).to(images.dtype)
    mean = (images * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return mean.expand_as(images)


def nearest_pixel(
    images: Float[Tensor, "B C H W"], hidden: Bool[Tensor, "B 1 H W"]
) -> Float[Tensor, "B C H W"]:
    """Hidden pixels filled with the nearest visible one (Euclidean distance between pixel centres)."""
    filled = []
    for image, covered in zip(images, hidden[:, 0].cpu().numpy(), strict=True):
        places = distance_transform_edt(covered, return_distances=False, return_indices=True)
        row, column = torch.from_numpy(places).long().to(image.device)
        filled.append(image[:, row, column])
    return torch.stack(filled)


# Where the target is normalised patch by patch, grey predicts 0, which a mean colour does not.
COPYING = "copying the nearest visible pixel"
TRIVIAL = {"predicting one grey": grey, "predicting the mean colour": mean_colour, COPYING: nearest_pixel}


def trivial_losses(method: Method, images: Float[Tensor, "B C H W"], mask: Mask) -> dict[str, float]:
    """Loss of every trivial guess, by its name; empty for methods whose target is not made of pixels.

    Args:
        images: the first of the method's views, normalised.
    """
    hidden = mask.pixels(method.encoder.patch_size)
    losses = {name: method.loss_of(guess(images, hidden), images, mask) for name, guess in TRIVIAL.items()}
    return {name: float(loss) for name, loss in losses.items() if loss is not None}
