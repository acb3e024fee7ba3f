"""Fast-iTPN by itself: sizes, units that do not see each other, other image sizes."""

import pytest
import timm
import torch

from tests.tiny import tiny_encoder
from unmask.encoders import require_dropping
from unmask.encoders.units import as_map, as_units
from unmask.masking import Mask, RandomMask


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("fast_itpn_tiny_patch16_224", 24_219_976),
        ("fast_itpn_small_patch16_224", 39_902_920),
        ("fast_itpn_base_patch16_224", 84_825_192),
        ("fast_itpn_large_patch16_224", 312_017_320),
    ],
)
def test_parameter_counts_of_the_official_code(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_fine_scales_of_a_unit_see_only_its_pixels() -> None:
    encoder = require_dropping(tiny_encoder("fast_itpn"), by="this test").eval()
    images = torch.randn(1, 3, 64, 64)
    mask = RandomMask(ratio=0.5)(1, encoder.grid)
    changed = torch.where(mask.pixels(encoder.patch_size), -images, images)
    before, after = encoder.visible(images, mask), encoder.visible(changed, mask)
    assert all(torch.equal(*pair) for pair in zip(before.pyramid, after.pyramid, strict=True))
    everything = Mask.of(torch.zeros_like(mask.hidden), encoder.grid, 0)
    units, whole = encoder.visible(images, everything).pyramid, encoder(images).pyramid
    for part, scale in zip(units, whole, strict=True):
        torch.testing.assert_close(as_units(scale, encoder.grid).flatten(2, 3), part)


@pytest.mark.parametrize("name", ["fast_itpn", "hivit_bias"])
def test_another_image_size_keeps_what_is_known_of_positions(name: str) -> None:
    encoder = tiny_encoder(name).eval()
    model, images = encoder.model, torch.randn(1, 3, 64, 96)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_input_size(img_size=(64, 96))
    assert model.grid == (4, 6) and model.forward_features(images).shape == (1, 24, 48)
    wide, square = as_map(model.pos_embed, (4, 6)), as_map(before["pos_embed"], (4, 4))
    alike = torch.nn.functional.cosine_similarity(wide.mean(3).flatten(), square.mean(3).flatten(), dim=0)
    assert alike > 0.9
    model.set_input_size(img_size=(64, 96))  # nothing to change
    assert torch.equal(as_map(model.pos_embed, (4, 6)), wide)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if "pos" not in key)
