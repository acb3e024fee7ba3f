"""HiViT by itself: sizes, units that do not see each other, what relative positions of zero change."""

import pytest
import timm
import torch

import unmask.encoders.hivit as hivit
from tests.tiny import tiny_encoder
from unmask.encoders import require_dropping
from unmask.encoders.units import as_map
from unmask.masking import Mask, RandomMask

SMALL = {"embed_dim": 48, "depths": (1, 1, 2), "num_heads": 3}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hivit_tiny_patch16_224", 19_181_668),
        ("hivit_small_patch16_224", 37_526_464),
        ("hivit_base_patch16_224", 66_418_952),
        ("itpn_base_patch16_224", 78_557_992),
        ("itpn_large_patch16_224", 288_493_576),
    ],
)
def test_parameter_counts_of_the_official_code(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, rel_pos=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_zero_tables_change_nothing() -> None:
    torch.manual_seed(0)
    plain = hivit.HiViT(img_size=64, num_classes=5, **SMALL).eval()
    biased = hivit.HiViT(img_size=64, num_classes=5, rel_pos=True, **SMALL).eval()
    biased.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(biased(images), plain(images))


def test_the_fine_scales_of_a_unit_see_only_its_pixels() -> None:
    encoder = require_dropping(tiny_encoder("hivit"), by="this test").eval()
    images = torch.randn(1, 3, 64, 64)
    mask = RandomMask(ratio=0.5)(1, encoder.grid)
    changed = torch.where(mask.pixels(encoder.patch_size), -images, images)
    before, after = encoder.visible(images, mask).pyramid, encoder.visible(changed, mask).pyramid
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    whole = encoder(images).pyramid[0]
    everything = encoder.visible(images, Mask.of(torch.zeros_like(mask.hidden), encoder.grid, 0)).pyramid[0]
    units = everything.unflatten(2, (4, 4)).squeeze(0)  # [N, 4, 4, C]
    torch.testing.assert_close(as_map(units[None], encoder.grid), whole)


def test_relative_positions_follow_the_patches_that_are_left() -> None:
    """A full pass in which hidden patches are cut out of the attention by hand gives the same."""
    encoder = require_dropping(tiny_encoder("hivit_bias", image_size=(64, 96)), by="this test").eval()
    for block in encoder.model.attention_blocks:
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
    images = torch.randn(2, 3, 64, 96)
    mask = RandomMask(ratio=0.5)(2, encoder.grid)
    seen = encoder.visible(images, mask).patches
    for image, row, expected in zip(images, mask.visible_index, seen, strict=True):
        *_, tokens = encoder.model.stem(encoder.model.units(image[None])[:, row])
        tokens = tokens + encoder.model.pos_embed[:, row]
        for block in encoder.model.attention_blocks:
            tokens = block(tokens, encoder.model.positions[row][:, row])
        torch.testing.assert_close(tokens[0], expected)


def test_it_is_an_ordinary_timm_model() -> None:
    model = timm.create_model("hivit_tiny_patch16_224", img_size=64, num_classes=7, **SMALL).eval()
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 7)
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, 48)
    tokens, maps = model.forward_intermediates(images)
    assert [tuple(level.shape[1:]) for level in maps] == [(12, 16, 16), (24, 8, 8), (48, 4, 4)]
    assert torch.equal(tokens, model.forward_features(images))
    model.reset_classifier(3)
    assert model(images).shape == (2, 3) and "hivit_base_patch16_224" in timm.list_models("hivit*")
