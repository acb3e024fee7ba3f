"""Exported folders must load in transformers without a network and without unmask, with our features."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.test_export import CASES, MEAN, STD, save, tiny
from unmask.data import evaluation_view, normalise
from unmask.encoders import Encoder, create_encoder
from unmask.errors import UserError
from unmask.export import export
from unmask.export.huggingface import write_huggingface

pytest.importorskip("transformers")
HUGGINGFACE = sys.modules[write_huggingface.__module__]

MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_one_window": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4},
    ),
    "vit_layer_scale": ("vit_tiny_patch16_224", {**CASES["vit"][3], "init_values": 0.1}),
    "vit_gated": ("vit_giant_patch14_dinov2", {**CASES["vit"][3], "mlp_ratio": 2.0}),
    "beit_shared_bias_square": ("beit_base_patch16_224", CASES["beit_shared_bias"][3]),
}
# case -> the model of transformers' own that it becomes, if any
KINDS = {
    "vit": "vit",
    "vit_sincos": "vit",
    "vit_registers": None,
    "vit_rectangle_grey": "vit",
    "vit_four_channels": "vit",
    "vit_layer_scale": None,
    "vit_gated": None,
    "eva_rope": None,
    "beit_bias_each_block": "beit",
    "beit_shared_bias": None,  # a rectangle
    "beit_shared_bias_square": "beit",
    "swin": None,
    "swin_rectangle_grey": None,
    "swin_one_window": "swin",
    "swinv2": "swinv2",
}

LOADER = """
import os, sys
from pathlib import Path

sys.modules["unmask"] = None
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

for folder in sorted(Path(sys.argv[1]).iterdir()):
    images = load_file(folder / "images.safetensors")
    model = AutoModel.from_pretrained(folder / "export" / "huggingface").eval()
    processor = AutoImageProcessor.from_pretrained(folder / "export" / "huggingface")
    with torch.no_grad():
        out = model(images["images"])
    outputs = {"states": out.last_hidden_state.flatten(1, -2), "pooled": out.pooler_output}
    if "picture" in images:
        picture = Image.fromarray(images["picture"].numpy())
        outputs["inputs"] = processor(picture, return_tensors="pt")["pixel_values"]
    save_file({name: value.contiguous() for name, value in outputs.items()}, folder / "outputs.safetensors")
"""


def encoder_of(case: str) -> Encoder:
    if case in CASES:
        return tiny(case)
    torch.manual_seed(0)
    name, options = MORE[case]
    encoder = create_encoder(name, image_size=(64, 64), **options)
    for parameter in encoder.model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return encoder.eval()


def picture() -> Image.Image:
    """Smooth, wider than high."""
    across, down = np.meshgrid(np.linspace(0, 3, 90), np.linspace(0, 2, 70))
    waves = [np.sin(across + shift) * np.cos(down * (1 + shift)) for shift in (0, 1, 2)]
    return Image.fromarray((127 + 120 * np.stack(waves, axis=2)).astype(np.uint8))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases exported, and loaded by one other process."""
    root = tmp_path_factory.mktemp("encoders")
    for case in KINDS:
        encoder = encoder_of(case)
        save(encoder, root / case)
        export(root / case, to="huggingface")
        images = {"images": torch.randn(2, encoder.channels, *encoder.image_size)}
        if encoder.channels == 3:
            images["picture"] = torch.from_numpy(np.array(picture()))
        save_file(images, root / case / "images.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(root)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "newly initialized" not in done.stderr and "MISSING" not in done.stderr
    return root


@pytest.mark.parametrize("case", KINDS)
def test_transformers_gives_our_features(elsewhere: Path, case: str) -> None:
    encoder, folder = encoder_of(case), elsewhere / case
    with torch.no_grad():
        features = encoder(load_file(folder / "images.safetensors")["images"])
    outputs = load_file(folder / "outputs.safetensors")
    count = features.patches.shape[1]
    assert outputs["states"].shape[1] == encoder.prefix + count
    torch.testing.assert_close(outputs["states"][:, -count:], features.patches, atol=1e-4, rtol=0)
    if features.cls is not None:
        torch.testing.assert_close(outputs["states"][:, 0], features.cls, atol=1e-4, rtol=0)
    config = json.loads((folder / "export" / "huggingface" / "config.json").read_text())
    assert config.get("model_type") == KINDS[case]
    # transformers' own ViT, and BEiT, pool by the class token, all others by the mean over the patches.
    by_cls = KINDS[case] == "vit" or case.startswith("beit")
    pooled = features.cls if by_cls else features.patches.mean(1)
    torch.testing.assert_close(outputs["pooled"], pooled, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["vit", "beit_bias_each_block", "swin_one_window", "vit_registers"])
def test_the_processor_prepares_images_as_evaluations_do(elsewhere: Path, case: str) -> None:
    size = encoder_of(case).image_size
    expected = normalise(evaluation_view(picture(), size)[None], MEAN[:3], STD[:3])
    inputs = load_file(elsewhere / case / "outputs.safetensors")["inputs"]
    assert inputs.shape == expected.shape
    assert (inputs - expected).abs().mean() < 0.1  # standard deviations: other rounding, the same view


def test_model_card(tmp_path: Path) -> None:
    save(tiny("beit_shared_bias"), tmp_path)
    text = (export(tmp_path, to="huggingface") / "README.md").read_text()
    assert "AutoModel.from_pretrained" in text and "AutoImageProcessor" in text
    assert "beit_base_patch16_224" in text and "0.4, 0.5, 0.45" in text
    assert "library_name: transformers" in text and "32 × 48 pixels, 3 channels" in text


def test_wrong_features_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tiny("vit"), tmp_path)
    monkeypatch.setattr(HUGGINGFACE, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="other features"):
        export(tmp_path, to="huggingface")
    assert not any((tmp_path / "export" / "huggingface").iterdir())


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tiny("vit"), tmp_path)
    monkeypatch.setattr(HUGGINGFACE, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'unmask\[huggingface\]'"):
        export(tmp_path, to="huggingface")


def test_all_cases_of_timm_are_tried() -> None:
    assert CASES.keys() <= KINDS.keys()
