"""RevColV2: what its losses are made of, what learns from them, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import COLUMNS, tiny_encoder, tiny_method, tiny_teacher, views_of
from unmask.encoders import create_encoder
from unmask.masking import RandomMask
from unmask.methods import MAE, RevColV2, SimMIM
from unmask.recipes import SMALL
from unmask.recipes.build import build_method


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_pixels_are_scored_as_in_mae() -> None:
    """The same prediction has the same loss in both."""
    method = tiny_method("revcolv2", "revcolv2")
    mask = RandomMask(ratio=0.75)(2, method.encoder.grid)
    mae = MAE(tiny_encoder("vit"))
    assert torch.equal(method.loss_of(-images(), images(), mask), mae.loss_of(-images(), images(), mask))
    prediction = method.pixel_head(method.encoder.complete(images(), mask, method.tokens)[0])
    expected = mask.mean((prediction - method.pixels.encode(images())).square().mean(-1))
    torch.testing.assert_close(method(images(), mask=mask)["loss"], expected)


@pytest.mark.parametrize("scope", ["hidden", "all"])
def test_features_are_predicted_from_the_top_level(scope: str) -> None:
    torch.manual_seed(0)
    encoder = tiny_encoder("revcolv2")
    method = RevColV2(encoder, teacher=tiny_teacher(encoder), feature_weight=0.5, feature_scope=scope)
    mask = method.draw(images())
    views = views_of(method, images())
    losses = method(**views, mask=mask)
    levels = method.encoder.complete(images(), mask, method.tokens)
    patches = method.teacher(views["teacher_images"]).patches
    target = (patches - patches.mean(-1, keepdim=True)) / (
        patches.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    each = F.smooth_l1_loss(method.feature_head(levels[-1]), target, reduction="none").mean(-1)
    expected = mask.mean(each) if scope == "hidden" else each.mean()
    torch.testing.assert_close(losses["features"], expected)
    torch.testing.assert_close(losses["loss"], losses["pixels"] + 0.5 * losses["features"])
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_pixels_alone_train_every_block_factor_and_token() -> None:
    method = tiny_method("revcolv2", "revcolv2")
    method(images())["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert (method.mask_tokens.grad.flatten(1).abs().sum(1) > 0).all()


def test_one_token_for_all_levels_has_the_sum_of_their_gradients() -> None:
    method = tiny_method("revcolv2", "revcolv2")
    shared = RevColV2(method.encoder, shared_token=True)
    shared.pixel_head.load_state_dict(method.pixel_head.state_dict())
    with torch.no_grad():
        method.mask_tokens.copy_(shared.mask_tokens.expand_as(method.mask_tokens))
    mask = method.draw(images())
    found = [
        torch.autograd.grad(one(images(), mask=mask)["loss"], one.mask_tokens)[0] for one in (shared, method)
    ]
    torch.testing.assert_close(found[0], found[1].sum(0, keepdim=True))


def test_what_cannot_learn_is_refused() -> None:
    down, up = tiny_encoder("revcolv2"), tiny_encoder("revcolv2_up")
    with pytest.raises(ValueError, match="got a VisionTransformer"):
        RevColV2(tiny_encoder("vit"))
    with pytest.raises(ValueError, match=r"decoder_order=down, or a method\.teacher"):
        RevColV2(up)
    with pytest.raises(ValueError, match="give one too"):
        RevColV2(down, feature_weight=0.5)
    with pytest.raises(ValueError, match="8 x 12 features and the encoder 8 x 8"):
        RevColV2(down, teacher=tiny_teacher(tiny_encoder("revcolv2", image_size=(64, 96))))
    assert down.idle == sum(one.numel() for one in down.model.down[0].levels[1:].parameters())
    assert up.idle == 0


@pytest.mark.parametrize("name", ["simmim", "beit", "peco", "cae"])
def test_methods_that_use_one_output_refuse_idle_levels(name: str) -> None:
    with pytest.raises(ValueError, match=r"uses only the top level.*encoder\.output=all"):
        tiny_method(name, "revcolv2")


def test_simmim_trains_all_levels_side_by_side() -> None:
    encoder = create_encoder("revcolv2_base_patch16_224", image_size=(64, 64), output="all", **COLUMNS)
    method = SimMIM(encoder, mask_size=16)
    assert encoder.dim == 3 * 24 and encoder.idle == 0
    method(images())["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_recipe_for_small_data_has_reversible_columns_both_ways() -> None:
    method = build_method(SMALL["revcolv2"]())
    assert method.encoder.grid == (8, 8)
    assert len(method.encoder.model.up) == 2 and len(method.encoder.model.down) == 1
