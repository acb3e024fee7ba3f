"""UPerNet on the maps of every family."""

import pytest
import torch
from torch import nn

from tests.tiny import tiny_encoder
from unmask.encoders.itpn import Pyramid
from unmask.evaluate.segment.head import PlainHead, PyramidPooling, UPerNet, convolution
from unmask.evaluate.segment.segmenter import Reading, Segmenter, Training
from unmask.necks import NeckName, create_backbone

SIZE = (64, 96)
READING = Reading(short_side=64, stride=2 / 3, mean=(0.5,) * 3, std=(0.25,) * 3)
FAMILIES: list[tuple[str, NeckName]] = [
    ("vit", "simple"),
    ("vit", "deconvolution"),
    ("beit_shared", "deconvolution"),
    ("swin", "native"),
    ("swinv2", "native"),
    ("hivit", "native"),
    ("hivit", "pretrained"),
    ("hivit", "joined"),
    ("fast_itpn", "pretrained"),
    ("revcolv2", "levels"),
    ("revcol", "native"),
]


@pytest.mark.parametrize(("name", "neck"), FAMILIES)
def test_every_family_passes_through_the_same_head(name: str, neck: NeckName) -> None:
    encoder = tiny_encoder(name, image_size=SIZE)
    pyramid = Pyramid(48, width=16, depth=1) if neck in ("pretrained", "joined") else None
    backbone = create_backbone(encoder, neck=neck, pyramid=pyramid)
    segmenter = Segmenter(backbone, classes=("a", "b", "c"), reading=READING, width=12, norm="layer")
    network = Training(segmenter, auxiliary_width=8, norm="layer")
    for parameter in network.parameters():
        if parameter.requires_grad and name in ("swinv2", "hivit", "fast_itpn", "revcol", "revcolv2"):
            nn.init.normal_(parameter, std=0.1)  # some blocks start as the identity
    scores, auxiliary = network.train()(torch.randn(2, 3, *SIZE))
    assert scores.shape == auxiliary.shape == (2, 3, *SIZE)
    ((scores * torch.randn_like(scores)).sum() + (auxiliary * torch.randn_like(auxiliary)).sum()).backward()
    learned = {key: one.grad for key, one in network.named_parameters() if one.requires_grad}
    assert [key for key, gradient in learned.items() if gradient is None] == []
    assert [key for key, gradient in learned.items() if not gradient.any()] == []


def test_what_is_used_later_is_what_was_trained_without_the_plain_head() -> None:
    segmenter = Segmenter(
        create_backbone(tiny_encoder("vit", image_size=SIZE)),
        classes=("a", "b"),
        reading=READING,
        width=12,
        norm="layer",
    )
    network = Training(segmenter, auxiliary_width=8, norm="layer").eval()
    images = torch.randn(1, 3, *SIZE)
    scores, auxiliary = network(images)
    assert torch.equal(segmenter(images), scores) and auxiliary is not None
    assert Training(segmenter, auxiliary_width=0)(images)[1] is None


def test_scores_come_at_the_resolution_of_the_finest_map_and_hear_of_all_maps() -> None:
    head = UPerNet((4, 5, 6, 7), 3, width=8, norm="layer").eval()
    maps = [torch.randn(1, width, 16 // 2**k, 24 // 2**k) for k, width in enumerate((4, 5, 6, 7))]
    before = head(tuple(maps))
    assert before.shape == (1, 3, 16, 24)
    for level in range(4):
        moved = [one + (index == level) * torch.randn_like(one) for index, one in enumerate(maps)]
        assert not torch.allclose(head(tuple(moved)), before)


def test_pooling_knows_the_whole_map_at_every_place() -> None:
    pooling = PyramidPooling(2, 4, "layer").eval()
    x = torch.randn(1, 2, 9, 9)
    corner = x.clone()
    corner[..., 8, 8] += 5
    assert (pooling(corner)[..., 0, 0] != pooling(x)[..., 0, 0]).any()


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_maps_of_one_place_and_odd_sides(norm: str) -> None:
    head = UPerNet((4, 4, 4, 4), 3, width=8, norm=norm)
    maps = tuple(torch.randn(2, 4, side, side) for side in (7, 4, 2, 1))
    assert head(maps).shape == (2, 3, 7, 7)


def test_the_number_of_weights_is_that_of_the_formula() -> None:
    """Width w, channels c, K classes: four pools and their mix, three laterals and levels, fuse, classify."""
    w, c, k = 8, (4, 5, 6, 7), 3
    head = UPerNet(c, k, width=w, norm="batch")
    norm = 2 * w
    expected = 4 * (c[3] * w + norm) + 9 * (c[3] + 4 * w) * w + norm
    expected += sum(one * w + norm for one in c[:3]) + 3 * (9 * w * w + norm)
    expected += 9 * 4 * w * w + norm + w * k + k
    assert sum(one.numel() for one in head.parameters()) == expected
    plain = PlainHead(6, k, width=w, norm="batch")
    assert sum(one.numel() for one in plain.parameters()) == 9 * 6 * w + norm + w * k + k


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="possible are layer, batch"):
        convolution(2, 2, 1, "group")  # type: ignore[arg-type]
