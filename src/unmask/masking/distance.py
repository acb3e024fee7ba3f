"""How hard a mask is: SimMIM's AvgDist."""

import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from unmask.masking.mask import Mask


def average_distance(mask: Mask, patch_size: int) -> Float[Tensor, "B"]:
    """How far a hidden pixel is from the nearest visible one, averaged over the hidden pixels of each image.

    SimMIM's AvgDist (Xie et al. 2022, section 3.2 and figure 3): its best masks have 10 to 20 pixels. A lone
    square of p x p pixels, p even, has (p + 1) (p + 2) / (6 p). Distances are Euclidean, between the centres
    of pixels, so that 1 is the smallest; what lies outside the image is not visible. A map of hidden pixels
    is a mask with patches of one pixel.

    Args:
        patch_size: pixels along the side of a patch.

    Returns:
        Pixels, in float64 and on the CPU.

    Raises:
        ValueError: an image with nothing hidden, or nothing visible.
    """
    if mask.hidden.all(1).any() or not mask.hidden.any(1).all():
        raise ValueError(
            "the average distance needs a hidden and a visible patch in every image; take a mask ratio "
            "further from 0 and 1"
        )
    pictures = mask.pixels(patch_size)[:, 0].cpu().numpy()
    means = [float(distance_transform_edt(hidden)[hidden].mean()) for hidden in pictures]
    return torch.tensor(means, dtype=torch.float64)
