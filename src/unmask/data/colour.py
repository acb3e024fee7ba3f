"""Random changes of colour, and blur, of one image: the arithmetic is torchvision's, the chance the sample's.

What is drawn is kept apart from what is done with it, so that several views can share one draw.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ColourChange:
    """Jitter of colours (torchvision's ColorJitter), greyscale and blur, in this order, each by chance.

    Args:
        brightness: a factor drawn evenly from 1 - brightness, but not below 0, to 1 + brightness.
        contrast: likewise, about the mean grey of the image.
        saturation: likewise.
        hue: a rotation drawn evenly from -hue to hue, in turns; at most 0.5.
        jitter: probability of these four, which are done in random order.
        grey: probability of losing all colour.
        blur: probability of a Gaussian blur.
        sigma: its least and largest standard deviation in pixels of the view, drawn evenly.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 1.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if min(strengths) < 0 or self.hue > 0.5:
            raise ValueError(
                "brightness, contrast and saturation must be 0 or more and hue lie in [0, 0.5], not "
                f"{', '.join(map(str, strengths))}."
            )
        if not all(0 <= chance <= 1 for chance in (self.jitter, self.grey, self.blur)):
            raise ValueError(
                f"jitter, grey and blur are probabilities, not {self.jitter}, {self.grey} and {self.blur}."
            )
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be (least, largest) with 0 < least <= largest, not {self.sigma}.")

    @property
    def _jitters(self) -> bool:
        return self.jitter > 0 and max(self.brightness, self.contrast, self.saturation, self.hue) > 0

    def check(self, channels: int, bits: int) -> None:
        """
        Raises:
            ValueError: it changes colours of images that are not RGB of 8 bits. A blur is for all images.
        """
        if (channels, bits) != (3, 8) and (self._jitters or self.grey):
            raise ValueError(
                f"colours can be changed of RGB images of 8 bits only, not of {channels} channels of {bits} "
                "bits"
            )

    def draw(self, generator: np.random.Generator) -> "Change":
        """One random change; the same for every image that it is given."""
        # Imported late, here and below: torchvision takes a second, and most runs change no colours.
        from torchvision.transforms.v2 import functional as F

        steps: list[Change] = []
        if self._jitters and generator.random() < self.jitter:
            steps += self._draw_jitter(generator)
        if self.grey and generator.random() < self.grey:
            steps.append(partial(F.rgb_to_grayscale, num_output_channels=3))
        if self.blur and generator.random() < self.blur:
            steps.append(partial(_blur, sigma=float(generator.uniform(*self.sigma))))
        return partial(_apply, tuple(steps))

    def _draw_jitter(self, generator: np.random.Generator) -> list[Change]:
        from torchvision.transforms.v2 import functional as F

        factors = [
            (F.adjust_brightness, "brightness_factor", self.brightness),
            (F.adjust_contrast, "contrast_factor", self.contrast),
            (F.adjust_saturation, "saturation_factor", self.saturation),
        ]
        steps: list[Change] = [
            partial(change, **{name: float(generator.uniform(max(0.0, 1 - strength), 1 + strength))})
            for change, name, strength in factors
            if strength
        ]
        if self.hue:
            steps.append(partial(F.adjust_hue, hue_factor=float(generator.uniform(-self.hue, self.hue))))
        return [steps[index] for index in generator.permutation(len(steps))]


def _apply(steps: tuple[Change, ...], image: Shaped[Tensor, "C h w"]) -> Shaped[Tensor, "C h w"]:
    for step in steps:
        image = step(image)
    return image


def _blur(image: Shaped[Tensor, "C h w"], *, sigma: float) -> Shaped[Tensor, "C h w"]:
    from torchvision.transforms.v2 import functional as F

    # Three standard deviations hold 99.7 % of the kernel; mirrored edges must lie within the image.
    radius = [min(math.ceil(3 * sigma), side - 1) for side in (image.shape[-1], image.shape[-2])]
    size = [2 * reach + 1 for reach in radius]
    if image.dtype != torch.uint16:
        return F.gaussian_blur(image, size, [sigma, sigma])
    return F.gaussian_blur(image.float(), size, [sigma, sigma]).round().to(torch.uint16)
