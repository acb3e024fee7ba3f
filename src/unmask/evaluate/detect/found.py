"""What a detector finds on pictures, in their own pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from unmask.data import normalise
from unmask.evaluate.detect.coco import Annotations, Photo
from unmask.evaluate.detect.geometry import Placement, fitted
from unmask.evaluate.detect.heads import paste
from unmask.evaluate.detect.masks import coco_masks, run_lengths
from unmask.evaluate.detect.samples import batched, place


@dataclass(frozen=True)
class Found:
    """Objects that were found on one picture, the surest first.

    Attributes:
        boxes: left, top, right, bottom in pixels of the picture.
        categories: index into the detector's names.
        scores: in [0, 1].
        runs: masks of the picture's size as COCO's compressed run lengths; None if the detector makes none.
        size: height and width of the picture.
    """

    boxes: Float[NDArray, "n 4"]
    categories: Int64[NDArray, " n"]
    scores: Float[NDArray, " n"]
    runs: tuple[dict[str, Any], ...] | None = None
    size: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.scores)

    def masks(self) -> Bool[NDArray, "n H W"]:
        """True on each object.

        Raises:
            ValueError: the detector makes no masks.
        """
        if self.runs is None:
            raise ValueError("this detector was trained on boxes alone: it makes no masks")
        if not self.runs:
            return np.zeros((0, *self.size), dtype=bool)
        reader = coco_masks()
        return np.stack([reader.decode(one).astype(bool) for one in self.runs])

    def surest(self, threshold: float) -> "Found":
        """What has at least this score."""
        kept = self.scores >= threshold
        runs = (
            None
            if self.runs is None
            else tuple(one for one, keep in zip(self.runs, kept, strict=True) if keep)
        )
        return Found(self.boxes[kept], self.categories[kept], self.scores[kept], runs, self.size)


@torch.no_grad()
def look(
    model: nn.Module,
    pictures: Sequence[Image.Image],
    *,
    canvas: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    short_side: int | None = None,
) -> list[Found]:
    """What the detector, in eval mode, finds on upright pictures of 8 bits and its number of channels.

    Args:
        model: a `Detector`, perhaps wrapped for several processes or mixed precision.
        mean, std: by which images are normalised.
        short_side: of the pictures on the canvas, see `fitted`.
    """
    sizes = [(picture.height, picture.width) for picture in pictures]
    placements = [fitted(size, canvas, short_side=short_side) for size in sizes]
    samples = [
        place((), picture, placement, masks=False)
        for picture, placement in zip(pictures, placements, strict=True)
    ]
    batch = batched(samples, canvas, mean)
    images = normalise(batch["images"].to(device), mean, std)
    found, _ = model(images, batch["sizes"])
    return [_in_picture(own, placement) for own, placement in zip(found, placements, strict=True)]


def _in_picture(found: Mapping[str, Tensor], placement: Placement) -> Found:
    boxes = placement.back(found["boxes"].double().cpu().numpy())
    runs = None
    if "masks" in found:
        # One after the other: a hundred masks of a large picture are a gigabyte.
        pairs = zip(found["masks"].float().cpu(), torch.from_numpy(boxes).float(), strict=True)
        runs = tuple(run_lengths(paste(mask[0], box, placement.size).numpy()) for mask, box in pairs)
    labels, scores = found["labels"].cpu().numpy() - 1, found["scores"].double().cpu().numpy()
    return Found(boxes, labels, scores, runs, placement.size)


def coco_results(found: Mapping[int | str, Found], annotations: Annotations) -> list[dict[str, Any]]:
    """Everything found, by the id of the picture, in COCO's format of results."""
    results = []
    for key, one in found.items():
        for index, (left, top, right, bottom) in enumerate(one.boxes.round(2).tolist()):
            entry: dict[str, Any] = {
                "image_id": key,
                "category_id": annotations.ids[int(one.categories[index])],
                "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                "score": round(float(one.scores[index]), 5),
            }
            results.append(entry if one.runs is None else {**entry, "segmentation": one.runs[index]})
    return results


def hits(found: Found, photo: Photo, *, iou: float = 0.5) -> tuple[Int64[NDArray, " n"], Bool[NDArray, " n"]]:
    """(the object of the picture that each thing found is, -1 for a false alarm; what is no false alarm since
    it lies in a crowd).

    As COCO counts: the surest first, each object once, boxes of the same class that overlap by `iou`.
    """
    owner = np.full(len(found), -1, dtype=np.int64)
    excused = np.zeros(len(found), dtype=bool)
    truth = np.asarray([one.box for one in photo.instances], dtype=np.float64).reshape(-1, 4)
    crowd = np.asarray([one.crowd for one in photo.instances], dtype=bool)
    classes = np.asarray([one.category for one in photo.instances], dtype=np.int64)
    overlap = _overlap(found.boxes, truth, crowd)
    free = ~crowd
    for index in np.argsort(-found.scores, kind="stable"):
        same = overlap[index] * (classes == found.categories[index])
        own = np.where(free, same, 0.0)
        if len(own) and own.max() >= iou:
            owner[index] = own.argmax()
            free[owner[index]] = False
        else:
            excused[index] = bool((same[crowd] >= iou).any())
    return owner, excused


def _overlap(
    boxes: Float[NDArray, "n 4"], truth: Float[NDArray, "m 4"], crowd: Bool[NDArray, " m"]
) -> Float[NDArray, "n m"]:
    """Intersection over union; of a crowd, over what was found."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    own, other = ((one[:, 2:] - one[:, :2]).prod(1) for one in (boxes, truth))
    union = own[:, None] + np.where(crowd, 0.0, other)[None] - np.where(crowd, 0.0, common)
    return common / np.maximum(union, 1e-9)
