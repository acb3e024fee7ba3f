"""How alike two images look to a network."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.targets.teacher import Teacher


class Perceptual(nn.Module):
    """Distance of images by what a frozen network computes of them on the way (Johnson et al. 2016; PeCo,
    section 3).

    At every depth the features of a place are normalised to mean 0 and variance 1 first, and the squared
    differences averaged over places and features, so that depths weigh alike and the resolution does not
    matter (our choice; the paper's normalisation is not known).

    Args:
        teacher: the network.
        depths: how many, evenly spread, the last included. Of 12 blocks 4 are blocks 3, 6, 9 and 12, as PeCo
            has them (recalled, unverified).
    """

    def __init__(self, teacher: Teacher, *, depths: int = 4) -> None:
        super().__init__()
        if depths < 1:
            raise ValueError(f"a perceptual distance needs one depth or more, not {depths}")
        self.teacher = teacher
        self.depths = depths

    def forward(
        self, pictures: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        """The sum over depths; its gradient reaches `pictures` only.

        Args:
            pictures: pixels, in [0, 1] where they are right; not cut off, so that a gradient is left.
            images: pixels in [0, 1].
        """
        with torch.no_grad():
            wanted = self.features(images)
        pairs = zip(self.features(pictures), wanted, strict=True)
        return torch.stack([F.mse_loss(found, target) for found, target in pairs]).sum()

    def features(self, images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _ _"]]:
        """Normalised features at every depth, float32."""
        if images.shape[2:] != self.teacher.image_size:
            size = self.teacher.image_size
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        states = self.teacher.states(images, depths=self.depths)
        return [F.layer_norm(state.float(), state.shape[-1:]) for state in states]
