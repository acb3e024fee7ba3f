"""The table of fine-tuning against random weights, on a tiny set."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import finetune
from benchmarks.small_data import Row
from tests.engine.tiny import TINY
from tests.evaluate.pictures import write_pictures
from unmask.recipes.build import build_method
from unmask.recipes.resolve import resolve_recipe


@pytest.mark.parametrize("name", finetune.ROWS)
def test_every_row_can_be_built(name: str) -> None:
    row = finetune.ROWS[name]
    assert build_method(resolve_recipe(row.method, images=3068, **row.options)).encoder.idle == 0


def test_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    for part, each in (("train", 8), ("validation", 2), ("test", 4)):
        write_pictures(tmp_path / "data" / part, each=each)
    own = {"encoder": "vit_tiny_patch16_224", "image_size": 32, "batch_size": 8, "overrides": TINY}
    monkeypatch.setattr(finetune, "ROWS", {"mae": Row(method="mae", epochs=1, options=own)})
    command = ["finetune", str(tmp_path / "data"), str(tmp_path / "out"), "--rows", "mae", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "0"])
    finetune.main()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mae")][-1:]
    assert line.split("|")[2:4] == [" 1 ", " 2 "]
    results = finetune.table(tmp_path / "out")
    assert line == results.splitlines()[-1]
    finetune.main()  # nothing is left to do
    assert line in capsys.readouterr().out
