"""iTPN: the pyramid keeps units apart, its teacher is a moving average, its parts have the official sizes."""

import pytest
import timm
import torch

from tests.tiny import tiny_encoder, tiny_method
from unmask.encoders.hivit_encoder import HiViTEncoder
from unmask.encoders.itpn import Pyramid
from unmask.masking import RandomMask
from unmask.methods import ITPN


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("dim", "depth", "parameters"),
    [(512, 1, 3_648_000), (512, 2, 4_700_160), (768, 1, 4_025_344), (768, 2, 5_077_504)],
)
def test_the_pyramid_has_the_official_size(dim: int, depth: int, parameters: int) -> None:
    with torch.device("meta"):
        pyramid = Pyramid(dim, depth=depth)
    assert sum(parameter.numel() for parameter in pyramid.parameters()) == parameters


@pytest.mark.slow
def test_the_released_model_has_its_size() -> None:
    model = timm.create_model("itpn_base_patch16_224", num_classes=0)
    method = ITPN(HiViTEncoder(model, architecture={}), feature_weight=0.0)
    assert sum(parameter.numel() for parameter in method.parameters()) == 108_392_992


def test_a_level_of_a_unit_depends_on_the_other_units_through_the_coarsest_scale_only() -> None:
    pyramid = Pyramid(48, width=16, depth=1)
    scales = [torch.randn(1, 4, positions, 48 // share) for positions, share in ((16, 4), (4, 2), (1, 1))]
    before = pyramid(scales)
    for scale in scales:
        scale[:, 0] += 1
    for level, after in zip(before, pyramid(scales), strict=True):
        assert torch.equal(level[:, 1:], after[:, 1:]) and not torch.equal(level[:, 0], after[:, 0])


def test_without_features_the_loss_is_that_of_pixels() -> None:
    torch.manual_seed(0)
    method = tiny_method("itpn", "hivit")
    mask = RandomMask(ratio=0.75)(2, method.encoder.grid)
    losses = method(images(), mask=mask)
    torch.testing.assert_close(losses["loss"], losses["pixels"] + 0.3 * losses["features"])
    pixels_only = ITPN(
        method.encoder,
        pyramid_dim=16,
        pyramid_depth=1,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=2,
        feature_weight=0.0,
    )
    pixels_only.load_state_dict(method.state_dict(), strict=False)
    alone = pixels_only(images(), mask=mask)
    assert set(alone) == {"loss"}
    torch.testing.assert_close(alone["loss"], losses["pixels"])


def test_the_teacher_follows_by_its_momentum_and_is_never_trained() -> None:
    method = tiny_method("itpn", "hivit").train()
    assert method.teacher is not None and not method.teacher.training
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    method(images())["loss"].backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter += 1.0
    method.after_step(1, 10)
    for old, new in zip(before, method.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + (1 - 0.996) * 1.0)


def test_the_teacher_sees_only_what_is_hidden() -> None:
    method = tiny_method("itpn", "hivit").eval()
    mask = RandomMask(ratio=0.5)(2, method.encoder.grid)
    hidden = mask.pixels(method.encoder.patch_size)
    targets = method.feature_targets(images(), mask)
    same = method.feature_targets(torch.where(hidden, images(), -images()), mask)
    assert all(torch.equal(*pair) for pair in zip(targets, same, strict=True))
    assert [target.shape[-1] for target in targets] == [16 * 12, 4 * 24, 48]


def test_only_a_backbone_that_keeps_units_apart() -> None:
    with pytest.raises(ValueError, match="hivit_tiny"):
        ITPN(tiny_encoder("vit"))
