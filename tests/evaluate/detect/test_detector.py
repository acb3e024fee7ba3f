"""Any encoder becomes a detector whose every weight learns."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from tests.evaluate.detect.made import SMALL, tiny_detector
from tests.tiny import tiny_encoder
from unmask.encoders.itpn import Pyramid
from unmask.evaluate.detect.cascade import CascadeHeads
from unmask.evaluate.detect.detector import Detector, Heads, total
from unmask.load import resized

SIZES = [(48, 64), (64, 40)]


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def targets(*, masks: bool) -> list[dict[str, Tensor]]:
    boxes = [torch.tensor([[8.0, 8, 40, 40], [30, 10, 60, 30]]), torch.zeros(0, 4)]
    found = [{"boxes": own, "labels": torch.arange(len(own)) + 1} for own in boxes]
    if masks:
        for own in found:
            own["masks"] = torch.zeros(len(own["boxes"]), 64, 64, dtype=torch.uint8)
            own["masks"][:, 10:30, 10:40] = 1
    return found


@pytest.mark.parametrize("kind", ["single", "cascade"])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("encoder", ["vit", "beit_shared", "swin", "hivit", "revcolv2"])
def test_losses_reach_every_weight_and_detections_lie_on_the_picture(
    encoder: str, masks: bool, kind: str
) -> None:
    detector = tiny_detector(encoder, masks=masks, kind=kind).train()
    found, losses = detector(images(), SIZES, targets(masks=masks))
    assert found == []
    names = {"loss_objectness", "loss_rpn_box_reg"} | ({"loss_mask"} if masks else set())
    stages = ("_1", "_2", "_3") if kind == "cascade" else ("",)
    names |= {f"{name}{stage}" for name in ("loss_classifier", "loss_box_reg") for stage in stages}
    assert set(losses) == names
    total(losses).backward()
    without = [
        name for name, value in detector.named_parameters() if value.requires_grad and value.grad is None
    ]
    assert without == []

    with torch.no_grad():
        found, losses = detector.eval()(images(), SIZES)
    assert losses == {}
    for own, (height, width) in zip(found, SIZES, strict=True):
        assert len(own["boxes"]) > 0
        assert own["boxes"].min() >= 0
        assert own["boxes"][:, 2].max() <= width
        assert own["boxes"][:, 3].max() <= height
        assert own["labels"].min() >= 1
        assert own["labels"].max() <= 2
        assert (own["scores"].diff() <= 0).all()
        assert ("masks" in own) == masks
        if masks:
            assert own["masks"].shape[1:] == (1, 28, 28)


def test_parts_are_those_of_vitdet() -> None:
    detector = Detector(tiny_encoder("vit"), Heads(), classes=3, masks=True)
    assert len(detector.proposals.head.conv) == 2
    kinds = [type(layer).__name__ for layer in detector.heads.box_head.modules()]
    assert (kinds.count("Conv2d"), kinds.count("LayerNorm2d"), kinds.count("Linear")) == (4, 4, 1)
    kinds = [type(layer).__name__ for layer in detector.heads.mask_head.modules()]
    assert (kinds.count("Conv2d"), kinds.count("LayerNorm2d")) == (4, 4)
    assert detector.heads.box_predictor.cls_score.in_features == 1024
    assert detector.backbone.neck_name == "simple"
    assert set(detector.backbone.channels) == {256}
    assert isinstance(tiny_detector(kind="cascade").heads, CascadeHeads)


def test_maps_and_anchors() -> None:
    """Patches of 8: strides 2, 4, 8, 16 and the pooled 32; anchors of four strides."""
    detector = tiny_detector(levels=(0, 1, 2, 3))
    maps = detector.levels(images())
    assert {name: tuple(one.shape) for name, one in maps.items()} == {
        "0": (2, 16, 32, 32),
        "1": (2, 16, 16, 16),
        "2": (2, 16, 8, 8),
        "3": (2, 16, 4, 4),
        "pool": (2, 16, 2, 2),
    }
    assert torch.equal(maps["pool"], maps["3"][..., ::2, ::2])
    assert detector.proposals.anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    coarse = tiny_detector()  # what is finer than 4 pixels is left out
    assert list(coarse.levels(images())) == ["1", "2", "3", "pool"]
    assert coarse.proposals.anchor_generator.sizes == ((16,), (32,), (64,), (128,))


@pytest.mark.parametrize("size", [(144, 192), (208, 208)])
def test_anchors_lie_at_the_strides_of_their_maps(size: tuple[int, int]) -> None:
    """Where a side is no multiple of the coarsest stride: the last places cover the canvas in part."""
    torch.manual_seed(0)
    encoder = resized(tiny_encoder("vit"), size)
    detector = Detector(encoder, Heads(**SMALL), classes=2, masks=False)
    canvas = torch.randn(1, 3, *size)
    maps = list(detector.levels(canvas).values())
    (boxes,) = detector.proposals.anchor_generator(ImageList(canvas, [size]), maps)
    for own, values, stride in zip(
        boxes.split([3 * values.shape[-2] * values.shape[-1] for values in maps]),
        maps,
        (4, 8, 16, 32),
        strict=True,
    ):
        height, width = values.shape[-2:]
        assert (height, width) == (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        first, last = own[0], own[-3]
        assert (first[:2] + first[2:]).tolist() == [0, 0]  # twice the middle
        assert ((last[:2] + last[2:]) / 2).tolist() == [(width - 1) * stride, (height - 1) * stride]


def test_what_only_unused_maps_need_does_not_wait_for_gradients() -> None:
    detector = tiny_detector(levels=(1, 2, 3)).train()
    frozen = {name for name, value in detector.backbone.named_parameters() if not value.requires_grad}
    assert any("finest" in name for name in frozen)
    assert not any(name.startswith("encoder.model.blocks") for name in frozen)
    total(detector(images(), SIZES, targets(masks=False))[1]).backward()
    trained = [value for value in detector.parameters() if value.requires_grad]
    assert all(value.grad is not None for value in trained)


@pytest.mark.parametrize(
    ("encoder", "top_down"), [("vit", False), ("swin", True), ("hivit", True), ("revcolv2", True)]
)
def test_maps_that_do_not_know_each_other_go_top_down(encoder: str, top_down: bool) -> None:
    assert (tiny_detector(encoder).levels.network is not None) == top_down
    assert (tiny_detector(encoder, top_down=not top_down).levels.network is not None) != top_down


def test_the_pretrained_pyramid_is_used_as_it_is() -> None:
    """iTPN: the neck that was trained with the encoder makes the maps; `neck=native` is the ablation."""
    torch.manual_seed(0)
    encoder = tiny_encoder("hivit").eval()
    pyramid = Pyramid(encoder.dim, width=16, depth=1).eval()
    given = images()
    with torch.no_grad():
        expected = pyramid.maps(encoder.pyramid(given))
        detector = Detector(encoder, Heads(**SMALL), classes=1, masks=False, pyramid=pyramid).eval()
        maps = detector.levels(given)
    assert detector.backbone.neck_name == "pretrained"
    assert all(torch.equal(maps[str(level)], one) for level, one in enumerate(expected))
    native = Detector(encoder, Heads(**SMALL, neck="native"), classes=1, masks=False, pyramid=pyramid)
    assert native.backbone.neck_name == "native"


def test_windows_go_around_the_encoder() -> None:
    detector = tiny_detector(window=4, global_blocks=1)
    plain = tiny_detector()
    assert list(detector.state_dict()) == list(plain.state_dict())
    assert not torch.allclose(detector.levels(images())["2"], plain.levels(images())["2"])


def test_places_are_exact_in_half_precision() -> None:
    """Only what networks compute is rounded: anchors and boxes are counted in float32."""
    detector = tiny_detector(masks=True).train()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = detector(images(), SIZES, targets(masks=True))
        found, _ = detector.eval()(images(), SIZES)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(value.dtype == torch.float32 for value in (found[0]["boxes"], found[0]["scores"]))
    assert detector.proposals.anchor_generator.cell_anchors[0].dtype == torch.float32


def test_what_is_drawn_follows_the_default_generator() -> None:
    """The loop seeds it for every step: the same boxes are sampled after a resume."""

    def losses() -> dict[str, Tensor]:
        torch.manual_seed(7)
        return detector(images(), SIZES, targets(masks=False))[1]

    detector = tiny_detector().train()
    first, second = losses(), losses()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ("vit", {"levels": ()}, "must name some of the maps"),
        ("vit", {"levels": (2, 1)}, "from fine to coarse"),
        ("swin", {"window": 4}, "for plain ViTs"),
        ("vit", {"neck": "pretrained"}, "here is none"),
        ("swin", {"neck": "simple"}, "four scales of their own"),
    ],
)
def test_messages(encoder: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_detector(encoder, **options)


def test_anchors_have_an_area() -> None:
    with pytest.raises(ValueError, match=r"anchor_scale=0.3 .* have no area"):
        tiny_detector(anchor_scale=0.3)
    with pytest.raises(ValueError, match="anchor_ratios"):
        tiny_detector(anchor_ratios=())
