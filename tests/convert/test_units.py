"""Official files of HiViT, iTPN and Fast-iTPN, converted: the official numbers, and the pyramid."""

from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from tests.convert.official import case, weights
from tests.golden.golden import mismatch
from tests.golden.official import tensors
from tests.tiny import tiny_encoder
from unmask.convert import Converted, convert
from unmask.convert.units import is_units, shape_of_units
from unmask.errors import UserError
from unmask.export import save_encoder
from unmask.load import load_encoder, load_pyramid
from unmask.methods import ITPN, MAE, ITPNTeacher
from unmask.runs import load_method

TITLES = {
    "hivit_mae": "MAE pre-training of a HiViT, encoder and decoder",
    "itpn_pixel": "iTPN pre-training on pixels: encoder, pyramid and decoder",
    "itpn_clip": "iTPN pre-training with a teacher: encoder and pyramid",
    "itpn_classifier": "HiViT encoder of a classifier",
    "itpn_clip_classifier": "HiViT encoder of a classifier",
    "fast_itpn": "Fast-iTPN encoder of a classifier",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    root = tmp_path_factory.mktemp("converted")
    return {name: one(name, weights(name), root) for name in TITLES}


def one(name: str, state: dict[str, Tensor], root: Path) -> Converted:
    spec = case(name)["info"]["constructor"]
    heads = {"encoder.num_heads": spec["heads"]}
    if "decoder_heads" in spec:
        heads["method.decoder_heads"] = spec["decoder_heads"]
    file = root / f"{name}.pth"
    torch.save({"model": state, "epoch": 7, "args": Namespace(mask_ratio=0.75)}, file)
    return convert(file, out=root / name, overrides=heads)


def expect(name: str, key: str, value: Tensor) -> None:
    expected, limit = case(name)["expected"][key], case(name)["info"]["tolerance"]["out"]
    assert mismatch(expected, value.detach().numpy().reshape(expected["shape"])) <= limit


@pytest.mark.parametrize("name", TITLES)
def test_files_are_known_for_what_they_are(name: str, converted: dict[str, Converted]) -> None:
    assert converted[name].facts["file"] == f"{TITLES[name]}, epoch 7"
    assert converted[name].complete == (name in ("hivit_mae", "itpn_pixel"))
    left_out = converted[name].facts.get("left out", "")
    assert ("head" in left_out.split(", ")) == name.endswith(("classifier", "fast_itpn"))


@pytest.mark.parametrize("name", ["hivit_mae", "itpn_pixel"])
def test_runs_predict_as_the_official_code_does(name: str, converted: dict[str, Converted]) -> None:
    method, inputs = load_method(converted[name].folder), tensors(case(name)["inputs"])
    assert isinstance(method, MAE | ITPN)
    mask = method.masking.from_noise(inputs["noise"], method.encoder.grid)
    expect(name, "out/loss", method(inputs["images"], mask=mask)["loss"])


@pytest.mark.parametrize("name", ["itpn_classifier", "itpn_clip_classifier", "fast_itpn"])
def test_encoders_give_the_official_features(name: str, converted: dict[str, Converted]) -> None:
    encoder = load_encoder(converted[name].folder)
    key = "out/tokens" if name == "fast_itpn" else "out/features"
    expect(name, key, encoder(tensors(case(name)["inputs"])["images"]).patches)


def test_the_pyramid_comes_with_its_encoder(converted: dict[str, Converted]) -> None:
    for name, prefix in (("itpn_pixel", "out/full_"), ("itpn_clip", "out/")):
        folder = converted[name].folder
        encoder, pyramid = load_encoder(folder), load_pyramid(folder)
        spec = case(name)["info"]["constructor"]
        assert pyramid is not None and pyramid.architecture["width"] == spec["neck_width"]
        images = tensors(case(name)["inputs"])["images"]
        maps = pyramid.maps(encoder(images).pyramid)
        assert [level.shape[2] for level in maps] == [16, 8, 4]
        if name == "itpn_pixel":  # the fixture of the other sees a masked image
            for key, level in zip(("P4", "P8", "P16"), pyramid.whole(encoder(images).pyramid), strict=True):
                expect(name, f"{prefix}{key}", level)
        else:
            state = pyramid.state_dict()
            official = weights(name)
            assert torch.equal(state["split16.reduction.weight"], official["split_16to8.reduction.weight"])
            assert torch.equal(state["levels.0.mlp.fc1.bias"], official["fpn_modules.2.mlp.fc1.bias"])
    assert load_pyramid(converted["hivit_mae"].folder) is None


def test_pre_training_and_classifier_share_their_backbone(converted: dict[str, Converted]) -> None:
    images = tensors(case("itpn_clip_classifier")["inputs"])["images"]
    pair = [load_encoder(converted[name].folder) for name in ("itpn_clip", "itpn_clip_classifier")]
    assert torch.equal(*(encoder(images).patches for encoder in pair))


def test_a_backbone_with_its_pyramid_alone(tmp_path: Path, converted: dict[str, Converted]) -> None:
    whole = weights("itpn_pixel")
    kept = {key: value for key, value in whole.items() if "decoder" not in key and key != "mask_token"}
    torch.save({"model": kept}, tmp_path / "neck.pth")
    heads = {"encoder.num_heads": case("itpn_pixel")["info"]["constructor"]["heads"]}
    result = convert(tmp_path / "neck.pth", out=tmp_path / "out", overrides=heads)
    assert result.facts["file"] == "HiViT encoder and pyramid"
    first, second = (load_pyramid(folder) for folder in (result.folder, converted["itpn_pixel"].folder))
    assert first is not None and second is not None
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


OFFICIAL = {"pos_embed": "absolute_pos_embed"}
FAST = {"mlp.norm": "mlp.ffn_ln", "fc1_g": "w1", "q_proj.bias": "q_bias"}


@pytest.mark.parametrize("name", ["hivit_tiny", "hivit_base", "itpn_large", "fast_itpn_small"])
def test_published_sizes_are_known_by_name(name: str) -> None:
    name = f"{name}_patch16_224"
    with torch.device("meta"):  # shapes only
        state = timm.create_model(name, num_classes=0).state_dict()
    for ours, theirs in (FAST if name.startswith("fast") else OFFICIAL).items():
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    found = shape_of_units(state)
    assert is_units(state) and found.encoder.name == name and not found.encoder.options
    assert found.image_size == (224, 224) and not found.guessed


def test_heads_are_read_where_the_teacher_is_named(tmp_path: Path) -> None:
    save_encoder(tiny_encoder("vit"), tmp_path / "teacher", mean=[0.5] * 3, std=[0.5] * 3, made_by={})
    state = weights("itpn_clip")
    for head in ("lm_head", "lm_cls_head"):  # the fixture's teacher has other features than this one
        state |= {f"{head}.weight": torch.randn(48, 32), f"{head}.bias": torch.randn(48)}
    torch.save({"model": state}, tmp_path / "clip.pth")
    named = {"method.teacher": str(tmp_path / "teacher"), "encoder.num_heads": 4}
    found = convert(tmp_path / "clip.pth", out=tmp_path / "out", overrides=named)
    assert found.facts["file"] == "iTPN pre-training with a teacher: encoder, pyramid and heads"
    method = load_method(found.folder)
    assert isinstance(method, ITPNTeacher) and method.squeezed_range and len(method.auxiliary) == 2
    assert torch.equal(method.head[1].weight, state["lm_head.weight"])
    assert load_pyramid(found.folder) is not None


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    kept = {key: value for key, value in weights("itpn_pixel").items() if "align" not in key}
    torch.save({"model": kept}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="parts of iTPN's pyramid, but there is no align_dim_16tofpn"):
        convert(tmp_path / "a.pth", out=tmp_path / "out")
