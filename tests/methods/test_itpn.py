"""iTPN: the pyramid keeps units apart, its teacher is a moving average, its parts have the official sizes."""

import pytest
import timm
import torch

from tests.tiny import tiny_encoder, tiny_method
from unmask.encoders.hivit_encoder import HiViTEncoder, require_units
from unmask.encoders.itpn import Pyramid, PyramidBlock
from unmask.encoders.units import as_units
from unmask.masking import Mask, RandomMask
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
    nothing = Mask.of(torch.zeros(1, 4, dtype=torch.bool), (2, 2), 0)
    before = pyramid(scales, nothing)
    for scale in scales:
        scale[:, 0] += 1
    for level, after in zip(before, pyramid(scales, nothing), strict=True):
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


def test_without_pyramid_and_features_it_is_mae_on_a_hivit() -> None:
    torch.manual_seed(0)
    mae = tiny_method("mae", "hivit")
    sizes = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    itpn = ITPN(tiny_encoder("hivit"), neck="none", feature_weight=0.0, **sizes)
    itpn.load_state_dict(mae.state_dict(), strict=True)
    mask = RandomMask(ratio=0.75)(2, mae.encoder.grid)
    losses = [method(images(), mask=mask)["loss"] for method in (mae, itpn)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    pairs = zip(mae.parameters(), itpn.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None)
    assert torch.equal(mae.reconstruct(images(), mask), itpn.reconstruct(images(), mask))
    assert itpn.feature_pyramid is None


def test_a_pyramid_of_convolutions_lets_units_see_each_other() -> None:
    pyramid = Pyramid(48, width=16, depth=1, block="convolution")
    scales = [torch.randn(1, 4, positions, 48 // share) for positions, share in ((16, 4), (4, 2), (1, 1))]
    hidden = torch.zeros(1, 8, dtype=torch.bool)
    hidden[:, [2, 3, 6, 7]] = True  # the right half of 2 x 4 units
    mask = Mask.of(hidden, (2, 4), 4)
    before = pyramid(scales, mask)
    scales[0][:, 0] += torch.randn(16, 12)
    after = pyramid(scales, mask)
    assert not torch.equal(before[0][:, 1], after[0][:, 1])
    assert all(torch.equal(*pair) for pair in zip(before[1:], after[1:], strict=True))
    # Hidden units are zero: the same as if nothing were there.
    nothing = Mask.of(torch.zeros(1, 4, dtype=torch.bool), (2, 2), 0)
    for level, narrow in zip(after, pyramid(scales, nothing), strict=True):
        torch.testing.assert_close(level, narrow)


@pytest.mark.parametrize("block", ["mlp", "convolution"])
def test_maps_of_the_pyramid_are_those_of_its_units(block: PyramidBlock) -> None:
    encoder = require_units(tiny_encoder("hivit", image_size=(64, 96)), by="this test").eval()
    pyramid = Pyramid(48, width=16, depth=1, block=block)
    features = encoder(torch.randn(2, 3, 64, 96))
    maps = pyramid.maps(features.pyramid)
    assert [tuple(level.shape[1:]) for level in maps] == [(16, 16, 24), (16, 8, 12), (16, 4, 6)]
    levels = pyramid.whole(features.pyramid)
    for level, units in zip(maps, levels, strict=True):
        assert torch.equal(as_units(level, encoder.grid).flatten(2, 3), units)


def test_shifted_positions_are_the_methods_and_leave_the_encoder_alone() -> None:
    torch.manual_seed(0)
    method = tiny_method("itpn", "hivit").eval()
    mask = RandomMask(ratio=0.75)(2, method.encoder.grid)
    plain, before = method(images(), mask=mask)["loss"], method.encoder.visible(images(), mask).patches
    method.shifted_positions = True
    assert method(images(), mask=mask)["loss"] != plain
    assert torch.equal(method.encoder.visible(images(), mask).patches, before)


def test_only_a_backbone_that_keeps_units_apart() -> None:
    with pytest.raises(ValueError, match="hivit_tiny"):
        ITPN(tiny_encoder("vit"))
