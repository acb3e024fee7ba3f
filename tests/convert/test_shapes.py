"""Architectures from the shapes of weights: the published sizes by name, others as options."""

from typing import Any

import pytest
import timm
import torch

from tests.convert.official import case, weights
from unmask.convert.shapes import shape_of

PUBLISHED = [
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "vit_huge_patch14_224",
    "vit_tiny_patch16_224",
    "swin_base_patch4_window7_224",
    "swin_tiny_patch4_window7_224",
    "swin_large_patch4_window7_224",
    "swinv2_base_window12_192",
    "swinv2_small_window8_256",
    "beit_base_patch16_224",
    "beit_large_patch16_224",
]
TOLD = {"window_size", "use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias", "init"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_known_by_name(name: str) -> None:
    with torch.device("meta"):  # shapes only
        model = timm.create_model(name, num_classes=0)
    state = model.state_dict()
    if "pos_embed" in state:
        state["pos_embed"] = torch.zeros(state["pos_embed"].shape)
    found = shape_of(state)
    assert found is not None and found.encoder.name == name
    assert found.encoder.options.keys() <= TOLD
    if "swinv2" in name:  # whose window is in no weight
        assert set(found.guessed) == {"encoder.window_size", "data.image_size"}
    else:
        assert found.image_size == (224, 224)
        assert set(found.guessed) == ({"data.image_size"} if "swin" in name else set())


@pytest.mark.parametrize("name", ["mae_vit", "simmim_vit", "simmim_swin", "simmim_swinv2"])
def test_sizes_of_the_fixtures(name: str) -> None:
    spec = case(name)["info"]["constructor"]
    inner = {key.removeprefix("encoder."): value for key, value in weights(name).items()}
    found = shape_of(inner)
    assert found is not None
    assert found.image_size == (spec["image_size"],) * 2 and found.channels == spec["in_channels"]
    built: dict[str, Any] = {"patch_size": 4 if "swin" in name else 16, **found.encoder.options}
    expected = {"embed_dim": spec["width"], "patch_size": spec["patch_size"]}
    if "swin" in name:
        expected |= {"depths": spec["depths"], "num_heads": spec["heads"], "window_size": spec["window"]}
        assert not found.guessed
    else:
        expected["depth"] = spec["depth"]
    assert {key: built[key] for key in expected} == expected
    if name == "mae_vit":
        assert built["position"] == "sincos" and set(found.guessed) == {"encoder.num_heads"}


def test_a_fixed_table_is_told_from_a_learned_one() -> None:
    changed = weights("mae_vit")
    changed["pos_embed"] = changed["pos_embed"] + 0.01
    found = shape_of(changed)
    assert found is not None and "position" not in found.encoder.options


def test_a_swinv2_that_was_trained_with_another_window() -> None:
    """Coordinates are a share of the window of the pre-training; 16 pixels of window 8 reach beyond it."""
    name, sizes = "swinv2_tiny_window8_256", {"img_size": 128, "window_size": 16}
    model = timm.create_model(name, num_classes=0, pretrained_window_sizes=(8, 8, 8, 4), **sizes)
    buffers = dict(model.named_buffers())
    state = model.state_dict() | {
        key: buffers[key] for key in buffers if key.endswith("relative_coords_table")
    }
    found = shape_of(state)
    assert found is not None
    # Stages of 32, 16, 8 and 4 patches: the last two have their whole map as a window.
    assert found.encoder.options["window_size"] == 16 and found.image_size == (128, 128)
    assert found.encoder.options["pretrained_window_sizes"] == [8, 8, 0, 0]


def test_what_is_no_encoder() -> None:
    assert shape_of({"conv1.weight": torch.zeros(3, 3, 3, 3)}) is None
    assert shape_of({"patch_embed.proj.weight": torch.zeros(3, 3, 3, 3)}) is None
    oblong = weights("mae_vit") | {"pos_embed": torch.zeros(1, 1 + 6, 32)}
    with pytest.raises(ValueError, match="no square image"):
        shape_of(oblong)
