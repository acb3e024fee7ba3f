"""Cascade R-CNN: boxes are refined three times, each time by a head that is trained on better ones.

Cascade R-CNN: Delving into High Quality Object Detection. Zhaowei Cai, Nuno Vasconcelos. CVPR 2018,
arXiv 1712.00726.

A head that is trained on boxes of IoU 0.5 makes boxes of perhaps 0.6, and has never seen better ones; the
next one is trained on what it makes, with a stricter notion of a hit. At the end the classes are scored by
the mean of all heads, on the boxes of the last. Masks are made by one head on the final boxes, as ViTDet's
cascade does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

from unmask.evaluate.detect.heads import BACKGROUND, MaskHeads, NamedMaps, Target, in_full

MIN_SIDE = 1e-2  # pixels


@dataclass(frozen=True)
class Stage:
    """What a stage is trained for.

    Attributes:
        iou: a box that overlaps an object by this or more is that object; else it is background.
        weights: of the regressed offsets (x, y, width, height): what is left to correct grows smaller from
            stage to stage, and these make it as large as before.
    """

    iou: float
    weights: tuple[float, float, float, float]


STAGES = (
    Stage(0.5, (10.0, 10.0, 5.0, 5.0)),
    Stage(0.6, (20.0, 20.0, 10.0, 10.0)),
    Stage(0.7, (30.0, 30.0, 15.0, 15.0)),
)


class Predictor(nn.Module):
    """Class scores, background first, and one box for all classes."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(dim, 1 + classes)
        self.offsets = nn.Linear(dim, 4)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.offsets.weight, std=0.001)  # boxes start as they are
        nn.init.zeros_(self.scores.bias)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Float[Tensor, "n D"]) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n 4"]]:
        return self.scores(x), self.offsets(x)


