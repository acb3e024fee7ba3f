"""What a recipe leaves open is found in the data, written down, and never found again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.tiny import pictures, run, same, weights
from unmask.data import EvaluationLoader, Source, normalise, open_source
from unmask.engine.settle import in_words, settle, settled_as
from unmask.errors import UserError
from unmask.evaluate import evaluate
from unmask.load import read_card
from unmask.recipes.base import Choice, Data, Recipe
from unmask.recipes.resolve import resolve_recipe
from unmask.visualize import reconstruct


def recipe(**data: Any) -> Recipe:
    return Recipe(
        name="x",
        method=Choice(name="mae"),
        encoder=Choice(name="vit_tiny_patch16_224"),
        data=Data(image_size=(16, 16), **data),
    )


def grey(level: float, count: int = 8, kind: type = np.uint16, channels: int = 1) -> Source:
    """Pictures around a level."""
    generator = np.random.default_rng(0)
    return open_source(
        [generator.normal(level, level / 10, (16, 16, channels)).astype(kind) for _ in range(count)]
    )


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16-bit grey PNGs of two classes, all within a fiftieth of their range."""
    root = tmp_path_factory.mktemp("deep")
    generator = np.random.default_rng(0)
    for index in range(24):
        folder = root / ("bright" if index % 2 else "dark")
        folder.mkdir(exist_ok=True)
        values = 3000 + 600 * (index % 2) + generator.integers(0, 400, (6, 6)).repeat(6, 0).repeat(6, 1)
        Image.fromarray(values.astype(np.uint16)).save(folder / f"{index}.png")
    return root


def test_photos_keep_imagenets_numbers(tmp_path: Path) -> None:
    data = settle(recipe(), open_source(pictures(tmp_path / "p", 8))).data
    assert (data.bits, data.normalisation, data.mean, data.std) == (8, "imagenet", None, None)
    assert in_words(data) == ""


def test_anything_else_is_measured() -> None:
    data = settle(recipe(channels=1), grey(2000)).data
    assert (data.bits, data.normalisation) == (16, "measure")
    assert data.mean is not None and data.std is not None
    assert data.mean[0] * 65535 == pytest.approx(2000, rel=0.02)
    assert data.std[0] * 65535 == pytest.approx(200, rel=0.1)
    assert in_words(data).startswith("Measured normalisation of 1 channel in 16 bits: mean 0.03")
    data = settle(recipe(channels=5), grey(300, kind=np.float32, channels=5)).data
    assert data.bits == 32 and data.mean == pytest.approx((300,) * 5, rel=0.02)


def test_what_is_said_is_kept() -> None:
    given = recipe(channels=1, bits=8, mean=(0.1,), std=(0.2,))
    assert settle(given, grey(2000)) == given
    half = settle(recipe(channels=1, mean=(0.5,)), grey(2000)).data
    assert half.mean == (0.5,) and half.std is not None
    imagenet = settle(recipe(channels=1, normalisation="imagenet"), grey(2000)).data
    assert imagenet.mean is None and imagenet.bits == 16


@pytest.mark.parametrize("deep_ones, bits", [(0, 8), (3, 8), (4, 16), (8, 16)])
def test_half_of_the_pictures_decide_on_the_depth(deep_ones: int, bits: int) -> None:
    items = [np.full((16, 16), 9, np.uint16 if index < deep_ones else np.uint8) for index in range(8)]
    assert settle(recipe(channels=1), open_source(items)).data.bits == bits


def test_other_channels_are_refused_with_the_number_to_set() -> None:
    with pytest.raises(
        UserError, match=r"8 of 8 pictures.*data.channels=3; most of them have 5. Set data.channels=5"
    ):
        settle(recipe(), grey(9, channels=5))


def test_measuring_anew_is_possible() -> None:
    before = recipe(channels=1, bits=16, normalisation="measure", mean=(0.1,), std=(0.1,))
    assert resolve_recipe(before).data.mean == (0.1,)
    assert resolve_recipe(before, overrides={"data.normalisation": "measure"}).data.mean is None
    chosen = {"data.normalisation": "measure", "data.mean": [0.3]}
    assert resolve_recipe(before, overrides=chosen).data.mean == (0.3,)
    assert settled_as(recipe(channels=1), before).data == before.data


def test_a_run_of_16_bits_from_start_to_evaluation(deep: Path, tmp_path: Path) -> None:
    overrides = {"data.channels": 1, "checkpoint.every": 4}
    run(deep, tmp_path / "whole", overrides=overrides, steps=8)
    saved = json.loads((tmp_path / "whole" / "recipe.json").read_text())["data"]
    assert saved["bits"] == 16 and saved["normalisation"] == "measure"
    # Interrupted after four steps, and continued without a word about the data.
    run(deep, tmp_path / "parts", overrides=overrides, steps=8)
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step_00000008")
    log = tmp_path / "parts" / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"end"' not in line))
    run(deep, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole", 8), weights(tmp_path / "parts", 8))
    _, card = read_card(tmp_path / "whole")
    assert card["bits"] == 16 and card["mean"] == saved["mean"] and card["std"] == saved["std"]
    result = evaluate("knn", tmp_path / "whole", data=deep, device="cpu", workers=0, k=3, progress=False)
    assert result["top1"] == 1  # dark and bright are one grey in 8 bits with ImageNet's numbers, not so here
    ((images, _, _),) = EvaluationLoader(open_source(deep), (32, 32), batch_size=24, channels=1, bits=16)
    inputs = normalise(images, saved["mean"], saved["std"])
    assert abs(inputs.mean()) < 0.1 and abs(inputs.std() - 1) < 0.2
    strip = np.asarray(Image.open(reconstruct(tmp_path / "whole", deep / "dark" / "0.png")).convert("L"))
    assert strip[40:150, 10:150].std() > 10  # to be seen, though the picture fills little of its range


def test_runs_from_before_there_was_a_depth_go_on_in_8_bits(deep: Path, tmp_path: Path) -> None:
    old = {"data.channels": 1, "data.bits": 8, "data.normalisation": "imagenet"}
    run(deep, tmp_path / "run", overrides=old, steps=2)
    path = tmp_path / "run" / "recipe.json"
    saved = json.loads(path.read_text())
    for name in ("bits", "normalisation"):
        del saved["data"][name]
    path.write_text(json.dumps(saved))
    assert Recipe.from_json(path).data.depth == 8
    assert run(deep, tmp_path / "run", resume=True).step == 2


def test_a_python_dataset_trains_and_goes_on(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.rand(3, 24, 24, generator=generator), index % 2) for index in range(16)]
    run(data, tmp_path / "run", steps=3)
    start = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert start["data"] == "a list of 16 images"
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"]["bits"] == 32
    assert run(data, tmp_path / "run", resume=True).step == 3
    found = evaluate("knn", tmp_path / "run", data=data, device="cpu", workers=0, k=1, progress=False)
    assert found["data"] == "a list of images" and found["classes"] == ["0", "1"]
