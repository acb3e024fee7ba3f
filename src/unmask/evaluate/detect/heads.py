"""What looks at single boxes: pooling, and torchvision's heads with masks to the pixel.

torchvision pools by an older reading of coordinates, in which everything lies half a place further to the
right and the bottom, and pastes masks into boxes of whole pixels. Heads learn around the former; masks stay
off by up to a pixel, which is a lot for a small object. Here a place of a map, like a pixel, reaches from one
whole number to the next, and its value is that of its middle (as in ViTDet's detectron2).
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference
from torchvision.ops import roi_align

NamedMaps = Mapping[str, Float[Tensor, "B D _ _"]]
Target = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)

BACKGROUND = 0
POINTS = 2  # that are looked at along the side of a pooled position
CANONICAL_SIDE, CANONICAL_STRIDE = 224.0, 16.0  # a box of this side is pooled from a map of this stride


class BoxPool(nn.Module):
    """What maps say of boxes, each from the map on which it has 14 to 28 places along its side.

    Feature Pyramid Networks for Object Detection (Lin et al. 2017, equation 1); Mask R-CNN's RoIAlign.

    Args:
        names: of the maps, from fine to coarse.
        strides: of each, every one twice the one before.
        side: positions along the side of a pooled box.
    """

    def __init__(self, names: Sequence[str], strides: Sequence[int], side: int) -> None:
        super().__init__()
        self.names, self.strides, self.side = tuple(names), tuple(strides), side

    def forward(
        self, maps: NamedMaps, boxes: Sequence[Float[Tensor, "_ 4"]], image_shapes: Any = None
    ) -> Float[Tensor, "n D s s"]:
        """
        Args:
            boxes: of each image, in its pixels.
            image_shapes: what torchvision's heads hand over; the strides say it all.
        """
        every = torch.cat(list(boxes))
        index = [torch.full_like(own[:, :1], number) for number, own in enumerate(boxes)]
        placed = torch.cat([torch.cat(index), every], dim=1)
        levels = self.level(every)
        first = maps[self.names[0]]
        pooled = first.new_zeros(len(every), first.shape[1], self.side, self.side)
        for number, (name, stride) in enumerate(zip(self.names, self.strides, strict=True)):
            (own,) = torch.where(levels == number)
            pooled[own] = roi_align(maps[name], placed[own], self.side, 1 / stride, POINTS, aligned=True)
        return pooled

    def level(self, boxes: Float[Tensor, "n 4"]) -> Int64[Tensor, " n"]:
        """The map of each box, by its number."""
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=0).sqrt()
        wanted = CANONICAL_STRIDE * sides / CANONICAL_SIDE
        return (wanted / self.strides[0]).log2().add(1e-6).floor().clamp(0, len(self.strides) - 1).long()


class MaskHeads(RoIHeads):
    """`RoIHeads` whose masks are learned and placed exactly."""

    def masked(
        self, features: NamedMaps, found: list[dict[str, Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """What was found, with a mask [n, 1, 28, 28] in each box if this makes masks."""
        if not self.has_mask():
            return found
        logits = self._mask_logits(features, [one["boxes"] for one in found], image_shapes)
        masks = maskrcnn_inference(logits, [one["labels"] for one in found])
        return [{**one, "masks": mask} for one, mask in zip(found, masks, strict=True)]

    def mask_losses(
        self,
        features: NamedMaps,
        boxes: list[Float[Tensor, "_ 4"]],
        matches: list[Tensor],
        labels: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target],
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of the masks in the boxes that are objects; empty if this makes none.

        Args:
            matches: the object of each box; of background any.
            labels: of each box.
        """
        if not self.has_mask():
            return {}
        objects = [own > BACKGROUND for own in labels]
        boxes = [own[chosen] for own, chosen in zip(boxes, objects, strict=True)]
        logits = self._mask_logits(features, boxes, image_shapes)
        classes = torch.cat([own[chosen] for own, chosen in zip(labels, objects, strict=True)])
        if not len(classes):
            return {"loss_mask": 0 * logits.sum()}
        goals = [
            masks_within(target["masks"], match[chosen], own, logits.shape[-1])
            for target, match, chosen, own in zip(targets, matches, objects, boxes, strict=True)
        ]
        own_class = logits[torch.arange(len(classes), device=classes.device), classes]
        return {"loss_mask": F.binary_cross_entropy_with_logits(own_class, torch.cat(goals))}

    def _mask_logits(
        self, features: NamedMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Float[Tensor, "n K h w"]:
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))


class SingleHeads(MaskHeads):
    """One stage: Faster R-CNN, and Mask R-CNN with masks."""

    def forward(
        self,
        features: NamedMaps,
        proposals: list[Float[Tensor, "_ 4"]],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """What is found in each image; in training the losses instead."""
        if self.training:
            boxes, matches, labels, goals = self.select_training_samples(proposals, targets)
            losses = fastrcnn_loss(*self._predict(features, boxes, image_shapes), labels, goals)
            masks = self.mask_losses(features, boxes, matches, labels, image_shapes, targets or [])
            return [], {**dict(zip(("loss_classifier", "loss_box_reg"), losses, strict=True)), **masks}
        logits, offsets = self._predict(features, proposals, image_shapes)
        kept = zip(*self.postprocess_detections(logits, offsets, proposals, image_shapes), strict=True)
        found = [{"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in kept]
        return self.masked(features, found, image_shapes), {}

    def _predict(
        self, features: NamedMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n _"]]:
        return self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_shapes)))


def masks_within(
    masks: Tensor, matches: Int64[Tensor, " n"], boxes: Float[Tensor, "n 4"], side: int
) -> Float[Tensor, "n s s"]:
    """The part of each box's mask that lies in the box, as side x side shares of what it covers.

    Args:
        masks: [m, H, W] of the objects of an image.
        matches: the object of each box.
    """
    placed = torch.cat([matches[:, None].to(boxes.dtype), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes.dtype), placed, side, aligned=True)[:, 0]


def paste(mask: Float[Tensor, "s s"], box: Float[Tensor, " 4"], size: tuple[int, int]) -> Bool[Tensor, "H W"]:
    """The pixels of a picture whose middle a mask in a box covers: the reverse of `masks_within`.

    Args:
        mask: of the box, in [0, 1]; more than 0.5 is covered.
        box: left, top, right, bottom in pixels.
        size: height and width of the picture.
    """
    found = torch.zeros(size, dtype=torch.bool, device=mask.device)
    low, high = box[:2].floor().long().clamp(min=0).tolist(), box[2:].ceil().long().tolist()
    right, bottom = min(high[0], size[1]), min(high[1], size[0])
    if right <= low[0] or bottom <= low[1]:
        return found
    # From the middles of pixels to places in the box, -1 to 1.
    x, y = (
        (torch.arange(start, end, device=mask.device) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * 2 - 1
        for axis, start, end in ((0, low[0], right), (1, low[1], bottom))
    )
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    values = F.grid_sample(mask[None, None], grid, align_corners=False, padding_mode="border")[0, 0]
    inside = (x.abs() <= 1)[None, :] & (y.abs() <= 1)[:, None]
    found[low[1] : bottom, low[0] : right] = (values > 0.5) & inside
    return found


def in_full(module: Module) -> Module:
    """The module, with outputs of float32 in mixed precision too: scores and places are counted with them."""
    module.register_forward_hook(_to_float)
    return module


def _to_float(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(_to_float(_module, _inputs, one) for one in outputs)
