"""Official files, converted: the same numbers as the official code, and folders that all commands take."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import unmask
from tests.convert.official import GOLDEN, SETTINGS, case, save, weights
from tests.golden.golden import mismatch
from tests.golden.official import hidden_mask, tensors
from unmask.convert import Converted, convert
from unmask.errors import UserError
from unmask.export import export, load_encoder, read_card
from unmask.methods import MAE, SimMIM
from unmask.runs import load_method, read_recipe

CASES = list(SETTINGS)
PREFIX = "encoder."


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    root = tmp_path_factory.mktemp("converted")
    return {
        name: convert(save(name, root / f"{name}.pth"), out=root / name, overrides=SETTINGS[name])
        for name in CASES
    }


def encoder_weights(name: str) -> dict[str, Tensor]:
    """What the authors release for fine-tuning, or save after it, without a head."""
    if name == "mae_vit":
        return {
            key: value for key, value in weights(name).items() if "decoder" not in key and key != "mask_token"
        }
    inner = {
        key.removeprefix(PREFIX): value for key, value in weights(name).items() if key.startswith(PREFIX)
    }
    return {key: value for key, value in inner.items() if key != "mask_token"}


def features(folder: Path, images: Tensor) -> Tensor:
    with torch.no_grad():
        return load_encoder(folder)(images).patches


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_the_official_code(name: str, converted: dict[str, Converted]) -> None:
    info, expected = case(name)["info"], case(name)["expected"]
    inputs = tensors(case(name)["inputs"])
    method = load_method(converted[name].folder)
    images, limit = inputs["images"], info["tolerance"]
    compared = {}
    if isinstance(method, MAE):
        mask = method.masking.from_noise(inputs["noise"], method.encoder.grid)
        compared["out/pred"] = method.head(method.decoder(method.encoder.visible(images, mask), mask))
    else:
        assert isinstance(method, SimMIM)
        mask = hidden_mask(inputs["mask"], method.encoder.grid)
        if method.local_window is None:
            compared["out/pred"] = method.reconstruct(images, mask)
    compared["out/loss"] = method(images, mask=mask)["loss"]
    for key, value in compared.items():
        tolerance = limit["per_key"].get(key, limit["out"])
        assert mismatch(expected[key], value.detach().numpy().reshape(expected[key]["shape"])) <= tolerance


@pytest.mark.parametrize("name", CASES)
def test_the_encoder_alone_is_the_same_one(
    name: str, converted: dict[str, Converted], tmp_path: Path
) -> None:
    """As a file of its own, after fine-tuning with a classifier on top, and as part of the whole."""
    images = tensors(case(name)["inputs"])["images"]
    expected = features(converted[name].folder, images)
    given = {key: value for key, value in SETTINGS[name].items() if key.startswith("encoder.")}
    classifier = {"head.weight": torch.randn(7, 32), "head.bias": torch.randn(7)}
    for part, extra in (("alone", {}), ("tuned", classifier)):
        path = tmp_path / f"{part}.pth"
        torch.save({"model": encoder_weights(name) | extra}, path)
        found = convert(path, out=tmp_path / part, overrides=given)
        assert torch.equal(features(found.folder, images), expected)
        assert not found.complete and not (found.folder / "recipe.json").exists()
        assert ("head" in found.facts.get("left out", "")) == bool(extra)
    with pytest.raises(UserError, match="not a run folder"):
        unmask.reconstruct(tmp_path / "alone", "photo.jpg")


def test_the_norm_after_pooling_becomes_the_final_one(tmp_path: Path) -> None:
    state = encoder_weights("mae_vit")
    for part in ("weight", "bias"):
        state[f"fc_norm.{part}"] = state.pop(f"norm.{part}")
    torch.save({"model": state}, tmp_path / "tuned.pth")
    found = convert(tmp_path / "tuned.pth", out=tmp_path / "out", overrides={"encoder.num_heads": 4})
    assert any("fc_norm" in note for note in found.notes)
    assert torch.equal(load_encoder(found.folder).model.norm.weight, state["fc_norm.weight"])


TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 1, "patch_size": 8},
    "beit_base_patch16_224": {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 8},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "embed_dim": 12, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4,
    },
    "swinv2_tiny_window8_256": {
        "img_size": 64, "embed_dim": 12, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_encoders_in_timms_names(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **TIMM[name]).eval()
    for parameter in model.parameters():  # zero-initialised tables and scales would hide a wrong load
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.fc_norm = torch.nn.Identity()
    if "vit" in name or "beit" in name:
        model.norm = torch.nn.LayerNorm(TIMM[name]["embed_dim"], eps=1e-6)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    told = {"encoder.window_size": 4, "data.image_size": [64, 64]} if "swinv2" in name else {}
    found = convert(tmp_path / "a.safetensors", out=tmp_path / "out", overrides=told)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_features(images)
        encoder = load_encoder(found.folder)
        assert torch.equal(encoder.model.forward_features(images), expected)
    assert encoder.image_size == (64, 64)


def test_beits_own_file_is_an_encoder(tmp_path: Path) -> None:
    torch.save({"model": tensors(case("beit")["params"])}, tmp_path / "beit.pth")
    found = convert(tmp_path / "beit.pth", out=tmp_path / "out", overrides={"data.mean": [0.5] * 3})
    assert found.facts["left out"] == "lm_head, mask_token"
    state = load_encoder(found.folder).model.state_dict()
    assert torch.equal(state["blocks.1.gamma_2"], tensors(case("beit")["params"])["blocks.1.gamma_2"])
    assert read_card(found.folder)[1]["mean"] == [0.5] * 3


def test_commands_take_the_folder(converted: dict[str, Converted], tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / "photo.png")
    for name in CASES:
        folder = converted[name].folder
        strip = unmask.reconstruct(folder, tmp_path / "photo.png", out=tmp_path / f"{name}.png")
        with Image.open(strip) as picture:
            assert picture.width > 3 * 160
        exported = export(folder, to="timm", out=tmp_path / f"timm-{name}")
        model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
        images = tensors(case(name)["inputs"])["images"]
        with torch.no_grad():
            expected = load_encoder(folder).model.forward_features(images)
            assert torch.equal(model.forward_features(images), expected)


def test_what_the_file_says_reaches_recipe_and_card(converted: dict[str, Converted]) -> None:
    recipe = read_recipe(converted["simmim_swinv2"].folder)
    assert recipe.method.options["local_window"] == 15 and recipe.method.options["mask_size"] == 16
    card = read_card(converted["mae_vit"].folder)[1]
    origin = card["made_by"]["converted_from"]
    assert origin["file"] == "mae_vit.pth" and origin["epoch"] == 799 and len(origin["sha256"]) == 64
    assert converted["mae_vit"].facts["file"] == "MAE pre-training, encoder and decoder, epoch 799"
    assert not converted["mae_vit"].notes, "everything was told"


def test_guesses_are_named(tmp_path: Path) -> None:
    torch.save({"model": weights("mae_vit")}, tmp_path / "mae.pth")
    found = convert(tmp_path / "mae.pth", out=tmp_path / "b")
    guessed = [note.split("=")[0] for note in found.notes]
    assert guessed == ["encoder.num_heads", "method.norm_target", "method.decoder_heads"]
    torch.save({"model": weights("simmim_swinv2")}, tmp_path / "swinv2.pth")
    window = convert(tmp_path / "swinv2.pth", out=tmp_path / "c", overrides={"method.mask_size": 16}).notes
    assert [note.split(" ")[0] for note in window] == ["method.local_window=47"]


def refused(state: dict[str, Tensor], tmp_path: Path, match: str, **overrides: Any) -> None:
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=match):
        convert(tmp_path / "a.pth", out=tmp_path / "out" / "deep", overrides=overrides)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.pth"}, "nothing is left of a conversion that failed"


def test_what_is_not_known_is_refused_with_what_it_saw(tmp_path: Path) -> None:
    whole = weights("simmim_swin")
    refused({"vit.embeddings.cls_token": torch.zeros(1)}, tmp_path, r"named like vit\.embeddings\.cls_token")
    refused({"encoder.model.norm.weight": torch.zeros(1)}, tmp_path, "weights of a run of unmask")
    refused(whole | {"encoder.extra": torch.zeros(1)}, tmp_path, r"encoder\.extra have no place")
    missing = {key: value for key, value in whole.items() if key != "encoder.layers.1.blocks.1.norm2.bias"}
    refused(missing, tmp_path, r"norm2\.bias are missing")
    headless = {key: value for key, value in whole.items() if not key.startswith("decoder")}
    refused(headless, tmp_path, r"no decoder\.0\.weight")
    stageless = {
        key: value for key, value in whole.items() if not key.startswith("encoder.layers.2.blocks.0")
    }
    refused(stageless, tmp_path, r"there is no layers\.2\.blocks\.0\.attn")
    smaller = whole | {"encoder.norm.weight": torch.zeros(3)}
    refused(smaller, tmp_path, r"encoder\.norm\.weight \(3,\) instead of \(64,\) have another shape")
    refused({k: v for k, v in weights("mae_vit").items() if k != "mask_token"}, tmp_path, "no mask_token")
    refused(whole, tmp_path, "no setting 'metod.mask_size'", **{"metod.mask_size": 16})


def test_tables_that_should_follow_from_the_sizes_are_compared(tmp_path: Path) -> None:
    mae, swin = weights("mae_vit"), weights("simmim_swin")
    given = SETTINGS["mae_vit"]
    learned = mae | {"decoder_pos_embed": mae["decoder_pos_embed"] + 0.01}
    refused(learned, tmp_path, "decoder_pos_embed are other tables", **given)
    key = "encoder.layers.0.blocks.0.attn.relative_position_index"
    refused(swin | {key: swin[key].flip(0)}, tmp_path, "relative_position_index are other tables")


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    path = save("simmim_swin", tmp_path / "a.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        convert(path, out=tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_converted_run_cannot_be_resumed(converted: dict[str, Converted], tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / "photo.png")
    folder = converted["simmim_swin"].folder
    with pytest.raises(UserError, match="no optimiser to go on with"):
        unmask.pretrain(folder, data=tmp_path, out=folder, resume=True, device="cpu", progress=False)


def test_the_global_generator_is_not_disturbed(tmp_path: Path) -> None:
    path = save("simmim_swin", tmp_path / "a.pth")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    convert(path, out=tmp_path / "out")
    assert torch.equal(torch.rand(4), expected)


def test_there_are_fixtures() -> None:
    assert all((GOLDEN / f"{name}.json").is_file() for name in CASES)
