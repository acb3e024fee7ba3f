"""Four maps of any encoder."""

import json

import pytest
import torch
from torch import nn

from tests.tiny import ENCODERS, tiny_encoder
from unmask.encoders import create_encoder
from unmask.encoders.itpn import Pyramid
from unmask.neck_parts import coarser
from unmask.necks import Backbone, NeckName, create_backbone, rebuilt_backbone

SIZE = (64, 96)
UNITS = ("hivit", "hivit_bias", "fast_itpn")
STAGES = ("swin", "swinv2", "revcol")
LEVELS = ("revcolv2", "revcolv2_up")
PLAIN = tuple(name for name in ENCODERS if name not in (*UNITS, *STAGES, *LEVELS))
CASES: list[tuple[str, NeckName]] = [(name, "simple") for name in (*PLAIN, *UNITS, "revcolv2_up")]
CASES += [(name, "deconvolution") for name in PLAIN] + [(name, "native") for name in (*UNITS, *STAGES)]
CASES += [(name, neck) for name in UNITS for neck in ("pretrained", "joined")]
CASES += [(name, "levels") for name in LEVELS]
every_case = pytest.mark.parametrize(("name", "neck"), CASES)


def backbone_of(name: str, neck: NeckName, width: int | None = None) -> Backbone:
    pyramid = Pyramid(48, width=16) if name in UNITS else None
    return create_backbone(tiny_encoder(name, image_size=SIZE), neck=neck, pyramid=pyramid, width=width)


@every_case
def test_maps_are_as_announced_and_every_weight_learns(name: str, neck: NeckName) -> None:
    backbone = backbone_of(name, neck)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    finest = backbone.encoder.pyramid_strides[-1] // 4 if neck != "native" else 4
    assert backbone.image_size == SIZE and backbone.neck_name == neck
    assert backbone.strides == tuple(finest * 2**scale for scale in range(4))
    maps = backbone(torch.randn(2, 3, *SIZE))
    expected = [
        (2, width, -(-SIZE[0] // stride), -(-SIZE[1] // stride))
        for width, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert [tuple(one.shape) for one in maps] == expected
    sum((one * torch.randn_like(one)).sum() for one in maps).backward()
    learned = {key: one.grad for key, one in backbone.named_parameters() if one.requires_grad}
    assert [key for key, gradient in learned.items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize(
    ("name", "neck"), [(PLAIN[0], "simple"), ("swin", "native"), ("hivit", "pretrained"), *CASES[-2:]]
)
def test_the_natural_neck(name: str, neck: NeckName) -> None:
    assert backbone_of(name, "auto").neck_name == neck


@pytest.mark.parametrize(
    ("name", "neck"), [("vit", "deconvolution"), ("swin", "native"), ("hivit", "joined")]
)
def test_one_width_for_all_maps(name: str, neck: NeckName) -> None:
    backbone = backbone_of(name, neck, width=20)
    maps = backbone(torch.randn(1, 3, *SIZE))
    assert backbone.channels == (20,) * 4 and [one.shape[1] for one in maps] == [20] * 4


@pytest.mark.parametrize(
    ("name", "neck", "width"),
    [("vit", "simple", None), ("hivit", "joined", 8), ("swin", "native", 8), ("beit_shared", "simple", 8)],
)
def test_its_description_rebuilds_it(name: str, neck: NeckName, width: int | None) -> None:
    backbone = backbone_of(name, neck, width).eval()
    again = rebuilt_backbone(json.loads(json.dumps(backbone.architecture))).eval()
    again.load_state_dict(backbone.state_dict(), strict=True)
    images = torch.randn(1, 3, *SIZE)
    assert all(torch.equal(*pair) for pair in zip(backbone(images), again(images), strict=True))


def test_the_simple_neck_is_of_the_published_width() -> None:
    assert backbone_of("vit", "simple").channels == (256,) * 4


def test_levels_go_from_the_bottom_at_the_finest_to_the_top_at_the_coarsest_map() -> None:
    """Each map hears of its own level only: three levels here, the third one twice."""
    neck = backbone_of("revcolv2", "levels").neck
    levels = [torch.randn(1, 24, 4, 4) for _ in range(3)]
    before = neck(tuple(levels))
    for level, heard in ((0, [0]), (1, [1]), (2, [2, 3])):
        moved = [one + (index == level) * torch.randn_like(one) for index, one in enumerate(levels)]
        after = neck(tuple(moved))
        assert [scale for scale in range(4) if not torch.equal(before[scale], after[scale])] == heard


def test_joined_maps_are_the_levels_and_the_scales_side_by_side() -> None:
    backbone = backbone_of("hivit", "joined").eval()
    images = torch.randn(1, 3, *SIZE)
    own = backbone.encoder.pyramid(images)
    fine = backbone(images)[0]
    assert backbone.channels == (16 + 12, 16 + 24, 16 + 48, 16 + 48)
    assert torch.equal(fine[:, :16], backbone.neck.pyramid.maps(own)[0]) and torch.equal(fine[:, 16:], own[0])


def test_pooling_counts_the_places_that_there_are() -> None:
    x = torch.tensor([[1.0, 3.0, 5.0], [3.0, 5.0, 7.0], [1.0, 2.0, 9.0]])[None, None]
    assert coarser(x, "mean")[0, 0].tolist() == [[3.0, 6.0], [1.5, 9.0]]
    assert coarser(x, "max")[0, 0].tolist() == [[5.0, 7.0], [2.0, 9.0]]


@pytest.mark.parametrize(
    ("name", "neck", "message"),
    [
        ("vit", "native", "no scales of its own; use neck=simple"),
        ("revcolv2", "native", "use neck=levels"),
        ("revcolv2", "deconvolution", "for plain ViTs"),
        ("swin", "deconvolution", "use neck=native"),
        ("revcolv2", "simple", "do not lead there; use neck=levels"),
        ("swin", "simple", "four scales of their own"),
        ("vit", "levels", "needs a RevColV2"),
        ("vit", "pretrained", "trained together"),
        ("vit", "fpn", "possible are auto, simple"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, neck: NeckName, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone_of(name, neck)


def test_a_pyramid_of_another_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="backbone of width 64, not with this HiViT of width 48"):
        create_backbone(tiny_encoder("hivit"), pyramid=Pyramid(64, width=16))


def test_patches_that_cannot_be_quartered_are_refused() -> None:
    encoder = create_encoder(
        "vit_tiny_patch16_224", image_size=(56, 56), patch_size=14, embed_dim=48, depth=1, num_heads=3
    )
    with pytest.raises(ValueError, match="a multiple of 4 pixels"):
        create_backbone(encoder)
