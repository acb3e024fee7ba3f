"""RevCol and the backbone of RevColV2: sizes, order of levels, what features depend on, ways of timm."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models import group_parameters

from tests.tiny import tiny_encoder
from unmask import load_encoder
from unmask.encoders import create_encoder
from unmask.encoders.revcol import RevCol
from unmask.encoders.revcolv2 import RevColViT
from unmask.encoders.revcolv2_encoder import RevColViTEncoder
from unmask.errors import UserError
from unmask.export import export, save_encoder
from unmask.masking import Mask, RandomMask

SMALL = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "num_heads": 3}


def columns(**options: object) -> RevColViTEncoder:
    encoder = create_encoder(
        "revcolv2_base_patch16_224",
        image_size=(64, 64),
        **{"patch_size": 8, "embed_dim": 24, "num_heads": 3, **options},
    )
    assert isinstance(encoder, RevColViTEncoder)
    return encoder.eval()


@pytest.mark.parametrize(
    ("name", "official", "width"),
    [
        ("revcol_tiny", 30_456_168, 64 + 128 + 256 + 512),
        ("revcol_small", 60_568_424, 64 + 128 + 256 + 512),
        ("revcol_base", 138_616_408, 72 + 144 + 288 + 576),
    ],
)
def test_parameters_of_the_official_code(name: str, official: int, width: int) -> None:
    """But for the factors of the first column, which multiply zeros there."""
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == official - width


@pytest.mark.parametrize(
    ("name", "parameters", "published"),
    [("revcolv2_base_patch16_224", 86_514_280, 88e6), ("revcolv2_large_patch16_224", 329_414_632, 327e6)],
)
def test_parameters_of_the_paper_as_far_as_they_are_known(
    name: str, parameters: int, published: float
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == parameters and abs(count / published - 1) < 0.02


@pytest.mark.parametrize(
    ("down", "order", "idle"), [(2, "down", 5), (1, "down", 3), (4, "down", 6), (2, "up", 0), (0, "down", 0)]
)
def test_what_the_top_level_does_not_need(down: int, order: str, idle: int) -> None:
    """Exactly the blocks that are said to be idle get no gradient from features."""
    model = RevColViT(**SMALL, num_classes=0, down_columns=down, decoder_order=order)
    model.forward_features(torch.randn(1, 3, 64, 64)).square().mean().backward()
    without = [
        level
        for column in (*model.up, *model.down)
        for level in column.levels
        if all(parameter.grad is None for parameter in level.parameters())
    ]
    assert len(without) == idle and without == model.idle_blocks


def test_only_the_top_level_costs_less_and_is_the_same() -> None:
    model = RevColViT(**SMALL, num_classes=0).eval()
    images = torch.randn(2, 3, 64, 64)
    ran: list[object] = []
    for column in (*model.up, *model.down):
        for level in column.levels:
            level.register_forward_hook(lambda module, _inputs, _output: ran.append(module))
    features = model.forward_features(images)
    assert len(ran) == 16 - 5
    tokens, maps = model.forward_intermediates(images)
    torch.testing.assert_close(features, tokens)
    torch.testing.assert_close(maps[-1].flatten(2).mT, tokens)


def test_all_levels_side_by_side() -> None:
    model = RevColViT(**SMALL, num_classes=5, output="all").eval()
    images = torch.randn(2, 3, 64, 64)
    tokens, maps = model.forward_intermediates(images)
    assert model.num_features == tokens.shape[2] == 4 * 24 and model(images).shape == (2, 5)
    torch.testing.assert_close(tokens, torch.cat([level.flatten(2).mT for level in maps], dim=2))
    assert model.idle_blocks == []


def test_hidden_pixels_do_not_reach_the_columns() -> None:
    encoder = columns()
    images = torch.randn(2, 3, 64, 64)
    mask = RandomMask(ratio=0.75)(2, encoder.grid)
    other = torch.where(mask.pixels(8), torch.randn_like(images), images)
    tokens = list(torch.randn(4, 1, 1, 24))
    for before, after in zip(
        encoder.complete(images, mask, tokens), encoder.complete(other, mask, tokens), strict=True
    ):
        assert torch.equal(before, after)


def test_without_hidden_patches_pretraining_computes_the_features() -> None:
    encoder = columns()
    images = torch.randn(2, 3, 64, 64)
    nothing = Mask.of(torch.zeros(2, 64, dtype=torch.bool), encoder.grid, 0)
    levels = encoder.complete(images, nothing, list(torch.randn(4, 1, 1, 24)))
    features = encoder(images)
    torch.testing.assert_close(levels[-1], features.patches)
    for level, scale in zip(levels, features.pyramid, strict=True):
        torch.testing.assert_close(level, scale.flatten(2).mT)


@pytest.mark.parametrize("level", range(4))
def test_the_token_of_every_level_reaches_the_pixels(level: int) -> None:
    encoder = columns()
    images = torch.randn(1, 3, 64, 64)
    mask = RandomMask(ratio=0.5)(1, encoder.grid)
    tokens = list(torch.randn(4, 1, 1, 24))
    before = encoder.complete(images, mask, tokens)[0]
    tokens[level] = tokens[level] + 1
    assert not torch.allclose(before, encoder.complete(images, mask, tokens)[0])


@pytest.mark.parametrize("name", ["revcol_tiny", "revcolv2_base_patch16_224"])
def test_they_are_ordinary_timm_models(name: str) -> None:
    small = {"widths": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "img_size": 64}
    model = timm.create_model(name, num_classes=7, **(small if name == "revcol_tiny" else SMALL)).eval()
    images = torch.randn(2, 3, 64, 64)
    features = model.forward_features(images)
    assert model(images).shape == (2, 7)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    tokens, maps = model.forward_intermediates(images)
    torch.testing.assert_close(tokens, features)
    described = [(info["num_chs"], 64 // info["reduction"]) for info in model.feature_info]
    assert described == [(level.shape[1], level.shape[2]) for level in maps]
    model.set_input_size((96, 64))
    assert model(torch.randn(1, 3, 96, 64)).shape == (1, 7)
    with pytest.raises(ValueError, match="multiples of"):
        model.set_input_size((63, 64))
    model.reset_classifier(3)
    assert model(torch.randn(1, 3, 96, 64)).shape == (1, 3)
    assert model.head.in_features == model.num_features and name in timm.list_models("revcol*")


def test_learning_rates_can_decay_block_by_block() -> None:
    """Layers from the stem to the classifier, in the order in which they are computed."""
    model = RevColViT(**SMALL)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    blocks = [
        f"{half}.{column}.levels.{level}."
        for half in ("up", "down")
        for column in (0, 1)
        for level in range(4)
    ]
    for number, block in enumerate(blocks, start=1):
        found = {layer for name, layer in groups.items() if name.startswith(block)}
        assert found == {number}
    assert groups["patch_embed.proj.weight"] == 0 and groups["head.weight"] == len(blocks) + 1
    assert groups["down.1.gammas.0"] == blocks.index("down.1.levels.0.") + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "choose a divisor"),
        ({"up_columns": 0}, "one column up"),
        ({"output": "bottom"}, "possible are top, all"),
        ({"decoder_order": "sideways"}, "possible are down, up"),
        ({"memory_saver": "invret"}, "possible are checkpoint, invert, chain"),
        ({"embed_dims": 24}, "did you mean 'embed_dim'"),
    ],
)
def test_mistakes_are_explained(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        columns(**options)


def test_saved_encoders_are_loaded_by_timm_and_take_other_sizes(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 64, 64)
    torch.save(images, tmp_path / "images.pt")
    expected = {}
    for name in ("revcol", "revcolv2"):
        encoder = tiny_encoder(name).eval()
        save_encoder(encoder, tmp_path / name, mean=(0.5,) * 3, std=(0.5,) * 3, made_by={})
        assert export(tmp_path / name, to="safetensors").is_file()
        export(tmp_path / name, to="timm")
        with torch.no_grad():
            expected[name] = encoder(images).patches
            assert torch.equal(load_encoder(tmp_path / name)(images).patches, expected[name])
        wide = load_encoder(tmp_path / name, image_size=(64, 96))
        rows, columns = wide.feature_grid
        assert wide(torch.randn(1, 3, 64, 96)).patches.shape[1] == rows * columns
    code = """
import json, os, torch
images, found = torch.load("images.pt"), {}
for name in ("revcol", "revcolv2"):
    os.chdir(name)
    exec(json.load(open("encoder.json"))["load"])
    other = timm.create_model("local-dir:export/timm", pretrained=True).eval()
    with torch.no_grad():
        found[name] = model.forward_features(images), other.forward_features(images)
    os.chdir("..")
torch.save(found, "features.pt")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for name, both in torch.load(tmp_path / "features.pt").items():
        for features in both:
            torch.testing.assert_close(features.flatten(1, -2), expected[name], atol=1e-5, rtol=0)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        RevCol(48)
