"""Boxes are pooled, and masks learned and placed, where they are."""

import pytest
import torch
from torch import Tensor
from torchvision.ops.poolers import LevelMapper

from unmask.evaluate.detect.heads import BoxPool, in_full, masks_within, paste

STRIDES = (4, 8, 16, 32)


def places(stride: int, side: int = 256) -> Tensor:
    """A map whose values are the places of its own middles, x and y."""
    middles = (torch.arange(side // stride) + 0.5) * stride
    return torch.stack(torch.meshgrid(middles, middles, indexing="xy"))[None]


@pytest.mark.parametrize("box", [(50.0, 60, 90, 84), (33.3, 80.7, 140.2, 199.9), (20.0, 20, 230, 231)])
def test_what_is_pooled_of_a_box_is_what_lies_there(box: tuple[float, ...]) -> None:
    """Of maps that hold their own places, a box of 7 x 7 gets the middles of its 49 parts."""
    maps = {str(stride): places(stride) for stride in STRIDES}
    pooled = BoxPool(list(maps), STRIDES, 7)(maps, [torch.tensor([box])])
    left, top, right, bottom = box
    parts = (torch.arange(7) + 0.5) / 7
    x, y = left + parts * (right - left), top + parts * (bottom - top)
    expected = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-3)


def test_boxes_come_from_the_map_that_the_paper_says() -> None:
    sides = torch.tensor([3.0, 20, 55.9, 56.1, 111, 113, 223, 225, 447, 449, 900])
    boxes = torch.stack([torch.zeros(11), torch.zeros(11), sides, sides], dim=1)
    expected = LevelMapper(2, 5)([boxes])
    assert torch.equal(BoxPool("0123", STRIDES, 7).level(boxes), expected)
    assert BoxPool("0", (8,), 7).level(boxes).tolist() == [0] * 11


def test_images_keep_their_own_boxes() -> None:
    maps = {"0": torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 16, 16)}
    boxes = [torch.zeros(2, 4), torch.zeros(0, 4), torch.ones(1, 4)]
    pooled = BoxPool(["0"], [4], 7)(maps, boxes)
    assert pooled[:, 0, 0, 0].tolist() == [0, 0, 2]
    assert BoxPool(["0"], [4], 7)(maps, [torch.zeros(0, 4)] * 3).shape == (0, 1, 7, 7)


def rectangle(left: int, top: int, right: int, bottom: int) -> Tensor:
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize(
    "box", [(10.0, 5, 38, 33), (8.0, 4, 50, 36), (12.5, 7.25, 33.5, 30.75), (0.0, 0, 60, 40)]
)
def test_a_mask_comes_back_as_it_was(box: tuple[float, ...]) -> None:
    """Cut out of the picture by a box, and pasted into it again: an L, in the right place to the pixel."""
    mask = rectangle(14, 9, 20, 28) | rectangle(14, 22, 31, 28)
    own = torch.tensor(box)
    cut = masks_within(mask[None], torch.tensor([0]), own[None], 28)[0]
    pasted = paste(cut, own, (40, 60))
    assert (pasted != mask.bool()).sum() <= 6  # the resolution of the mask, 28 x 28
    middle = [one.nonzero().float().mean(0) for one in (pasted, mask)]
    torch.testing.assert_close(middle[0], middle[1], rtol=0, atol=0.15)


def test_a_full_mask_covers_the_pixels_whose_middle_is_in_the_box() -> None:
    full = torch.ones(28, 28)
    assert torch.equal(
        paste(full, torch.tensor([10.0, 5, 20, 30]), (40, 60)), rectangle(10, 5, 20, 30).bool()
    )
    pasted = paste(full, torch.tensor([10.4, 5.6, 20.4, 30.6]), (40, 60))
    assert torch.equal(pasted, rectangle(10, 6, 20, 31).bool())
    beyond = paste(full, torch.tensor([-8.0, 30, 70, 50]), (40, 60))
    assert torch.equal(beyond, rectangle(0, 30, 60, 40).bool())
    assert not paste(full, torch.tensor([70.0, 5, 80, 30]), (40, 60)).any()


def test_shares_of_a_mask() -> None:
    """A box of which the left half is covered."""
    cut = masks_within(
        rectangle(10, 0, 20, 40)[None], torch.tensor([0]), torch.tensor([[10.0, 5, 30, 25]]), 4
    )
    torch.testing.assert_close(cut[0], torch.tensor([[1.0, 1, 0, 0]] * 4))


def test_full_precision() -> None:
    layer = in_full(torch.nn.Linear(4, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 4)).dtype == torch.float32
