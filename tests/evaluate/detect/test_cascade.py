"""The three stages do what they say."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from unmask.evaluate.detect.cascade import STAGES, CascadeHeads, match
from unmask.evaluate.detect.heads import BoxPool

WIDE, IMAGE = 8, (64, 64)


def heads(**options: float) -> CascadeHeads:
    torch.manual_seed(0)
    return CascadeHeads(
        head=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 49, WIDE)),
        dim=WIDE,
        classes=2,
        box_roi_pool=BoxPool(["0"], [4], 7),
        batch_size_per_image=64,
        positive_fraction=0.5,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=10,
        **options,
    )


def maps() -> dict[str, Tensor]:
    return {"0": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))}


def target(*boxes: tuple[float, float, float, float]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.arange(len(boxes)) % 2 + 1}


def test_thresholds_and_weights_are_the_papers() -> None:
    assert [stage.iou for stage in STAGES] == [0.5, 0.6, 0.7]
    assert [stage.weights for stage in STAGES] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    cascade = heads()
    assert cascade.proposal_matcher.high_threshold == cascade.proposal_matcher.low_threshold == 0.5
    assert [coder.weights for coder in cascade.coders] == [stage.weights for stage in STAGES]


def test_a_box_is_an_object_of_the_stages_that_it_is_good_enough_for() -> None:
    """A box of 10 x 10 moved to the right by d overlaps by (10 - d) / (10 + d)."""
    objects = target((0, 0, 10, 10), (30, 30, 40, 40))
    moves = [10 * (1 - iou) / (1 + iou) for iou in (0.45, 0.55, 0.65, 0.75)]
    boxes = torch.tensor([[30 + move, 30, 40 + move, 40] for move in moves])
    labels = [match(boxes, objects, stage.iou)[1].tolist() for stage in STAGES]
    assert labels == [[0, 2, 2, 2], [0, 0, 2, 2], [0, 0, 0, 2]]
    assert match(boxes, objects, 0.5)[0].tolist() == [1, 1, 1, 1]


def test_the_same_error_is_more_to_later_stages() -> None:
    boxes, wanted = torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([[12.0, 10, 32, 40]])
    offsets = [coder.encode([wanted], [boxes])[0][0] for coder in heads().coders]
    torch.testing.assert_close(offsets[0], torch.tensor([1.0, 2.5, 0, 5 * math.log(1.5)]))
    for index in (1, 2):
        torch.testing.assert_close(offsets[index], (index + 1) * offsets[0])


def test_each_stage_regresses_from_the_boxes_of_the_one_before() -> None:
    """Every stage moves a box by a quarter of its width: three of them by three quarters."""
    cascade = heads().eval()
    for predictor, stage in zip(cascade.box_predictor, STAGES, strict=True):
        nn.init.zeros_(predictor.offsets.weight)
        predictor.offsets.bias.data = torch.tensor([0.25 * stage.weights[0], 0, 0, 0])
        nn.init.zeros_(predictor.scores.weight)
        predictor.scores.bias.data = torch.tensor([0.0, 5.0, -5.0])
    found, _ = cascade(maps(), [torch.tensor([[8.0, 8, 28, 24]])], [IMAGE])
    torch.testing.assert_close(found[0]["boxes"], torch.tensor([[23.0, 8, 43, 24]]))
    assert found[0]["labels"].tolist() == [1]


def test_classes_are_scored_by_the_mean_of_the_stages() -> None:
    cascade = heads().eval()
    logits = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    for predictor, own in zip(cascade.box_predictor, logits, strict=True):
        nn.init.zeros_(predictor.scores.weight)
        predictor.scores.bias.data = own.clone()
    found, _ = cascade(maps(), [torch.tensor([[8.0, 8, 28, 24]])], [IMAGE])
    mean = logits.softmax(1).mean(0)[1:]
    torch.testing.assert_close(found[0]["scores"].sort().values, mean.sort().values)
    assert found[0]["labels"].tolist() == (mean.argsort(descending=True) + 1).tolist()


def test_later_stages_learn_from_better_boxes() -> None:
    """After a first stage that puts every box onto the object, the others have nothing to regress."""
    objects = target((20, 20, 40, 44))
    proposals = [torch.tensor([[22.0, 20, 42, 44]])]
    cascade = heads().train()
    # No box but the proposal: the object itself, which torchvision adds, would be moved away.
    cascade.add_gt_proposals = lambda proposals, boxes: proposals
    first = cascade.box_predictor[0].offsets
    nn.init.zeros_(first.weight)
    first.bias.data = cascade.coders[0].encode([objects["boxes"]], proposals)[0][0]
    for predictor in cascade.box_predictor[1:]:
        nn.init.zeros_(predictor.offsets.weight)
    _, losses = cascade(maps(), list(proposals), [IMAGE], [objects])
    for number in (1, 2, 3):
        assert losses[f"loss_box_reg_{number}"].item() == pytest.approx(0, abs=1e-9)
    first.bias.data = torch.zeros(4)
    _, losses = cascade(maps(), list(proposals), [IMAGE], [objects])
    wanted = torch.tensor([-1.0, 0, 0, 0])
    for number in (1, 2, 3):
        expected = F.smooth_l1_loss(torch.zeros(4), number * wanted, beta=1 / 9, reduction="sum")
        torch.testing.assert_close(losses[f"loss_box_reg_{number}"], expected)


def test_stages_share_the_gradient_of_the_features() -> None:
    """Three equal stages pull at the features as strongly as one of them alone."""
    given = maps()["0"].requires_grad_()
    boxes = [torch.tensor([[8.0, 8, 28, 24]])]
    cascade = heads()
    for index in (1, 2):
        cascade.box_head[index].load_state_dict(cascade.box_head[0].state_dict())
        cascade.box_predictor[index].load_state_dict(cascade.box_predictor[0].state_dict())
    alone = cascade.box_predictor[0](cascade.box_head[0](cascade.box_roi_pool({"0": given}, boxes, [IMAGE])))[
        0
    ]
    (one,) = torch.autograd.grad(alone.sum(), given)
    each = [cascade._predict(index, {"0": given}, boxes, [IMAGE])[0].sum() for index in range(3)]
    (three,) = torch.autograd.grad(sum(each), given)
    torch.testing.assert_close(three, one)


def test_it_learns_where_one_object_is() -> None:
    """A few steps on one image: boxes come nearer from stage to stage."""
    given, objects = maps(), target((20, 20, 40, 44))
    generator = torch.Generator().manual_seed(1)
    cascade = heads().train()
    optimiser = torch.optim.Adam(cascade.parameters(), lr=5e-3)
    for _ in range(80):
        near = objects["boxes"] + 6 * torch.rand(24, 4, generator=generator) - 3
        _, losses = cascade(given, [near], [IMAGE], [objects])
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    cascade.eval()
    boxes = [objects["boxes"] + 6 * torch.rand(24, 4, generator=generator) - 3]
    overlaps = [box_iou(boxes[0], objects["boxes"]).mean().item()]
    with torch.no_grad():
        for index in range(3):
            _, boxes = cascade._refine(index, given, boxes, [IMAGE])
            overlaps.append(box_iou(boxes[0], objects["boxes"]).mean().item())
    assert overlaps[1] > overlaps[0] + 0.05
    assert overlaps[3] > overlaps[1]


def test_images_without_objects_and_without_proposals() -> None:
    cascade = heads().train()
    nothing = target()
    _, losses = cascade(maps(), [torch.tensor([[8.0, 8, 28, 24]])], [IMAGE], [nothing])
    assert all(losses[f"loss_box_reg_{number}"] == 0 for number in (1, 2, 3))
    assert all(losses[f"loss_classifier_{number}"] > 0 for number in (1, 2, 3))
    found, _ = cascade.eval()(maps(), [torch.zeros(0, 4)], [IMAGE])
    assert found[0]["boxes"].shape == (0, 4)
