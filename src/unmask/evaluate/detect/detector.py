"""The detector: torchvision's Faster and Mask R-CNN with ViTDet's heads, on the maps of a backbone.

Exploring Plain Vision Transformer Backbones for Object Detection. Yanghao Li, Hanzi Mao, Ross Girshick,
Kaiming He. ECCV 2022, arXiv 2203.16527.
Mask R-CNN. Kaiming He, Georgia Gkioxari, Piotr Dollár, Ross Girshick. ICCV 2017, arXiv 1703.06870.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork

from unmask.encoders import Encoder
from unmask.encoders.itpn import Pyramid
from unmask.evaluate.detect.cascade import CascadeHeads
from unmask.evaluate.detect.heads import BoxPool, MaskHeads, SingleHeads, in_full
from unmask.evaluate.detect.windows import in_windows
from unmask.evaluate.idle import freeze_idle
from unmask.necks import Backbone, NeckName, create_backbone
from unmask.recipes.base import Fraction, PositiveInt, Section

BOX_SIDE, MASK_SIDE = 7, 14  # positions that a box is pooled to, for the box head and for the mask head
FINEST = 4  # pixels: stride of ViTDet's finest map
COARSEST = "pool"  # key of the map that is pooled from the coarsest one, for proposals of the largest objects


class Heads(Section):
    """The detector around the encoder. The defaults are ViTDet's."""

    kind: Literal["single", "cascade"] = "single"  # Faster / Mask R-CNN; three stages
    masks: bool | None = None  # None: where all objects have one
    neck: NeckName = "auto"  # see `unmask.necks.create_backbone`
    levels: tuple[Literal[0, 1, 2, 3], ...] | None = None
    # maps that are used, from fine to coarse; None: those whose stride is 4 or more
    top_down: bool | None = None
    # a feature pyramid network over the maps; None: where these do not know each other
    width: PositiveInt = 256  # channels of the maps and of the heads' convolutions
    norm: Literal["layer", "none"] = "layer"
    proposal_convolutions: PositiveInt = 2
    box_convolutions: Annotated[int, Field(ge=0)] = 4
    box_dim: PositiveInt = 1024
    mask_convolutions: PositiveInt = 4
    anchor_scale: Annotated[float, Field(gt=0)] = 8.0  # side of an anchor over its map's stride
    anchor_ratios: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    # height / width
    anchor_samples: PositiveInt = 256  # of an image, for the loss of the proposals
    box_samples: PositiveInt = 512  # of an image, for the losses of the box head
    proposals: PositiveInt = 1000  # of an image
    window: PositiveInt | None = None  # patches along the side of an attention window, for plain ViTs; 14
    global_blocks: Annotated[int, Field(ge=0)] = 4  # that see all of the image nevertheless
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of what counts as found
    nms_threshold: Fraction = 0.5
    detections: PositiveInt = 100  # of an image


class Levels(nn.Module):
    """The maps of a backbone in one width, and one more, pooled from the coarsest.

    Args:
        backbone: whose maps have `width` channels unless they go top down.
        levels: that are used; what only the others need is frozen.
        top_down: let coarse maps flow into fine ones, as a feature pyramid network does.
        norm: of that network's convolutions.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        levels: Sequence[int],
        width: int,
        top_down: bool,
        norm: type[nn.Module] | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.levels = tuple(levels)
        self.strides = tuple(backbone.strides[level] for level in levels)
        channels = [backbone.channels[level] for level in levels]
        if not top_down and set(channels) != {width}:
            raise ValueError(f"maps of {channels} channels must have {width}, or go top down")
        self.network = FeaturePyramidNetwork(channels, width, norm_layer=norm) if top_down else None
        if len(levels) < len(backbone.strides):
            freeze_idle(backbone, lambda: _reached(backbone, levels))

    def forward(self, images: Float[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B D _ _"]]:
        """Maps by the name of their level, the pooled one last."""
        every = self.backbone(images)
        maps = OrderedDict((str(level), every[level]) for level in self.levels)
        if self.network is not None:
            maps = self.network(maps)
        maps[COARSEST] = F.max_pool2d(maps[str(self.levels[-1])], 1, stride=2)
        return maps


class Detector(nn.Module):
    """Finds objects on images of one fixed size.

    Args:
        encoder: built for the size of the images; put into windows if `heads` asks for them.
        heads: what is built around it.
        classes: without the background.
        masks: whether masks are made, and learned from.
        pyramid: that was pre-trained together with the encoder.

    Raises:
        ValueError: heads that do not go with the encoder.
    """

    def __init__(
        self, encoder: Encoder, heads: Heads, *, classes: int, masks: bool, pyramid: Pyramid | None = None
    ) -> None:
        super().__init__()
        norm = LayerNorm2d if heads.norm == "layer" else None
        if heads.window is not None:
            encoder = in_windows(encoder, window=heads.window, global_blocks=heads.global_blocks)
        backbone, top_down = _backbone(encoder, heads, pyramid)
        levels = _levels(heads, backbone.strides)
        self.levels = Levels(backbone, levels=levels, width=heads.width, top_down=top_down, norm=norm)
        self.proposals = _proposals(heads, self.levels.strides)
        self.heads = _heads(heads, self.levels, classes=classes, masks=masks, norm=norm)

    @property
    def backbone(self) -> Backbone:
        return self.levels.backbone

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        sizes: Sequence[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """What is found, or the losses in training.

        Args:
            images: normalised; the part of the canvas that a picture does not cover is zero.
            sizes: height and width that each picture covers, from the top left corner.
            targets: of each image `boxes` [n, 4] in pixels (left, top, right, bottom), `labels` [n] from 1,
                and `masks` [n, H, W] where they are made; in training only.

        Returns:
            Of each image `boxes`, `labels`, `scores` by descending scores, and `masks` [n, 1, 28, 28] within
            the boxes, in [0, 1]; none in training. The losses by name; none otherwise.
        """
        # Places are counted in the type of the maps, and half precision would round them to pixels.
        maps = {name: one.float() for name, one in self.levels(images).items()}
        proposals, losses = self.proposals(ImageList(images, list(sizes)), maps, targets)
        found, more = self.heads(maps, proposals, list(sizes), targets)
        return found, {**losses, **more}


def _backbone(encoder: Encoder, heads: Heads, pyramid: Pyramid | None) -> tuple[Backbone, bool]:
    """Four maps, and whether they need a network that lets the coarse ones flow into the fine ones."""
    plain = create_backbone(encoder, neck=heads.neck, pyramid=pyramid)
    top_down = heads.top_down
    if top_down is None:  # a pyramid has done so, and the maps of ViTDet are all made of the last one
        top_down = plain.neck_name in ("native", "deconvolution", "levels")
    if top_down or set(plain.channels) == {heads.width}:
        return plain, top_down
    return create_backbone(encoder, neck=heads.neck, pyramid=pyramid, width=heads.width), top_down


def _reached(backbone: Backbone, levels: Sequence[int]) -> Float[Tensor, " L"]:
    """Something that depends on some of the maps, and on no other."""
    maps = backbone(torch.zeros(1, backbone.encoder.channels, *backbone.image_size))
    return torch.stack([maps[level].sum() for level in levels])


def _levels(heads: Heads, strides: Sequence[int]) -> tuple[int, ...]:
    """The maps that are used."""
    if heads.levels is None:
        levels = tuple(level for level, stride in enumerate(strides) if stride >= FINEST)
    else:
        levels = heads.levels
    if not levels or list(levels) != sorted(set(levels)):
        raise ValueError(f"levels={list(levels)} must name some of the maps 0 to 3, from fine to coarse")
    return levels


class Anchors(AnchorGenerator):
    """torchvision's, at the strides that the maps have.

    It would take them from the canvas and the sides of a map, and find a stride of 28 where a map of 5 places
    covers 144 pixels at a stride of 32, the last place in part.
    """

    def __init__(self, strides: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.strides = [[stride, stride] for stride in strides]

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Boxes [n, 4] for each image."""
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        grids = [list(values.shape[-2:]) for values in feature_maps]
        places = torch.cat(self.grid_anchors(grids, self.strides))
        return [places] * len(image_list.image_sizes)