class CascadeHeads(MaskHeads):
    """Three stages in the place of torchvision's one; sampling of boxes and the mask head are its own.

    Args:
        head: makes a new head, from what is pooled of a box to a vector.
        dim: width of that vector.
        classes: without the background.
        stages: from coarse to strict.
        options: of `RoIHeads`: pooling, sampling, masks, what is kept of what is found.
    """

    def __init__(
        self,
        *,
        head: Callable[[], nn.Module],
        dim: int,
        classes: int,
        stages: Sequence[Stage] = STAGES,
        **options: Any,
    ) -> None:
        first = {"fg_iou_thresh": stages[0].iou, "bg_iou_thresh": stages[0].iou}
        super().__init__(
            box_head=nn.ModuleList(head() for _ in stages),
            box_predictor=nn.ModuleList(in_full(Predictor(dim, classes)) for _ in stages),
            bbox_reg_weights=stages[0].weights,
            **first,
            **options,
        )
        self.stages = tuple(stages)
        self.coders = [BoxCoder(stage.weights) for stage in stages]

    def forward(
        self,
        features: NamedMaps,
        proposals: list[Float[Tensor, "_ 4"]],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """What is found in each image, and in training the losses instead, as of `RoIHeads`."""
        if self.training:
            assert targets is not None, "training needs targets"
            return [], self._losses(features, proposals, image_shapes, targets)
        scores, boxes = [], proposals
        for index in range(len(self.stages)):
            logits, boxes = self._refine(index, features, boxes, image_shapes)
            scores.append(logits.softmax(1))
        mean = torch.stack(scores).mean(0).split([len(one) for one in boxes])
        found = [self._kept(own, score) for own, score in zip(boxes, mean, strict=True)]
        return self.masked(features, found, image_shapes), {}

    def _losses(
        self,
        features: NamedMaps,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target],
    ) -> dict[str, Tensor]:
        boxes, matches, labels, _ = self.select_training_samples(proposals, targets)
        losses = self.mask_losses(features, boxes, matches, labels, image_shapes, targets)
        for index, stage in enumerate(self.stages):
            # The first stage's boxes are sampled, and thereby matched; the others' are what comes of them.
            if index:
                matched = [match(own, target, stage.iou) for own, target in zip(boxes, targets, strict=True)]
                matches, labels = [one for one, _ in matched], [one for _, one in matched]
            goals = [_goals(target, one) for target, one in zip(targets, matches, strict=True)]
            logits, offsets = self._predict(index, features, boxes, image_shapes)
            wanted = torch.cat(self.coders[index].encode(goals, boxes))
            losses |= _stage_losses(logits, offsets, torch.cat(labels), wanted, number=index + 1)
            boxes = [_sound(own) for own in self._decode(index, offsets.detach(), boxes, image_shapes)]
        return losses

    def _predict(
        self, index: int, features: NamedMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n 4"]]:
        pooled = self.box_roi_pool(features, boxes, image_shapes)
        # The stages share the features: each hands back its share of the gradient, as ViTDet's cascade does.
        pooled = pooled / len(self.stages) + pooled.detach() * (1 - 1 / len(self.stages))
        return self.box_predictor[index](self.box_head[index](pooled))

    def _decode(
        self, index: int, offsets: Tensor, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Float[Tensor, "_ 4"]]:
        moved = self.coders[index].decode(offsets, boxes).flatten(1).split([len(one) for one in boxes])
        return [clip_boxes_to_image(own, shape) for own, shape in zip(moved, image_shapes, strict=True)]

    def _refine(
        self, index: int, features: NamedMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Float[Tensor, "n K"], list[Float[Tensor, "_ 4"]]]:
        logits, offsets = self._predict(index, features, boxes, image_shapes)
        return logits, self._decode(index, offsets, boxes, image_shapes)

    def _kept(self, boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n K"]) -> dict[str, Tensor]:
        """What is scored high enough, each class without what overlaps a better one."""
        index, label = torch.where(scores[:, 1:] > self.score_thresh)
        boxes, scores, labels = boxes[index], scores[index, label + 1], label + 1
        sound = remove_small_boxes(boxes, MIN_SIDE)
        boxes, scores, labels = boxes[sound], scores[sound], labels[sound]
        best = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[best], "labels": labels[best], "scores": scores[best]}


def match(boxes: Float[Tensor, "n 4"], target: Target, iou: float) -> tuple[Tensor, Tensor]:
    """The object that each box overlaps most [n], and its label, or the background's if that is less than
    `iou` [n]."""
    if not len(target["boxes"]):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return nothing, nothing
    if not len(boxes):
        return target["labels"][:0], target["labels"][:0]
    overlap, best = box_iou(target["boxes"], boxes).max(0)
    return best, target["labels"][best].where(overlap >= iou, BACKGROUND)


def _goals(target: Target, matches: Tensor) -> Float[Tensor, "n 4"]:
    """The object of each box; what stands for it where there are none is not looked at."""
    boxes = target["boxes"] if len(target["boxes"]) else target["boxes"].new_tensor([[0.0, 0.0, 1.0, 1.0]])
    return boxes[matches]


def _sound(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "m 4"]:
    """Without boxes that have shrunk to nothing, from which no offset can be counted."""
    return boxes[remove_small_boxes(boxes, MIN_SIDE)]


def _stage_losses(
    logits: Float[Tensor, "n K"],
    offsets: Float[Tensor, "n 4"],
    labels: Tensor,
    wanted: Float[Tensor, "n 4"],
    *,
    number: int,
) -> dict[str, Tensor]:
    """Cross-entropy of the classes and smooth L1 of the objects' offsets, both per sampled box."""
    names = f"loss_classifier_{number}", f"loss_box_reg_{number}"
    if not len(labels):
        return dict.fromkeys(names, 0 * (logits.sum() + offsets.sum()))
    objects = labels > BACKGROUND
    regression = F.smooth_l1_loss(offsets[objects], wanted[objects], beta=1 / 9, reduction="sum")
    return dict(zip(names, (F.cross_entropy(logits, labels), regression / len(labels)), strict=True))
