"""Runs side by side: the same mask for all, losses on a common scale, and what a row says."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import SAFE_WEIGHTS_NAME
from PIL import Image
from safetensors.torch import save_file

import unmask
from tests.tiny import DECODER
from unmask.compare import compare
from unmask.compare.curves import charts
from unmask.compare.pictures import LABEL, common_mask, comparison, finer
from unmask.compare.runs import names_of, read_entries
from unmask.drawing import GAP, HIDDEN, HIDDEN_EDGE
from unmask.errors import UserError
from unmask.masking import Mask
from unmask.methods import METHODS, Method
from unmask.recipes.base import Choice, Data, Optim, Recipe
from unmask.recipes.build import build_method

VIT = {"embed_dim": 48, "depth": 1, "num_heads": 3, "patch_size": 8}
LENGTH = 50  # steps

MakeRun = Callable[..., Path]


def log_lines(
    *, loss: float, guess: float | None, accuracy: float | None, ends: bool
) -> list[dict[str, Any]]:
    """A run whose loss falls from twice `loss` to `loss` at half its length."""
    lines: list[dict[str, Any]] = [{"event": "start", "step": 0, "time": 0.0, "images": 90, "steps": LENGTH}]
    for step in range(1, LENGTH + 1):
        value = loss * max(1.0, 2 - 2 * step / LENGTH)
        lines.append({"step": step, "loss": value, "lr": 1e-3 * step / LENGTH, "time": 6.0 * step})
    probe = {"event": "probe", "step": LENGTH, "images": 50, "time": 301.0}
    trivial = {} if guess is None else {"trivial": {"predicting one grey": guess, "copying": 2 * guess}}
    scores = {} if accuracy is None else {"linear": accuracy}
    lines.append({**probe, **trivial, **scores})
    return [*lines, {"event": "end", "step": LENGTH, "time": 302.0}] if ends else lines


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run folder with a recipe, a log, and one checkpoint of random weights."""

    def make(
        name: str,
        method: str = "mae",
        *,
        size: tuple[int, int] = (64, 64),
        batch: int = 32,
        loss: float = 0.5,
        guess: float | None = 1.0,
        accuracy: float | None = 0.4,
        ends: bool = True,
        patch: int = 8,
    ) -> Path:
        options = DECODER if method == "mae" else {"mask_size": patch}
        recipe = Recipe(
            name=f"{method} of the tests",
            method=Choice(name=method, **options),
            encoder=Choice(name="vit_tiny_patch16_224", **{**VIT, "patch_size": patch}),
            data=Data(image_size=size),
            optim=Optim(batch_size=batch),
        )
        folder = tmp_path / name
        checkpoint = folder / "checkpoints" / "step_00000050"
        checkpoint.mkdir(parents=True)
        (folder / "recipe.json").write_text(recipe.to_json())
        lines = log_lines(loss=loss, guess=guess, accuracy=accuracy, ends=ends)
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        torch.manual_seed(0)
        save_file(build_method(recipe).state_dict(), checkpoint / SAFE_WEIGHTS_NAME)
        return folder

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(path)
    return paths


def test_names_are_as_short_as_they_can_be() -> None:
    places = [Path("/x/runs/a"), Path("/x/runs/b"), Path("/y/old/b")]
    assert names_of(places) == ["a", "runs/b", "old/b"]


