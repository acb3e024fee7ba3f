"""Official files of methods that predict codes: the encoder alone, and all of it beside a tokenizer."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unmask
from tests.convert.official import case, weights
from tests.golden.golden import mismatch
from tests.golden.official import hidden_mask, tensors
from unmask.convert import convert
from unmask.errors import UserError
from unmask.export.tokenizer import save_tokenizer
from unmask.methods import CAE, BEiTv2
from unmask.recipes.base import Choice
from unmask.runs import load_method, read_recipe
from unmask.tokenizers import DVAE

CASES = ("beit", "beitv2", "cae")
# What the weights do not tell, or tell in another way than the published ones.
SETTINGS: dict[str, dict[str, Any]] = {
    "beit": {},
    "beitv2": {"method.early_depth": 2},
    "cae": {"encoder.num_heads": 4, "method.decoder_heads": 4},
}
LEFT_OUT = {
    "beit": "lm_head, mask_token",
    "beitv2": "lm_head, cls_pt_layers, cls_pt_norm, cls_pt_lm_head, mask_token",
    "cae": "pretext_neck, teacher, mask_token",
}


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pth"
    torch.save({"model": weights(name), "epoch": 299, "args": Namespace(align_loss_weight=2.0)}, path)
    return path


def told(name: str, *, whole: bool) -> dict[str, Any]:
    return {key: value for key, value in SETTINGS[name].items() if whole or not key.startswith("method.")}


def tokenizer_for(name: str, folder: Path) -> Path:
    """One with as many codes, of random weights."""
    spec = case(name)["info"]["constructor"]
    options = {"vocabulary": spec["vocabulary"], "width": 8, "blocks": 1}
    size = (spec["image_size"] // 2,) * 2
    built = DVAE(image_size=size, channels=3, **options)
    choice = Choice(name="dvae", **options)
    save_tokenizer(built, folder / "tokenizer", choice=choice, made_by={"step": 1, "steps": 1})
    return folder / "tokenizer"


@pytest.mark.parametrize("name", CASES)
def test_without_its_tokenizer_it_is_an_encoder(name: str, tmp_path: Path) -> None:
    found = convert(saved(name, tmp_path), out=tmp_path / "out", overrides=told(name, whole=False))
    assert not found.complete and found.facts["left out"] == LEFT_OUT[name]
    assert any("method.tokenizer" in note for note in found.notes)
    encoder = unmask.load_encoder(found.folder)
    images = tensors(case(name)["inputs"])["images"]
    with torch.no_grad():
        features = encoder(images)
    prefix = "encoder." if name == "cae" else ""
    for key, value in encoder.model.state_dict().items():
        assert torch.equal(value, weights(name)[prefix + key]), key
    assert torch.isfinite(features.patches).all()


@pytest.mark.parametrize("name", CASES)
def test_with_its_tokenizer_it_is_the_method(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_for(name, tmp_path)
    settings = told(name, whole=True) | {"method.tokenizer": str(tokenizer)}
    found = convert(saved(name, tmp_path), out=tmp_path / "out", overrides=settings)
    assert found.complete and read_recipe(found.folder).method.options["tokenizer"] == str(tokenizer)
    method, inputs, expected = (
        load_method(found.folder),
        tensors(case(name)["inputs"]),
        case(name)["expected"],
    )
    images, mask = inputs["images"], hidden_mask(inputs["mask"], method.encoder.grid)
    logits: dict[str, Tensor] = {}
    method.head.register_forward_hook(lambda _m, _i, output: logits.setdefault("first", output))
    small = torch.rand(len(images), 3, images.shape[2] // 2, images.shape[3] // 2)
    losses = method(images, small, mask=mask)
    assert torch.isfinite(losses["loss"])
    key = {"beit": "out/logits_masked", "beitv2": "out/logits_main", "cae": "out/logits"}[name]
    found_logits = logits["first"].detach().flatten(0, -2).numpy()
    assert mismatch(expected[key], found_logits) <= case(name)["info"]["tolerance"]["out"]
    if isinstance(method, BEiTv2):
        assert len(method.further) == 2 and method.further_head is not None
    if isinstance(method, CAE):
        assert method.teacher is not None and method.align_weight == 2.0


def test_a_tokenizer_with_other_codes_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("beit", tmp_path)
    state = weights("beit") | {"lm_head.weight": torch.zeros(7, 32), "lm_head.bias": torch.zeros(7)}
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"lm_head\.weight \(7, 32\) instead of \(512, 32\)"):
        convert(tmp_path / "a.pth", out=tmp_path / "out", overrides={"method.tokenizer": str(tokenizer)})


def test_a_part_of_cae_is_not_taken_for_all(tmp_path: Path) -> None:
    state = {key: value for key, value in weights("cae").items() if not key.startswith("pretext_neck.head")}
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"looks like CAE's"):
        convert(tmp_path / "a.pth", out=tmp_path / "out")
