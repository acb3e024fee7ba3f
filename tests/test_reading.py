"""Files of others: what is data is read, what could run is refused before it does."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.convert.official import save, weights, yacs
from unmask.errors import UserError
from unmask.reading import read_checkpoint


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_weights_settings_and_epoch_of_both_repositories(tmp_path: Path) -> None:
    mae = read_checkpoint(save("mae_vit", tmp_path / "mae.pth"))
    assert mae.epoch == 799
    assert mae.setting("norm_pix_loss") is True and mae.setting("mask_ratio") == 0.75
    assert mae.setting("norm_pix_loss", "deeper") is None
    simmim = read_checkpoint(save("simmim_swin", tmp_path / "simmim.pth"))
    assert simmim.setting("DATA", "MASK_PATCH_SIZE") == 16
    assert simmim.setting("MODEL", "SIMMIM", "NORM_TARGET", "ENABLE") is False
    for checkpoint, name in ((mae, "mae_vit"), (simmim, "simmim_swin")):
        expected = weights(name)
        assert checkpoint.weights.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in checkpoint.weights.items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_bare_dictionary_of_weights(suffix: str, tmp_path: Path) -> None:
    path, expected = tmp_path / f"weights{suffix}", {"a.weight": torch.randn(2, 3)}
    if suffix == ".safetensors":
        save_file(expected, path)
    else:
        torch.save(expected, path)
    found = read_checkpoint(path)
    assert torch.equal(found.weights["a.weight"], expected["a.weight"])
    assert found.epoch is None and found.setting("anything") is None


def test_prefixes_of_wrappers_go(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module._orig_mod.a": torch.ones(1)}}, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth").weights) == ["a"]


def test_old_files_and_numbers_of_numpy(tmp_path: Path) -> None:
    with yacs() as node:
        content = {
            "model": {"a": torch.ones(2)},
            "max_accuracy": np.float64(83.6),
            "config": node({"A": {"B": 1}}),
        }
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    found = read_checkpoint(tmp_path / "a.pth")
    assert found.weights["a"].tolist() == [1, 1] and found.setting("A", "B") == 1


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("home", ["model", "optimizer"])
def test_a_file_that_runs_code_is_refused(home: str, zipped: bool, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    content = {"model": {"a": torch.ones(2)}, home: Trap(trap)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"posix\.mkdir.*could run any code") as refusal:
        read_checkpoint(tmp_path / "a.pth")
    assert "weights_only" not in str(refusal.value), "nobody is told how to open it all the same"
    assert not trap.exists()


def test_whole_modules_and_plain_pickles_are_refused(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "module.pth")
    trap = tmp_path / "sprung"
    for protocol in (2, 4):
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(trap), protocol=protocol))
        with pytest.raises(UserError, match=r"damaged or no PyTorch file|could run any code"):
            read_checkpoint(tmp_path / "plain.pkl")
    assert not trap.exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = save("simmim_swin", tmp_path / "whole.pth").read_bytes()
    contents = {
        "page.pth": (b"<html>not found</html>", "a page of text"),
        "empty.pth": (b"", "ends too early"),
        "half.pth": (whole[: len(whole) // 2], "its end is missing"),
        "half.safetensors": (b"\x10\x00", "not a safetensors file"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(UserError, match="not there"):
        read_checkpoint(tmp_path / "missing.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"epoch": 3, "notes": "none"}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="holds epoch, notes"):
        read_checkpoint(tmp_path / "none.pth")
