"""The table of all methods: rows that can be built, the arithmetic, and all from the images to the table."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from benchmarks import methods as bench
from unmask.engine.run import Run
from unmask.errors import UserError
from unmask.methods import METHODS
from unmask.recipes import SMALL, Recipe
from unmask.recipes.build import build_method, lacking
from unmask.recipes.resolve import resolve_recipe


def test_every_method_with_a_recipe_for_small_data_has_a_row() -> None:
    assert {row.method for row in bench.rows().values()} == {name for name in METHODS if name in SMALL}
    assert set(bench.VARIANTS) <= set(bench.rows())
    assert len({bench.slug(name) for name in bench.rows()}) == len(bench.rows())


@pytest.mark.parametrize("name", bench.rows())
def test_rows_share_data_and_encoder(name: str) -> None:
    row, common = bench.rows()[name], SMALL["mae"]()
    recipe = resolve_recipe(row.recipe, steps=1, overrides=row.settings)
    if lacking(recipe) is None:  # a tokenizer is trained first
        assert build_method(recipe).encoder.image_size == common.data.image_size
    assert row.recipe.data.crop_scale == common.data.crop_scale
    assert row.own_encoder or row.recipe.encoder == common.encoder
    parameters = bench.described(row.recipe)["parameters"]
    assert 0.4 < parameters / bench.described(common)["parameters"] < 2.5


def result(title: str, right: list[int], **facts: Any) -> dict[str, Any]:
    answers = [bool(one) for one in right]
    return {
        "title": title,
        "knn": answers,
        "linear": answers,
        "encoder": "ViT",
        "parameters": 2_000_000,
    } | facts


def test_a_row_is_compared_with_the_random_weights_of_its_seeds_and_its_encoder() -> None:
    minutes = {"processor": 2.0, "clock": 1.0}
    run = {"key": "a", "minutes": minutes, "images": 640}
    found = {
        "mae": [result("mae", [1, 1, 1, 0], seed=0, **run), result("mae", [1, 1, 0, 0], seed=1, **run)],
        "random-a": [
            result("random", [1, 0, 0, 0], seed=0, key="a"),
            result("random", [1, 1, 0, 0], seed=1, key="a"),
            result("random", [1, 1, 1, 1], seed=2, key="a"),
        ],
        "random-b": [result("random", [1, 1, 1, 1], seed=0, key="b")],
        "pixels": [result("raw pixels", [0, 0, 0, 1], seed=0)],
    }
    lines = bench.summarised(found)
    assert [line["title"] for line in lines] == ["random", "random", "raw pixels", "mae"]
    assert lines[-1]["linear gain"][0] == pytest.approx((0.5 + 0.0) / 2)
    assert lines[-1]["linear text"] == "62.5 ± 17.7"
    assert all("linear gain" not in line for line in lines[:-1])
    page = bench.markdown(lines, a_bench(Path("data"), Path("out")), 4)
    assert "| mae | ViT, 2.0 M | 2 | 640 | 2.0 | 62.5 ± 17.7 | 62.5 ± 17.7 | +25.0 ± " in page


def a_bench(data: Path, out: Path) -> bench.Bench:
    return bench.Bench(
        data=data, out=out, images=128, minutes=None, tokenizer_images=64, seeds=1, device="cpu", workers=0
    )


def test_from_images_to_the_table_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 64), ("test", 4)):
        for index in range(count):
            folder = tmp_path / "data" / part / ("dark", "light")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            level = generator.integers(0, 120, (24, 24, 3)) + 120 * (index % 2)
            Image.fromarray(level.astype(np.uint8)).save(folder / f"{index}.png")
    out = tmp_path / "out"
    monkeypatch.setattr(bench, "LITE0", "random:resnet18")  # the real one may not be installed

    def table(*options: str) -> str:
        command = ["methods", str(tmp_path / "data"), str(out), "--methods", "mae", "--seeds", "1", *options]
        monkeypatch.setattr(sys, "argv", [*command, "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            bench.main()
        if ended.value.code:
            raise ended.value
        return (out / "methods.md").read_text()

    first = table("--images", "128")
    lines = {line["title"]: line for line in json.loads((out / "methods.json").read_text())["lines"]}
    assert set(lines) == {"raw pixels", bench.RANDOM, "supervised teacher", "mae"}
    assert lines["supervised teacher"]["parameters"] > 10e6  # a ResNet-18
    assert lines["mae"]["images"] == 128 and lines["mae"]["minutes"]["processor"] > 0
    made = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert len(made) == 4
    assert table("--images", "128") == first
    assert "left out" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()} == made
    with pytest.raises(SystemExit, match="name another folder"):
        table("--images", "256")


def test_a_tokenizer_is_trained_once_and_named_to_every_row_that_lacks_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "train" / "one").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "train" / "one" / "0.png")
    trained: list[tuple[str, int]] = []

    def train(plan: Recipe, *, out: Path, steps: int, **_machine: Any) -> Run:
        trained.append((out.name, steps))
        return Run(folder=out, step=steps, total=steps, loss=0.0, seconds=1.0)

    plan = SMALL["mae"]()  # of a plan only name, batch size and seed are looked at
    monkeypatch.setattr(bench, "lacking", lambda recipe: "tokenizer" if recipe.name == "simmim" else None)
    monkeypatch.setattr(bench, "tokenizer_for", lambda recipe, images: plan)
    monkeypatch.setattr(bench, "train_tokenizer", train)
    one = a_bench(tmp_path / "data", tmp_path / "out")
    assert one.tokenizer(bench.rows()["mae"]) == {} and not trained
    folder = tmp_path / "out" / "runs" / "tokenizer-mae"
    for name in ("simmim", "simmim, Swin"):
        assert one.tokenizer(bench.rows()[name]) == {"method.tokenizer": str(folder)}
    assert trained == [("tokenizer-mae", 1)] * 2  # the second goes on with what is finished
    (line,) = bench.summarised(bench.results(tmp_path / "out"))
    assert (line["title"], line["images"]) == ("tokenizer mae", 64)
    assert "| tokenizer mae |  | 1 | 64 | " in bench.markdown([line], one, 1)


def test_a_row_that_cannot_be_had_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> dict[str, Any]:
        raise UserError("no teacher is installed")

    assert not bench.once(tmp_path / "results" / "beit-seed0.json", refuse, Console())
    assert "left out: no teacher is installed" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
