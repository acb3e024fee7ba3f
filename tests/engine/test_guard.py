"""Batches of steps that were not finite are kept so that the step can be looked at and repeated."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.tiny import events, lines, pictures, run
from unmask.data import normalise
from unmask.engine.guard import MOST_KEPT
from unmask.errors import UserError
from unmask.masking import Mask
from unmask.methods.mae import MAE
from unmask.runs import load_method, read_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


def breaking(monkeypatch: pytest.MonkeyPatch, steps: range) -> list[float]:
    """MAE's loss is no number at some steps; returns the losses that it would have had."""
    forward, losses = MAE.forward, []

    def sometimes(self: MAE, images: Tensor, *, mask: Mask | None = None) -> dict[str, Tensor]:
        loss = forward(self, images, mask=mask)["loss"]
        losses.append(loss.item())
        return {"loss": loss * (math.nan if len(losses) in steps else 1)}

    monkeypatch.setattr(MAE, "forward", sometimes)
    return losses


def test_kept_batch_repeats_the_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        losses = breaking(patch, range(3, 4))
        run(data, out, steps=3, overrides={"checkpoint.every": 2, "checkpoint.keep": 5})
    (rejected,) = [line for line in lines(out) if line.get("event") == "rejected"]
    path = out / rejected["batch"]
    assert path == out / "failures" / "step_00000003.safetensors"
    # The weights of before the step are those of after it.
    method, kept = load_method(out), load_file(path)
    torch.set_rng_state(kept["generator"])
    with torch.no_grad():
        loss = method(images=normalise(kept["images"]))["loss"]
    assert loss.item() == pytest.approx(losses[2], rel=1e-5)


def test_kept_batch_names_its_files_and_shows_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    breaking(monkeypatch, range(8, 9))  # the second step of the second epoch
    run(data, out, steps=8, overrides={"data.crop_scale": [1, 1], "data.flip": False})
    with safe_open(out / "failures" / "step_00000008.safetensors", "pt") as file:
        metadata, images = file.metadata(), file.get_tensor("images")
    assert (metadata["step"], metadata["loss"]) == ("8", "nan")
    names = json.loads(metadata["files"])
    assert len(names) == len(images) == 8
    for name, image in zip(names, images, strict=True):
        with Image.open(name) as picture:
            mean = np.asarray(picture.convert("RGB"), dtype=np.float32).mean((0, 1))
        np.testing.assert_allclose(image.float().mean((1, 2)), mean, atol=3)
    with Image.open(out / "failures" / "step_00000008.png") as sheet:
        assert sheet.width > 250


def test_few_batches_are_kept_and_the_message_names_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    breaking(monkeypatch, range(3, 100))
    with pytest.raises(UserError, match=r"20 steps in a row.*failures/step_00000003\.png"):
        run(data, out, steps=60)
    assert len(list((out / "failures").glob("*.safetensors"))) == MOST_KEPT
    assert events(out)[-2:] == ["rejected", "failed"]
    assert read_log(out / "log.jsonl").status == "failed"
    verdict = lines(out)[-1]
    assert verdict["level"] == "bad" and any(
        "In 20 of 22 steps" in one["what"] for one in verdict["findings"]
    )
    page = (out / "report.html").read_text()
    assert "Something is wrong" in page and 'class="status failed"' in page


def test_overwriting_deletes_the_kept_batches(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        breaking(patch, range(1, 2))
        run(data, tmp_path / "run", steps=2)
    assert (tmp_path / "run" / "failures").is_dir()
    run(data, tmp_path / "run", steps=2, overwrite=True)
    assert not (tmp_path / "run" / "failures").exists()
