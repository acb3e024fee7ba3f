"""Saved encoders must be ordinary timm models: another process loads them with timm and safetensors only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from unmask.encoders import Encoder, create_encoder
from unmask.errors import UserError
from unmask.export import export, load_encoder, read_card, save_encoder

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}
SWIN = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
CASES = {
    "vit": ("vit_tiny_patch16_224", (32, 32), 3, VIT),
    "vit_sincos": ("vit_tiny_patch16_224", (32, 32), 3, {**VIT, "position": "sincos", "init": "mae"}),
    "vit_registers": ("vit_small_patch14_reg4_dinov2", (32, 32), 3, VIT),
    "vit_rectangle_grey": ("vit_tiny_patch16_224", (32, 48), 1, VIT),
    "vit_four_channels": ("vit_tiny_patch16_224", (32, 32), 4, VIT),
    "eva_rope": ("eva02_tiny_patch14_224", (32, 48), 3, VIT),
    "beit_bias_each_block": ("beit_base_patch16_224", (32, 32), 3, VIT),
    "beit_shared_bias": (
        "beit_base_patch16_224",
        (32, 48),
        3,
        {**VIT, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "swin": ("swin_tiny_patch4_window7_224", (64, 64), 3, SWIN),
    "swin_rectangle_grey": ("swin_tiny_patch4_window7_224", (64, 128), 1, SWIN),
    "swinv2": ("swinv2_tiny_window8_256", (64, 64), 4, SWIN),
}
MEAN, STD = [0.4, 0.5, 0.45, 0.5], [0.2, 0.25, 0.2, 0.3]

# Runs where unmask cannot be imported: every folder's snippet as it stands in its card, then the timm layout.
LOADER = """
import json, os, sys
from pathlib import Path

sys.modules["unmask"] = None
import timm, torch
from safetensors.torch import load_file, save_file

