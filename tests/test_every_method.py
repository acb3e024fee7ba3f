"""Every method by its command, as a person who has only pictures would give it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unmask.cli import app
from unmask.demo_data import demo_archive
from unmask.load import load_encoder
from unmask.methods import METHODS
from unmask.recipes import TOKENIZER_OF

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", METHODS)
def test_one_command_pretrains_on_pictures(method: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["pretrain", method, "--data", str(demo_archive()), "--out", str(out), "--steps", "4"]
    done = CliRunner().invoke(app, [*command, "--batch-size", "16", "--workers", "0", "probe.every=0"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line][-1] == 4
    assert load_encoder(out).dim > 0
    assert (out / "report.html").is_file()
    assert (out / "tokenizer" / "tokenizer.safetensors").is_file() == (method in TOKENIZER_OF)
