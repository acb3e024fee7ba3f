"""What every tokenizer is."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from unmask.data.arrays import Interpolation
from unmask.data.views import View
from unmask.encoders.base import Encoder
from unmask.learner import Learner
from unmask.masking import Grid


class Tokenizer(Learner):
    """A learner without a mask, of which methods use the codes once it is trained.

    Images are pixels in [0, 1]; it normalises them itself.

    Attributes:
        image_size: height and width in pixels of the images that it was made for.
        stride: pixels of an image along the side of what one code stands for.
        channels: of the images.
        vocabulary: K, the number of codes.
        interpolation: of the view that it is given beside a student's; None is the recipe's.
        training_only: parts that neither codes nor pictures need; a constructor option of such a name may be
            None where a tokenizer is only used.
    """

    views: Mapping[str, View] = MappingProxyType({"images": View(normalised=False)})
    image_size: tuple[int, int]
    stride: int
    channels: int
    vocabulary: int
    interpolation: Interpolation | None = None
    training_only: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """Rows and columns of codes of an image."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    def as_map(self, vectors: Float[Tensor, "B N E"]) -> Float[Tensor, "B E h w"]:
        """Vectors of all places as a map."""
        return rearrange(vectors, "b (h w) e -> b e h w", h=self.grid[0])

    @abstractmethod
    def codes(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B N"]:
        """The code of every place, in raster order, in [0, K); without gradient, and whatever the mode, as in
        evaluation."""

    @abstractmethod
    def embed(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N E"]:
        """The vectors that the codes stand for, in what the decoder takes."""

    def decode(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B C H W"] | None:
        """The images that codes stand for, pixels in [0, 1] up to rounding; None (the default) if they stand
        for features."""
        return None

    def load_for_use(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what codes and pictures need of a state_dict, all of which must be there.

        Raises:
            ValueError: something is missing, left over or of another shape.
        """
        unused = tuple(f"{part}." for part in self.training_only)
        needed = {name: tensor for name, tensor in weights.items() if not name.startswith(unused)}
        try:
            missing, unexpected = self.load_state_dict(needed, strict=False)
        except RuntimeError as error:
            raise ValueError(f"its weights do not fit: {error}") from error
        missing = [name for name in missing if not name.startswith(unused)]
        if missing or unexpected:
            raise ValueError(
                f"its weights do not fit: {', '.join(missing[:4]) or 'nothing'} is missing, "
                f"{', '.join(unexpected[:4]) or 'nothing'} has no place"
            )

    def view(self, encoder: Encoder) -> View:
        """The images that it is to be given beside those of a student."""
        return View(
            scale=self.image_size[0] / encoder.image_size[0],
            interpolation=self.interpolation,
            normalised=False,
        )


def require_places(image_size: tuple[int, int], stride: int) -> None:
    """Refuse images that cannot be cut into places of a code each."""
    height, width = image_size
    if min(image_size) < stride or height % stride or width % stride:
        near = [max(1, round(side / stride)) * stride for side in image_size]
        raise ValueError(
            f"images of {height} x {width} pixels: this tokenizer needs multiples of {stride}, for instance "
            f"{near[0]} x {near[1]}"
        )
