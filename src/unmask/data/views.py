"""One picture, one random crop, several views of it; and the steady view for evaluation.

All views of a sample share one decode, one crop rectangle and one flip, because the papers' students,
tokenizers and teachers look at the same place.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from unmask.data.arrays import (
    FILTERS,
    Bits,
    Interpolation,
    Picture,
    picture_size,
    resize,
    resize_box,
)
from unmask.data.colour import ColourChange
from unmask.data.decode import load_crop, load_pixels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What a pixel's largest number is, and so what is divided by to have pixels in [0, 1].
_UNITS = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}


@dataclass(frozen=True)
class View:
    """How a sample is prepared for one named input of a method.

    Args:
        scale: side relative to the recipe's image size (BEiT's tokenizer view: 0.5).
        interpolation: None is the recipe's.
        shift: the window lies up to this many pixels (of the recipe's image size) right of and below the
            window of the unshifted views, drawn evenly and apart for the two directions (CMAE's target view:
            31).
        colour: a change of colours and blur of this view alone (CMAE's target view).
        normalised: by the data set's mean and standard deviation, as the encoder sees it; False leaves pixels
            in [0, 1], for teachers and tokenizers that normalise in their own way.
    """

    scale: float = 1.0
    interpolation: Interpolation | None = None
    shift: int = 0
    colour: ColourChange | None = None
    normalised: bool = True

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"A view's scale must be positive, not {self.scale}.")
        if self.shift < 0:
            raise ValueError(f"A view's shift must be 0 or more pixels, not {self.shift}.")
        if self.interpolation is not None:
            _check_interpolation(self.interpolation)


@dataclass(frozen=True)
class Augment:
    """The random crop, flip and change of colours that all views of a sample share.

    Args:
        image_size: (height, width) of a view of scale 1, in pixels.
        crop_scale: area of the crop as a fraction of the picture, drawn evenly between the two.
        crop_ratio: width / height of the crop relative to that of ``image_size``, drawn log-evenly. For
            square images this is torchvision's RandomResizedCrop; for others objects keep their proportions
            on average.
        flip: mirror every second sample, left to right.
        channels: 1 (grey), 3 (RGB), 4 (RGBA), or as many as the pictures have.
        bits: of a channel: 8, 16, or 32 (floating point).
        colour: a change of colours that all views share (BEiT). Contrast is about the mean of the crop, as
            the rest of the picture is not decoded.
    """

    image_size: tuple[int, int]
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    interpolation: Interpolation = "bicubic"
    channels: int = 3
    bits: Bits = 8
    colour: ColourChange | None = None

    def __post_init__(self) -> None:
        if min(self.image_size) < 1:
            raise ValueError(f"image_size must be (height, width) in pixels, not {self.image_size}.")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(
                f"crop_scale must be (least, most) with 0 < least <= most <= 1, not {self.crop_scale}."
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(
                f"crop_ratio must be (least, most) with 0 < least <= most, not {self.crop_ratio}."
            )
        if self.channels < 1:
            raise ValueError(f"channels must be 1 or more, not {self.channels}.")
        _check_interpolation(self.interpolation)
        if self.colour is not None:
            self.colour.check(self.channels, self.bits)


def make_views(
    image: Picture, views: Mapping[str, View], augment: Augment, generator: np.random.Generator
) -> dict[str, Shaped[Tensor, "C h w"]]:
    """Every view of one random crop of the picture; all randomness comes from the generator.

    A JPEG from ``open_picture`` is decoded only at the resolution that this crop needs, and stays so. Views
    of the same size and interpolation are resized once, and may share memory.

    Raises:
        DecodeError: the pixels are broken or truncated.
    """
    height, width = augment.image_size
    left, top, crop_width, crop_height = random_crop(picture_size(image), augment, generator)
    flip = augment.flip and generator.random() < 0.5
    # The crop is spread over a canvas that is larger than the image by the largest shift, and each view is a
    # window of that canvas: at its upper left corner, or shifted.
    margin = max(view.shift for view in views.values())
    detail = max(view.scale for view in views.values())
    shrink = min(crop_width / (width + margin), crop_height / (height + margin)) / detail
    # Whole pixels, also of a JPEG that is decoded smaller: it moves the crop of all views alike, by less
    # than one pixel of the result.
    box = (left, top, left + crop_width, top + crop_height)
    if isinstance(image, np.ndarray):
        crop, resized = image[box[1] : box[3], box[0] : box[2]], resize
    else:
        crop = load_crop(image, box, augment.channels, shrink=shrink)
        resized = _resize_rgba if augment.channels == 4 else resize
    recolour = None if augment.colour is None else augment.colour.draw(generator)
    canvases: dict[tuple[int, int, Interpolation], Tensor] = {}
    result = {}
    for name, view in views.items():
        rows, columns = scaled(height, view.scale), scaled(width, view.scale)
        spare = round(margin * view.scale)
        key = rows + spare, columns + spare, view.interpolation or augment.interpolation
        if key not in canvases:
            canvas = resized(crop, key[:2], key[2])
            canvas = canvas.flip(-1) if flip else canvas
            canvases[key] = canvas if recolour is None else recolour(canvas)
        # Python's numbers: rounding one of NumPy's takes longer than mirroring the view.
        shifts = generator.integers(0, view.shift, size=2, endpoint=True).tolist()
        row, column = (round(shift * view.scale) for shift in shifts)
        window = canvases[key][:, row : row + rows, column : column + columns]
        window = window if view.colour is None else view.colour.draw(generator)(window)
        result[name] = window.contiguous()
    return result


def random_crop(
    size: tuple[int, int], augment: Augment, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random crop, in pixels of a picture of ``size`` (width, height).

    Ten tries at an area and a ratio that fit inside, then the largest central crop within the range of
    ratios, as torchvision's RandomResizedCrop does.
    """
    width, height = size
    target = augment.image_size[1] / augment.image_size[0]
    least, most = (bound * target for bound in augment.crop_ratio)
    for _ in range(10):
        area = width * height * generator.uniform(*augment.crop_scale)
        ratio = math.exp(generator.uniform(math.log(least), math.log(most)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(generator.integers(0, width - crop_width, endpoint=True))
            top = int(generator.integers(0, height - crop_height, endpoint=True))
            return left, top, crop_width, crop_height
    crop_width = min(width, max(1, round(height * most)))
    crop_height = min(height, max(1, round(width / least)))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def evaluation_view(
    image: Picture,
    image_size: tuple[int, int],
    *,
    crop_fraction: float = 0.875,
    interpolation: Interpolation = "bicubic",
    channels: int = 3,
) -> Shaped[Tensor, "C H W"]:
    """The centre of the picture: scaled to cover ``image_size / crop_fraction``, then cut to ``image_size``.

    For squares this is the usual "shorter side to 256, centre 224", in one resampling and without rounding
    the size in between.

    Raises:
        DecodeError: the pixels are broken or truncated.
    """
    if not 0 < crop_fraction <= 1:
        raise ValueError(f"crop_fraction must lie in (0, 1], not {crop_fraction}.")
    height, width = image_size
    full_width, full_height = picture_size(image)
    step = min(full_width / width, full_height / height) * crop_fraction
    pixels, factor = (
        (image, 1) if isinstance(image, np.ndarray) else load_pixels(image, channels, shrink=step)
    )
    left, top = max(full_width - step * width, 0) / 2, max(full_height - step * height, 0) / 2
    # Rounding may push an edge out of the picture by a hair, which Pillow refuses.
    most_right, most_bottom = picture_size(pixels)
    right = min((left + step * width) / factor, most_right)
    bottom = min((top + step * height) / factor, most_bottom)
    box = (left / factor, top / factor, right, bottom)
    if isinstance(pixels, np.ndarray):
        return resize_box(pixels, box, image_size, interpolation)
    # A gap of 2 lets large reductions start with a cheap box average; below it the filter does all the work.
    return _to_tensor(pixels.resize((width, height), FILTERS[interpolation], box=box, reducing_gap=2.0))


def scaled(side: int, scale: float) -> int:
    """Pixels along the side of a view of this scale."""
    return max(1, round(side * scale))


def normalise(
    images: Shaped[Tensor, "B C H W"],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Float[Tensor, "B C H W"]:
    """(pixels - mean) / std as float32, on the images' device.

    Args:
        images: of 8 or 16 bits, whose pixels are scaled to 0..1, or float32, which are taken as they are.
        mean: one per channel, of pixels so scaled. None: ImageNet's for three channels, else the average of
            ImageNet's three for every channel.
        std: likewise.
    """
    channels = images.shape[1]
    mean, std = imagenet_statistics(channels, mean, std)
    gain, offset = _affine(mean, std, _UNITS[images.dtype], images.device)
    pixels = images.to(torch.float32, copy=True)
    # In place: a second batch of floats would cost a processor more than the arithmetic.
    return torch.addcmul(offset, pixels, gain, out=pixels)


def as_fractions(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Pixels of 8 or 16 bits as float32 in 0..1; floating point ones as they are."""
    return images.float() / _UNITS[images.dtype]


def imagenet_statistics(
    channels: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std), a value per channel; what is not given is ImageNet's, averaged unless channels is 3."""
    result = []
    for name, given, imagenet in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
        if given is None:
            given = imagenet if channels == 3 else (sum(imagenet) / 3,) * channels
        if len(given) != channels:
            raise ValueError(f"{name} has {len(given)} values, but the images have {channels} channels.")
        result.append(tuple(float(value) for value in given))
    if min(result[1]) <= 0:
        raise ValueError(f"std must be positive, not {result[1]}.")
    return result[0], result[1]


@functools.lru_cache(maxsize=16)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], unit: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Cached, because sending even three numbers to an accelerator makes the host wait for it. Outside
    # inference mode, so that the same tensors serve training and evaluation.
    with torch.inference_mode(False):
        means, stds = (
            torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in (mean, std)
        )
        return (1 / (unit * stds)).float().to(device), (-means / stds).float().to(device)


def _resize_rgba(
    pixels: UInt8[np.ndarray, "H W 4"], size: tuple[int, int], interpolation: Interpolation
) -> UInt8[Tensor, "4 h w"]:
    """By Pillow, which weighs colours by alpha."""
    image = Image.fromarray(pixels)
    return _to_tensor(image.resize((size[1], size[0]), FILTERS[interpolation]))


def _to_tensor(pixels: Image.Image) -> UInt8[Tensor, "C H W"]:
    return rearrange(torch.from_numpy(np.atleast_3d(np.array(pixels))), "h w c -> c h w").contiguous()


def _check_interpolation(name: str) -> None:
    if name not in FILTERS:
        raise ValueError(f"interpolation must be one of {', '.join(FILTERS)}, not {name!r}.")
