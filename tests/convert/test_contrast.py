"""Official files of MILAN and CMAE, converted: the same numbers as the official code."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.convert.official import case, weights
from tests.golden.golden import mismatch
from tests.golden.official import tensors
from unmask.convert import convert
from unmask.convert.contrast import recognise_cmae
from unmask.errors import UserError
from unmask.export import load_encoder
from unmask.masking import Mask
from unmask.methods import CMAE, MILAN
from unmask.runs import load_method, read_recipe

HEADS = {"encoder.num_heads": 4, "method.decoder_heads": 4}
NETWORK = "timm:vit_base_patch16_clip_quickgelu_224.openai@proj"


def within(name: str, key: str, value: Tensor) -> bool:
    expected, limits = case(name)["expected"][key], case(name)["info"]["tolerance"]
    found = value.detach().numpy().reshape(expected["shape"])
    return mismatch(expected, found) <= limits["per_key"].get(key, limits["out"])


@contextmanager
def mmengine() -> Iterator[type]:
    """`HistoryBuffer` as long as a file is written; it is not there when the file is read."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.array([2.5, 2.25])

    name = "mmengine.logging.history_buffer"
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    module = ModuleType(name)
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    names = ("mmengine", "mmengine.logging", name)
    sys.modules |= {names[0]: ModuleType(names[0]), names[1]: ModuleType(names[1]), name: module}
    try:
        yield HistoryBuffer
    finally:
        for known in names:
            del sys.modules[known]


def saved(name: str, path: Path) -> Path:
    """With all that the authors' code puts into it, as far as it can be read safely."""
    if name == "milan":
        content: dict[str, Any] = {"model": weights(name), "epoch": 399, "args": Namespace(use_clip=True)}
        torch.save(content, path)
        return path
    with mmengine() as history:
        content = {"state_dict": weights(name), "meta": {"epoch": 1600, "cfg": "model = dict(type='CMAE')"}}
        torch.save({**content, "message_hub": {"log_scalars": {"train/loss": history()}}}, path)
    return path


def test_cmae_in_all_its_parts(tmp_path: Path) -> None:
    found = convert(saved("cmae", tmp_path / "c.pth"), out=tmp_path / "out", overrides=HEADS)
    assert found.complete and found.facts["file"] == "CMAE pre-training, all parts"
    method = load_method(found.folder).train()
    assert isinstance(method, CMAE)
    inputs = tensors(case("cmae")["inputs"])
    mask = method.masking.from_noise(inputs["noise"], method.encoder.grid)
    losses = method(inputs["images"], inputs["images_target"], mask=mask)
    for key, ours in (("out/loss_rc", "reconstruction"), ("out/loss_ct", "contrast"), ("out/loss", "loss")):
        assert within("cmae", key, losses[ours])
    encoder = read_recipe(found.folder).encoder.options
    assert encoder["position"] == "sincos"  # fixed, though its halves are the other way round


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_cmaes_encoder_alone(prefix: str, tmp_path: Path) -> None:
    """As the authors' script takes it out of the whole."""
    part = {
        prefix + key.removeprefix("backbone."): value
        for key, value in weights("cmae").items()
        if key.startswith("backbone.")
    }
    torch.save({"state_dict": part}, tmp_path / "c.pth")
    given = {"encoder.num_heads": 4}
    found = convert(tmp_path / "c.pth", out=tmp_path / "out", overrides=given)
    assert not found.complete and not (found.folder / "recipe.json").exists()
    inputs = tensors(case("cmae")["inputs"])
    whole = convert(saved("cmae", tmp_path / "w.pth"), out=tmp_path / "whole", overrides=HEADS)
    with torch.no_grad():
        alone, within_whole = (
            load_encoder(f)(inputs["images"]).patches for f in (found.folder, whole.folder)
        )
    assert torch.equal(alone, within_whole)


def test_cmae_with_a_part_missing_is_refused() -> None:
    broken = {key: value for key, value in weights("cmae").items() if not key.startswith("projector.")}
    with pytest.raises(ValueError, match=r"there is no projector\.fc0\.weight"):
        recognise_cmae(broken, "c")


def test_milans_encoder_is_converted_without_a_teacher(tmp_path: Path) -> None:
    path = saved("milan", tmp_path / "m.pth")
    found = convert(path, out=tmp_path / "out", overrides={"encoder.num_heads": 4})
    assert not found.complete and found.facts["left out"] == "decoder, mask_token"
    assert any(NETWORK in note for note in found.notes)
    inputs, expected = tensors(case("milan")["inputs"]), case("milan")["expected"]
    encoder = load_encoder(found.folder)
    kept = torch.from_numpy(expected["out/ids_keep"]["values"])
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, kept, False)
    with torch.no_grad():
        seen = encoder.visible(inputs["images"], Mask.of(hidden, encoder.grid, 12))  # type: ignore[attr-defined]
    order = kept.argsort(1).argsort(1)
    latent = torch.cat([seen.cls[:, None], seen.patches.take_along_dim(order[..., None], 1)], 1)
    assert within("milan", "out/latent", latent)


def test_milan_with_its_decoder_where_a_teacher_is_named(tmp_path: Path) -> None:
    """The teacher here is a random network of CLIP's sizes: what is converted does not depend on it."""
    path, name = saved("milan", tmp_path / "m.pth"), NETWORK.replace("timm:", "random:")
    found = convert(path, out=tmp_path / "out", overrides={**HEADS, "method.teacher": name})
    assert found.complete
    method = load_method(found.folder)
    assert isinstance(method, MILAN)
    inputs = tensors(case("milan")["inputs"])
    predicted: list[Tensor] = []
    method.head.register_forward_hook(lambda _module, _inputs, output: predicted.append(output))
    kept = torch.from_numpy(case("milan")["expected"]["out/ids_keep"]["values"])
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, kept, False)
    side = method.teacher.image_size  # type: ignore[union-attr]
    method(inputs["images"], torch.rand(2, 3, *side), mask=Mask.of(hidden, method.encoder.grid, 12))
    assert within("milan", "out/pred", predicted[0])


def test_milan_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    broken = {key: value for key, value in weights("milan").items() if not key.startswith("decoder_pred.")}
    torch.save({"model": broken}, tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"MILAN.s, but there is no decoder_pred\.weight"):
        convert(tmp_path / "m.pth", out=tmp_path / "out")
