"""What the codes of a tokenizer keep of pictures."""

from math import ceil

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unmask.drawing import MIN_SIDE, arrange, as_pictures, denormalise, enlarge
from unmask.tokenizers import Tokenizer

TITLES = ("original", "from its codes")


def round_trip_strip(tokenizer: Tokenizer, images: Float[Tensor, "B C H W"]) -> Image.Image | None:
    """Every image beside what its codes decode to, on a transparent ground; None for tokenizers whose codes
    stand for features.

    Args:
        images: pixels in [0, 1], on the tokenizer's device.
    """
    with torch.no_grad():
        decoded = tokenizer.decode(tokenizer.codes(images))
    if decoded is None:
        return None
    unit = (0.0,) * tokenizer.channels, (1.0,) * tokenizer.channels
    scale = max(1, ceil(MIN_SIDE / min(tokenizer.image_size)))
    columns = (as_pictures(denormalise(pixels, *unit)) for pixels in (images, decoded))
    rows = [tuple(enlarge(picture, scale) for picture in row) for row in zip(*columns, strict=True)]
    return arrange(rows, titles=TITLES)
