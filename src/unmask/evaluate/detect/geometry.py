"""Where a picture goes on the fixed canvas of an encoder, and its boxes and masks with it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from PIL import Image

from unmask.evaluate.detect.masks import tight_box

Jitter = Literal["none", "multi_scale", "large_scale"]
Boxes = Float[NDArray, "n 4"]

# Range of a picture's size, drawn evenly, as a share of the largest that fits the canvas.
JITTER: dict[Jitter, tuple[float, float]] = {
    "none": (1.0, 1.0),
    "multi_scale": (0.6, 1.0),
    "large_scale": (0.1, 2.0),  # ViTDet; what is larger than the canvas is cropped
}
MIN_SIDE = 1.0  # pixels on the canvas; of boxes that a crop left less of, nothing can be seen


@dataclass(frozen=True)
class Placement:
    """A picture scaled, cropped, perhaps mirrored, and put into the top left corner of the canvas.

    Attributes:
        size: height and width of the picture.
        scaled: what it is resized to.
        offset: top and left of the crop in the resized picture.
        crop: height and width of what lies on the canvas.
        flipped: the crop is mirrored left to right.
    """

    size: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]
    crop: tuple[int, int]
    flipped: bool = False

    def pixels(self, image: Image.Image) -> UInt8[NDArray, "h w _"]:
        """The picture as it lies on the canvas."""
        return np.atleast_3d(np.asarray(self._resample(image)))

    def mask(self, mask: Bool[NDArray, "H W"]) -> Bool[NDArray, "h w"]:
        """A mask as it lies on the canvas: pixels that it covers by half or more."""
        image = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(self._resample(image)) >= 128

    def boxes(self, boxes: Boxes) -> Boxes:
        """Boxes (left, top, right, bottom) of the picture as they lie on the canvas, cut at the crop's edges.

        What lies outside the crop has no area then.
        """
        down, right = self._factors()
        moved = boxes * np.asarray([right, down] * 2) - np.asarray(self.offset[::-1] * 2)
        height, width = self.crop
        moved = moved.clip(0, np.asarray([width, height] * 2))
        if self.flipped:
            moved[:, [0, 2]] = width - moved[:, [2, 0]]
        return moved

    def back(self, boxes: Boxes) -> Boxes:
        """Boxes on the canvas as they lie in the picture: the reverse of `boxes`."""
        down, right = self._factors()
        moved = boxes.copy()
        if self.flipped:
            moved[:, [0, 2]] = self.crop[1] - moved[:, [2, 0]]
        moved = (moved + np.asarray(self.offset[::-1] * 2)) / np.asarray([right, down] * 2)
        return moved.clip(0, np.asarray([self.size[1], self.size[0]] * 2))

    def _factors(self) -> tuple[float, float]:
        """By how much it is larger, down and across: not the same, since sides are whole pixels."""
        return self.scaled[0] / self.size[0], self.scaled[1] / self.size[1]

    def _resample(self, image: Image.Image) -> Image.Image:
        down, right = self._factors()
        top, left = self.offset
        height, width = self.crop
        box = (
            left / right,
            top / down,
            min((left + width) / right, self.size[1]),
            min((top + height) / down, self.size[0]),
        )
        # Pillow takes the mean over all pixels that a smaller one covers.
        crop = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flipped else crop


def fitted(size: tuple[int, int], canvas: tuple[int, int], *, short_side: float | None = None) -> Placement:
    """Whole, as large as fits: how pictures are looked at when nothing is drawn.

    Args:
        short_side: of the picture on the canvas, in pixels, if that fits.
    """
    scaled = _scaled(size, _factor(size, canvas, short_side))
    return Placement(size, scaled, (0, 0), scaled)


def drawn(
    size: tuple[int, int],
    canvas: tuple[int, int],
    generator: np.random.Generator,
    *,
    scale: tuple[float, float],
    flip: bool,
    short_side: tuple[float, float] | None = None,
) -> Placement:
    """A random size and crop, and mirrored every second time.

    Args:
        scale: range of the size, see `JITTER`.
        short_side: range of the picture's shorter side in pixels instead; what would not fit is made to.
    """
    if short_side is None:
        factor = float(generator.uniform(*scale)) * _factor(size, canvas)
    else:
        factor = _factor(size, canvas, float(generator.uniform(*short_side)))
    scaled = _scaled(size, factor)
    crop = min(scaled[0], canvas[0]), min(scaled[1], canvas[1])
    offset = (
        int(generator.integers(scaled[0] - crop[0] + 1)),
        int(generator.integers(scaled[1] - crop[1] + 1)),
    )
    return Placement(size, scaled, offset, crop, flip and bool(generator.random() < 0.5))


def visible(
    boxes: Boxes, masks: Bool[NDArray, "n h w"] | None, crop: tuple[int, int]
) -> tuple[Boxes, Bool[NDArray, " n"]]:
    """Boxes on the canvas made tight where a crop took a part of the object, and which of them can be seen.

    The box of an object that is cut off is larger than what is left of it, unless the object fills it; the
    mask, where there is one, tells.
    """
    boxes = boxes.copy()
    if masks is not None:
        edge = np.asarray(crop[::-1])
        for index, mask in enumerate(masks):
            tight = tight_box(mask)
            if tight is None:
                boxes[index] = 0
            elif (boxes[index, :2] <= 0).any() or (boxes[index, 2:] >= edge).any():
                boxes[index, :2] = np.maximum(boxes[index, :2], tight[:2])
                boxes[index, 2:] = np.minimum(boxes[index, 2:], tight[2:])
    return boxes, (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(1)


def _factor(size: tuple[int, int], canvas: tuple[int, int], short_side: float | None = None) -> float:
    fits = min(canvas[0] / size[0], canvas[1] / size[1])
    return fits if short_side is None else min(short_side / min(size), fits)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