for folder in sorted(Path(sys.argv[1]).iterdir()):
    os.chdir(folder)
    images = load_file("images.safetensors")["images"]
    names = {}
    exec(json.loads(Path("encoder.json").read_text())["load"], names)
    again = timm.create_model(f"local-dir:{folder}/export/timm", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(again)
    with torch.no_grad():
        outputs = {
            "snippet": names["model"].forward_features(images),
            "local_dir": again.forward_features(images),
        }
    outputs["mean"], outputs["size"] = torch.tensor(config["mean"]), torch.tensor(config["input_size"])
    save_file({key: value.contiguous() for key, value in outputs.items()}, "outputs.safetensors")
"""


def tiny(case: str) -> Encoder:
    name, image_size, channels, options = CASES[case]
    torch.manual_seed(0)
    encoder = create_encoder(name, image_size=image_size, channels=channels, **options)
    for parameter in encoder.model.parameters():  # zero-initialised tables and scales would hide a wrong load
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return encoder.eval()


def save(encoder: Encoder, folder: Path) -> Path:
    channels = encoder.channels
    made_by = {"method": "MAE", "step": 7}
    return save_encoder(encoder, folder, mean=MEAN[:channels], std=STD[:channels], made_by=made_by)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases saved, exported, and loaded by one other process."""
    root = tmp_path_factory.mktemp("encoders")
    for case in CASES:
        encoder = tiny(case)
        save(encoder, root / case)
        export(root / case, to="timm")
        images = torch.randn(2, encoder.channels, *encoder.image_size)
        save_file({"images": images}, root / case / "images.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(root)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("case", CASES)
def test_timm_alone_gives_the_same_features(elsewhere: Path, case: str) -> None:
    encoder = tiny(case)
    folder = elsewhere / case
    with torch.no_grad():
        features = encoder(load_file(folder / "images.safetensors")["images"])
    outputs = load_file(folder / "outputs.safetensors")
    for way in ("snippet", "local_dir"):
        patches = outputs[way].flatten(1, -2)[:, -features.patches.shape[1] :]
        torch.testing.assert_close(patches, features.patches, atol=1e-5, rtol=0)
    assert outputs["mean"].tolist() == pytest.approx(MEAN[: encoder.channels])
    assert outputs["size"].tolist() == [encoder.channels, *encoder.image_size]


@pytest.mark.parametrize("case", CASES)
def test_load_encoder_returns_what_was_saved(tmp_path: Path, case: str) -> None:
    encoder = tiny(case)
    weights = save(encoder, tmp_path)
    images = torch.randn(2, encoder.channels, *encoder.image_size)
    for given in (tmp_path, str(weights)):
        loaded = load_encoder(given)
        assert not loaded.training
        assert loaded.image_size == encoder.image_size
        with torch.no_grad():
            assert torch.equal(loaded(images).patches, encoder(images).patches)


def test_card(tmp_path: Path) -> None:
    encoder = tiny("vit_rectangle_grey")
    save(encoder, tmp_path)
    card = json.loads((tmp_path / "encoder.json").read_text())
    assert card["image_size"] == [32, 48]
    assert (card["channels"], card["patch_size"], card["stride"], card["dim"]) == (1, 8, 8, 48)
    assert (card["mean"], card["std"]) == ([0.4], [0.2])
    assert card["made_by"] == {"method": "MAE", "step": 7}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_half_precision_is_saved_as_float32(tmp_path: Path) -> None:
    encoder = tiny("vit").bfloat16()
    save(encoder, tmp_path)
    tensors = load_file(tmp_path / "encoder.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert list(tensors) == sorted(encoder.model.state_dict())


def test_a_failed_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tiny("vit"), tmp_path)
    before = (tmp_path / "encoder.safetensors").read_bytes()

    def half(_tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(sys.modules["unmask.export.saved"], "save_file", half)
    with pytest.raises(OSError, match="no space"):
        save(tiny("vit"), tmp_path)
    assert (tmp_path / "encoder.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]


@pytest.mark.parametrize("case", ["vit", "beit_shared_bias", "swin", "swinv2", "eva_rope"])
def test_another_image_size(tmp_path: Path, case: str) -> None:
    """All but the positions is kept, and four times the pixels give four times the features."""
    encoder = tiny(case)
    save(encoder, tmp_path)
    size = (2 * encoder.image_size[0], 2 * encoder.image_size[1])
    larger = load_encoder(tmp_path, image_size=size)
    assert larger.image_size == size
    assert larger(torch.randn(1, encoder.channels, *size)).patches.shape[1] == 4 * len(
        encoder(torch.randn(1, encoder.channels, *encoder.image_size)).patches[0]
    )
    own, other = encoder.model.state_dict(), larger.model.state_dict()
    same = [name for name in own if own[name].shape == other[name].shape]
    assert all(torch.equal(own[name], other[name]) for name in same if "position" not in name)
    assert len(same) > 0.8 * len(own)


def test_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    encoder = tiny("vit")
    encoder.model.pos_embed.data[:] = 1.5
    save(encoder, tmp_path)
    positions = load_encoder(tmp_path, image_size=(64, 48)).model.pos_embed
    assert positions.shape == (1, 1 + 8 * 6, 48)
    torch.testing.assert_close(positions, torch.full_like(positions, 1.5))


def test_other_channels(tmp_path: Path) -> None:
    encoder = tiny("vit")
    save(encoder, tmp_path)
    grey = load_encoder(tmp_path, channels=1)
    picture = torch.randn(2, 1, 32, 32)
    with torch.no_grad():  # summed over channels: grey pictures give the features of their RGB copies
        expected = encoder(picture.expand(-1, 3, -1, -1)).patches
        torch.testing.assert_close(grey(picture).patches, expected, atol=1e-5, rtol=0)
    save(tiny("vit_four_channels"), tmp_path)
    with pytest.raises(UserError, match="trained on 4 channels"):
        load_encoder(tmp_path, channels=3)


def test_export_safetensors(tmp_path: Path) -> None:
    save(tiny("vit"), tmp_path)
    default = export(tmp_path, to="safetensors")
    named = export(tmp_path, to="safetensors", out=tmp_path / "mine" / "backbone.safetensors")
    assert default == tmp_path / "export" / "encoder.safetensors"
    for path in (default, named):
        weights, card = read_card(path)
        assert weights == path
        assert path.name in card["load"]
        assert load_file(path).keys() == tiny("vit").model.state_dict().keys()
        load_encoder(path)


def test_export_replaces_an_earlier_one(tmp_path: Path) -> None:
    save(tiny("vit"), tmp_path)
    export(tmp_path, to="timm", out=tmp_path / "out")
    encoder = tiny("vit")
    encoder.model.norm.bias.data[:] = 3.0
    save(encoder, tmp_path)
    folder = export(tmp_path, to="timm", out=tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert model.norm.bias.tolist() == [3.0] * 48


def test_timm_layout_claims_nothing_of_published_weights(tmp_path: Path) -> None:
    save(tiny("beit_shared_bias"), tmp_path)
    config = json.loads((export(tmp_path, to="timm") / "config.json").read_text())
    shown = config["pretrained_cfg"]
    assert shown["tag"] == "unmask"
    assert not {"license", "url", "hf_hub_id", "paper_ids", "origin_url"} & shown.keys()
    assert config["model_args"]["use_shared_rel_pos_bias"] is True


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    weights = save(tiny("vit"), tmp_path)
    tensors = load_file(weights)
    tensors["head.weight"] = tensors.pop("norm.weight")
    tensors["norm.bias"] = torch.zeros(7)
    save_file(tensors, weights)
    pattern = r"missing 1 \(norm.weight\); unexpected 1 \(head.weight\); of another shape 1 \(norm.bias\)"
    with pytest.raises(UserError, match=pattern):
        load_encoder(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    weights = save(tiny("vit"), tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(UserError, match="not an encoder's card"):
        load_encoder(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no encoder\.safetensors: an encoder is a pair"):
        load_encoder(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match=r"has not finished.*--resume"):
        load_encoder(tmp_path)
    with pytest.raises(UserError, match="did you mean vit_base_patch16_224"):
        load_encoder("vit_base_patch16_242")
    with pytest.raises(UserError, match="timm, huggingface, onnx, safetensors"):
        export(tmp_path, to="onxx")


def test_random_weights_by_name() -> None:
    encoder = load_encoder("random:vit_tiny_patch16_224", image_size=(32, 32), channels=1)
    assert encoder.image_size == (32, 32)
    assert encoder.channels == 1
    assert not encoder.training
    assert load_encoder("random:vit_tiny_patch16_384").image_size == (384, 384)


def test_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_given: object, **_options: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(UserError, match=r"cannot be fetched.*random:vit_tiny_patch16_224"):
        load_encoder("vit_tiny_patch16_224", image_size=(32, 32))


def test_export_of_a_missing_folder_asks_for_a_run(tmp_path: Path) -> None:
    for missing in (tmp_path / "run", str(tmp_path / "run"), "vit_base_patch16_224"):
        with pytest.raises(UserError, match="There is no run folder") as error:
            export(missing, to="timm")
        assert "timm name" not in str(error.value)


def test_a_backbone_that_timm_lacks_says_where_timm_gets_it(tmp_path: Path) -> None:
    options = {"embed_dim": 48, "depths": (1, 1, 2), "num_heads": 3}
    encoder = create_encoder("hivit_tiny_patch16_224", image_size=(32, 48), **options).eval()
    save(encoder, tmp_path)
    folder = export(tmp_path, to="timm")
    code = f"""
import json, sys, torch
exec(json.load(open(sys.argv[1] + "/encoder.json"))["load"])
torch.manual_seed(0)
images = torch.randn(2, 3, 32, 48)
other = timm.create_model("local-dir:{folder}", pretrained=True).eval()
with torch.no_grad():
    torch.save((images, model.forward_features(images), other.forward_features(images)), "features.pt")
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    images, *found = torch.load(tmp_path / "features.pt")
    with torch.no_grad():
        expected = encoder(images).patches
    for features in found:
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    assert "import unmask.encoders" in (folder / "README.md").read_text()
