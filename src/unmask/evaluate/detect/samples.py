"""One picture of a data set as the detector gets it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unmask.data.decode import decode
from unmask.evaluate.detect.coco import Instance, Photo
from unmask.evaluate.detect.geometry import Placement, visible


@dataclass(frozen=True)
class Sample:
    """A picture on the canvas and what is to be found there.

    Attributes:
        pixels: of the picture alone; the rest of the canvas, right of it and below, is nothing.
        boxes: left, top, right, bottom in pixels of the canvas.
        labels: of the categories, from 1; 0 is the background.
        masks: on the picture; None if they are not asked for.
    """

    pixels: UInt8[Tensor, "C h w"]
    boxes: Float[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    masks: Bool[Tensor, "n h w"] | None

    def target(self, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """What torchvision's heads compare with."""
        found = {"boxes": self.boxes, "labels": self.labels}
        if self.masks is not None:
            height, width = self.masks.shape[1:]
            room = (0, canvas[1] - width, 0, canvas[0] - height)
            found["masks"] = F.pad(self.masks.to(torch.uint8), room)
        return found


def read_picture(photo: Photo, channels: int) -> Image.Image:
    """The upright picture, in 8 bits.

    Raises:
        DecodeError: it is broken.
    """
    return decode(photo.path.read_bytes(), channels)


def place(
    instances: Sequence[Instance], picture: Image.Image, placement: Placement, *, masks: bool
) -> Sample:
    """The picture and its objects as they lie on the canvas; crowds, and what a crop left nothing of, are no
    targets."""
    single = [one for one in instances if not one.crowd]
    boxes = placement.boxes(np.asarray([one.box for one in single], dtype=np.float64).reshape(-1, 4))
    # What lies outside the crop is not worth the filling of its polygons.
    near = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
    bitmaps = _bitmaps([single[index].outline for index in near], placement) if masks else None
    tight, left = visible(boxes[near], bitmaps, placement.crop)
    labels = np.asarray([single[index].category + 1 for index in near], dtype=np.int64)
    return Sample(
        torch.from_numpy(np.ascontiguousarray(placement.pixels(picture).transpose(2, 0, 1))),
        torch.from_numpy(tight[left].astype(np.float32)),
        torch.from_numpy(labels[left]),
        None if bitmaps is None else torch.from_numpy(bitmaps[left]),
    )


def _bitmaps(outlines: Sequence[Any], placement: Placement) -> np.ndarray:
    found = np.zeros((len(outlines), *placement.crop), dtype=bool)
    for index, outline in enumerate(outlines):
        assert outline is not None, "objects without a mask are left out before"
        found[index] = placement.mask(outline.bitmap())
    return found


def batched(samples: Sequence[Sample], canvas: tuple[int, int], mean: Sequence[float]) -> dict[str, Any]:
    """A batch: pixels on the canvas, height and width that each picture covers of it, targets.

    Args:
        mean: a channel, in [0, 1]: what the rest of the canvas is filled with, so that it is nothing once it
            is normalised.
    """
    fill = torch.tensor(mean).mul(255).round().to(torch.uint8)
    images = fill[None, :, None, None].repeat(len(samples), 1, *canvas)
    for image, sample in zip(images, samples, strict=True):
        height, width = sample.pixels.shape[1:]
        image[:, :height, :width] = sample.pixels
    return {
        "images": images,
        "sizes": [tuple(sample.pixels.shape[1:]) for sample in samples],
        "targets": [sample.target(canvas) for sample in samples],
    }