def _proposals(heads: Heads, strides: Sequence[int]) -> RegionProposalNetwork:
    sides = [heads.anchor_scale * stride for stride in (*strides, 2 * strides[-1])]
    anchors = Anchors(
        (*strides, 2 * strides[-1]),
        sizes=tuple((side,) for side in sides),
        aspect_ratios=(tuple(heads.anchor_ratios),) * len(sides),
    )
    if any((cell[:, 2:] <= cell[:, :2]).any() for cell in anchors.cell_anchors):
        raise ValueError(
            f"anchor_scale={heads.anchor_scale:g} makes anchors of {sides[0]:g} pixels on the finest map, "
            "and some have no area in whole pixels; ViTDet's is 8"
        )
    count = anchors.num_anchors_per_location()[0]
    head = in_full(RPNHead(heads.width, count, conv_depth=heads.proposal_convolutions))
    before = {"training": 2 * heads.proposals, "testing": heads.proposals}  # of each map
    after = {"training": heads.proposals, "testing": heads.proposals}
    return RegionProposalNetwork(
        anchors,
        head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=heads.anchor_samples,
        positive_fraction=0.5,
        pre_nms_top_n=before,
        post_nms_top_n=after,
        nms_thresh=0.7,
    )


def _heads(
    heads: Heads, levels: Levels, *, classes: int, masks: bool, norm: type[nn.Module] | None
) -> MaskHeads:
    names = [str(level) for level in levels.levels]
    convolutions = [heads.width] * heads.box_convolutions

    def box_head() -> nn.Module:
        return FastRCNNConvFCHead(
            (heads.width, BOX_SIDE, BOX_SIDE), convolutions, [heads.box_dim], norm_layer=norm
        )

    options: dict[str, Any] = {
        "box_roi_pool": BoxPool(names, levels.strides, BOX_SIDE),
        "batch_size_per_image": heads.box_samples,
        "positive_fraction": 0.25,
        "score_thresh": heads.score_threshold,
        "nms_thresh": heads.nms_threshold,
        "detections_per_img": heads.detections,
    }
    if masks:
        layers = [heads.width] * heads.mask_convolutions
        options |= {
            "mask_roi_pool": BoxPool(names, levels.strides, MASK_SIDE),
            "mask_head": MaskRCNNHeads(heads.width, layers, 1, norm_layer=norm),
            "mask_predictor": in_full(MaskRCNNPredictor(heads.width, heads.width, 1 + classes)),
        }
    if heads.kind == "cascade":
        return CascadeHeads(head=box_head, dim=heads.box_dim, classes=classes, **options)
    return SingleHeads(
        box_head=box_head(),
        box_predictor=in_full(FastRCNNPredictor(heads.box_dim, 1 + classes)),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        bbox_reg_weights=None,
        **options,
    )


def total(losses: dict[str, Tensor]) -> Float[Tensor, ""]:
    """The loss that is minimised: all with equal weight."""
    return torch.stack(list(losses.values())).sum()
