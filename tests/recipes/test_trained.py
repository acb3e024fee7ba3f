"""Tokenizers come back from the files that runs hand over, and from official ones; others are told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.tokenizers.test_official import official
from unmask.errors import UserError
from unmask.export.tokenizer import save_tokenizer
from unmask.recipes.base import Choice
from unmask.recipes.trained import fingerprint, load_tokenizer
from unmask.tokenizers import DVAE, VQKD

SMALL: dict[str, Any] = {"width": 8, "blocks": 1, "groups": 3, "decoder_dim": 8, "vocabulary": 16}


def saved(folder: Path, *, step: int = 5) -> tuple[DVAE, Path]:
    torch.manual_seed(0)
    tokenizer = DVAE(image_size=(16, 16), channels=1, **SMALL)
    made_by = {"step": step, "steps": 5}
    return tokenizer, save_tokenizer(tokenizer, folder, choice=Choice(name="dvae", **SMALL), made_by=made_by)


def test_saved_tokenizer_gives_the_same_codes_and_disturbs_no_random_numbers(tmp_path: Path) -> None:
    tokenizer, path = saved(tmp_path)
    images = torch.rand(2, 1, 16, 16)
    state = torch.get_rng_state()
    loaded = load_tokenizer(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(loaded.codes(images), tokenizer.codes(images))
    assert fingerprint(tmp_path) == fingerprint(path)


def test_what_only_training_needs_is_left_out(tmp_path: Path) -> None:
    shape: dict[str, Any] = {
        "patch_size": 8,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "vocabulary": 8,
        "code_dim": 4,
    }
    tokenizer = VQKD(image_size=(16, 16), channels=3, teacher=None, **shape)
    tokenizer.decoder = torch.nn.Linear(3, 3)  # as one that was trained has
    choice = Choice(name="vqkd", teacher="efficientnet_lite0", **shape)
    path = save_tokenizer(tokenizer, tmp_path, choice=choice, made_by={"step": 1, "steps": 1})
    assert json.loads(path.with_suffix(".json").read_text())["options"]["teacher"] is None
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(load_tokenizer(path).codes(images), tokenizer.eval().codes(images))


def test_official_files_need_no_card(tmp_path: Path) -> None:
    path = tmp_path / "dvae.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in official("dvae")[0].items()}, path)
    stride = load_tokenizer(path).stride
    assert load_tokenizer(path).image_size == (112, 112)
    assert load_tokenizer(path, grid=(3, 4)).image_size == (3 * stride, 4 * stride)


def test_what_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    saved(tmp_path / "half", step=3)
    with pytest.raises(UserError, match="not finished: step 3 of 5"):
        load_tokenizer(tmp_path / "half")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"no card, other\.json, beside it"):
        load_tokenizer(tmp_path / "other.safetensors")
    _, path = saved(tmp_path / "whole")
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="does not hold the weights"):
        load_tokenizer(path)
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(UserError, match="no tokenizer's card"):
        load_tokenizer(path)
    with pytest.raises(UserError, match="there is no tokenizer"):
        load_tokenizer(tmp_path / "nothing")
