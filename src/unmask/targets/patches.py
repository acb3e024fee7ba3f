"""The pixels of a patch, together, as MAE and its descendants predict them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import Encoder
from unmask.masking import Grid, Mask
from unmask.patches import from_patches, normalise_patches, restore_statistics, to_patches


@dataclass(frozen=True)
class PatchPixels:
    """Every patch as a vector of its pixels, in (row, column, channel) order.

    Attributes:
        patch_size: pixels along the side of a patch.
        grid: rows and columns of patches.
        channels: of the images.
        normalised: each patch has mean 0 and variance 1 over its own pixels (MAE, section 3).
    """

    patch_size: int
    grid: Grid
    channels: int
    normalised: bool

    @classmethod
    def of(cls, encoder: Encoder, *, normalised: bool) -> "PatchPixels":
        """For the patches of an encoder."""
        return cls(encoder.patch_size, encoder.grid, encoder.channels, normalised)

    @property
    def outputs(self) -> int:
        """Numbers predicted for a patch."""
        return self.channels * self.patch_size**2

    def encode(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N E"]:
        """What every patch should be predicted as."""
        patches = to_patches(images, self.patch_size)
        return normalise_patches(patches) if self.normalised else patches

    def picture(
        self, prediction: Float[Tensor, "B N E"], images: Float[Tensor, "B C H W"], mask: Mask
    ) -> Float[Tensor, "B C H W"]:
        """Predictions of all patches as images.

        Of `images`, whose normalisation they get, only visible patches are used: their brightness and
        contrast stand in for those of the hidden ones, which a normalised target leaves open.
        """
        if self.normalised:
            prediction = restore_statistics(prediction, images, mask)
        return from_patches(prediction, self.grid, self.patch_size)