def test_a_row_says_what_a_run_was_and_reached(make_run: MakeRun) -> None:
    first = make_run("first", loss=0.5, guess=1.25, accuracy=0.4)
    second = make_run("second", "simmim", batch=16, guess=None, accuracy=None, ends=False)
    event = {"event": "evaluation", "kind": "knn", "score": 0.45, "step": 40, "time": 400.0}
    with (first / "log.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    rows = compare([first, second]).rows
    assert rows[0]["images"] == LENGTH * 32 and rows[1]["images"] == LENGTH * 16
    assert rows[0]["minutes"] == pytest.approx(5.0)
    assert rows[0]["loss"] == pytest.approx(0.5) and rows[0]["guess"] == 1.25
    assert (rows[0]["accuracy"], rows[0]["measured_by"], rows[0]["measured_at"]) == (0.45, "k-NN", 40)
    assert rows[1]["guess"] is rows[1]["accuracy"] is None
    assert [row["status"] for row in rows] == ["finished", "unfinished"]
    assert [row["method"] for row in rows] == ["MAE", "SimMIM"]


def test_losses_share_an_axis_only_as_shares_of_a_guess(make_run: MakeRun) -> None:
    runs = [
        make_run("a", loss=0.5, guess=1.0),
        make_run("b", "simmim", batch=16, loss=3.0, guess=2.0),
        make_run("c", loss=7.0, guess=None),
    ]
    drawn = charts(read_entries(runs))
    assert [chart.title for chart in drawn] == [
        "Loss against guessing",
        "Loss of a",
        "Loss of b",
        "Loss of c",
        "Learning rate",
        "Accuracy",
    ]
    together, *rest = drawn
    assert set(together.curves) == {0, 1} and "not here: c" in together.note
    (images, mine), (other_images, other) = together.curves.values()
    assert images[-1] == LENGTH * 32 and other_images[-1] == LENGTH * 16
    assert mine[-1] == pytest.approx(0.5) and other[-1] == pytest.approx(1.5)
    assert mine[0] == pytest.approx(2 * 0.5, rel=0.1)
    assert all(len(chart.curves) == 1 for chart in rest[:3])
    assert rest[0].reference == {"the best guess": 1.0} and rest[2].reference == {}
    assert rest[-1].percent and list(rest[-1].curves[0][1]) == [0.4]


def test_one_mask_hides_the_same_pixels_in_every_grid() -> None:
    grids = [(8, 8), (16, 16), (4, 12), (8, 4)]
    mask = common_mask(grids[:2], 3, 0.75, seed=0)
    assert mask.grid == (8, 8) and mask.count == 48
    same = finer(mask, (16, 16))
    assert torch.equal(same.pixels(4), mask.pixels(8))
    assert same.count == 192 and (same.hidden.sum(1) == 192).all()
    assert common_mask(grids, 1, 0.5, seed=0).grid == (4, 4)
    assert torch.equal(common_mask(grids[:2], 3, 0.75, seed=0).hidden, mask.hidden)
    assert not torch.equal(common_mask(grids[:2], 3, 0.75, seed=1).hidden, mask.hidden)
    with pytest.raises(UserError, match="14 x 14, 12 x 12, which share only 2 x 2"):
        common_mask([(14, 14), (12, 12)], 1, 0.5, seed=0)
    with pytest.raises(UserError):
        common_mask(grids, 1, 1.5, seed=0)


def rows_of(drawn: Image.Image, count: int, side: int) -> list[np.ndarray]:
    """The first picture of every row."""
    array = np.asarray(drawn)
    return [array[row * (side + GAP) :][:side, LABEL : LABEL + side] for row in range(count)]


def test_every_run_gets_the_same_pictures_and_masks(make_run: MakeRun, pictures: list[Path]) -> None:
    runs = [make_run("coarse"), make_run("fine", "simmim", patch=4)]
    before = torch.random.get_rng_state()
    drawn = comparison(read_entries(runs), pictures, seed=0, mask_ratio=0.5)
    assert torch.equal(torch.random.get_rng_state(), before)
    original, masked, coarse, fine = rows_of(drawn, 4, 160)
    hidden = (
        np.isin(masked[..., :3].reshape(-1, 3).tolist(), (*HIDDEN, *HIDDEN_EDGE)).all(1).reshape(160, 160)
    )
    assert hidden.mean() == pytest.approx(0.5, abs=0.01)
    for row in (masked, coarse, fine):
        assert np.array_equal(row[~hidden], original[~hidden])
    assert not np.array_equal(coarse[hidden], original[hidden])
    assert not np.array_equal(coarse[hidden], fine[hidden])
    assert drawn.width == LABEL + 2 * (160 + GAP) - GAP


def test_runs_without_reconstructions_show_features_or_say_so(
    make_run: MakeRun, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = read_entries([make_run("pixels", "simmim"), make_run("none")])
    monkeypatch.setattr(METHODS["mae"], "reconstruct", Method.reconstruct)
    *_, blank = rows_of(comparison(entries, pictures, seed=0, mask_ratio=0.5), 4, 160)
    assert (blank[5:60, 5:-5, 3] == 0).all() and tuple(blank[0, 0, :3]) == HIDDEN  # nothing but a frame

    def features(self: Method, images: torch.Tensor, *, mask: Mask) -> tuple[torch.Tensor, torch.Tensor]:
        place = torch.arange(64.0).view(1, 64, 1).expand(len(images), 64, 4)
        return place, place.clone()

    monkeypatch.setattr(METHODS["mae"], "predict_features", features)
    _, masked, _, coloured = rows_of(comparison(entries, pictures, seed=0, mask_ratio=0.5), 4, 160)
    hidden = (masked[..., :3] == HIDDEN).all(-1)
    assert len(np.unique(coloured[hidden], axis=0)) <= 32 < len(np.unique(coloured[~hidden], axis=0))


def test_a_page_needs_nothing_else_and_a_png_has_everything(
    make_run: MakeRun, pictures: list[Path], tmp_path: Path
) -> None:
    runs = [make_run("one <run>"), make_run("two", "simmim", accuracy=None)]
    found = unmask.compare(runs, pictures=pictures, out=tmp_path / "out" / "page.html")
    assert found.path == tmp_path / "out" / "page.html"
    page = found.path.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page
    assert page.count("<svg") == 5 and "one &lt;run&gt;" in page and "one <run>" not in page
    assert "data:image/webp" in page
    small = compare(runs, out=tmp_path / "small.png").path
    large = compare(runs, pictures=pictures[0], out=tmp_path / "large.png").path
    with Image.open(str(small)) as without, Image.open(str(large)) as drawn:
        assert without.mode == drawn.mode == "RGB"
        assert drawn.height > without.height + 4 * 160


def test_mistakes_are_explained(make_run: MakeRun, pictures: list[Path], tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b"), make_run("wide", size=(64, 96))]
    with pytest.raises(UserError, match="two runs or more"):
        compare(runs[:1])
    with pytest.raises(UserError, match="given twice"):
        compare([runs[0], tmp_path / "." / "a"])
    with pytest.raises(UserError, match=r"no recipe\.json"):
        compare([runs[0], tmp_path])
    with pytest.raises(UserError, match=r"\.html or \.png"):
        compare(runs, out=tmp_path / "out.pdf")
    with pytest.raises(UserError, match="name one, for instance --out"):
        compare(runs, pictures=pictures)
    with pytest.raises(UserError, match="a 64 x 64, b 64 x 64, wide 64 x 96"):
        compare(runs, pictures=pictures, out=tmp_path / "out.html")
    with pytest.raises(UserError, match=r"none\.jpg cannot be read"):
        compare(runs[:2], pictures=tmp_path / "none.jpg", out=tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
