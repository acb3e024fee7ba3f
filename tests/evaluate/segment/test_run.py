"""From a run and a folder of scenes to a segmenter."""

import csv
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.evaluate.segment.scenes import SIZE, write_scenes
from tests.tiny import tiny_encoder
from unmask.cli import app
from unmask.encoders.itpn import Pyramid
from unmask.engine import labelled as loop
from unmask.engine.task import Process
from unmask.errors import UserError
from unmask.evaluate.backbone import find_parts
from unmask.evaluate.segment import RECIPES, load_segmenter, segment
from unmask.evaluate.segment import run as command
from unmask.evaluate.segment.layouts import find_mask_files
from unmask.evaluate.segment.recipes import SegmentRecipe, default
from unmask.evaluate.segment.run import build_network, named_recipe
from unmask.evaluate.segment.score import confusion
from unmask.evaluate.segment.segmenter import Segmenter, Training
from unmask.evaluate.segment.task import SegmentTask
from unmask.export import save_encoder
from unmask.load import load_pyramid
from unmask.recipes.tasks import with_settings

STATISTICS = {"mean": [0.4] * 3, "std": [0.3] * 3, "made_by": {}}
SMALL = {"network.width": 16, "network.auxiliary_width": 8, "data.jitter": [0, 0, 0, 0]}
QUIET: dict[str, Any] = {"device": "cpu", "precision": "fp32", "workers": 0, "progress": False}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    for name in ("vit", "swin", "hivit", "revcolv2"):
        pyramid = Pyramid(48, width=16, depth=1) if name == "hivit" else None
        save_encoder(tiny_encoder(name), folder / name, pyramid=pyramid, **STATISTICS)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), parts={"training": 8, "validation": 3})


def test_it_learns_scenes_whose_colours_tell_the_class(encoders: Path, scenes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = segment(
        encoders / "vit",
        data=scenes,
        out=tmp_path,
        steps=40,
        batch_size=4,
        lr=3e-3,
        overrides={**SMALL, "schedule.warmup_epochs": 0},
        **QUIET,
    )
    assert run.step == run.total == 40
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["miou"] > 0.7 and metrics["pixel_accuracy"] > 0.8
    assert metrics["neck"] == "deconvolution" and metrics["unreadable"] == {}
    with (tmp_path / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["0", "1", "2"]
    assert sum(int(row["pixels"]) for row in rows) == 3 * (SIZE[0] * SIZE[1] - 1)  # one pixel has no class
    assert np.mean([float(row["iou"]) for row in rows]) == pytest.approx(metrics["miou"], abs=1e-5)
    with Image.open(tmp_path / "images" / "segmentation.png") as sheet:
        assert sheet.width > 800
    # What is handed over says the same as what was measured.
    segmenter = load_segmenter(tmp_path)
    right = total = 0
    for number in range(3):
        with Image.open(scenes / "images" / "validation" / f"{number}.png") as picture:
            said = segmenter.predict(picture)
        truth = np.asarray(Image.open(scenes / "annotations" / "validation" / f"{number}.png"))
        right, total = right + int((said == truth).sum()), total + int((truth != 255).sum())
    assert right / total == pytest.approx(metrics["pixel_accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "neck"), [("swin", "native"), ("hivit", "pretrained"), ("revcolv2", "levels")]
)
def test_every_family_goes_through_the_same_command(
    name: str, neck: str, encoders: Path, scenes: Path, tmp_path: Path
) -> None:
    segment(encoders / name, data=scenes, out=tmp_path, steps=2, batch_size=2, overrides=SMALL, **QUIET)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["neck"] == neck and 0 <= metrics["miou"] <= 1
    assert load_segmenter(tmp_path).backbone.neck_name == neck


def test_an_encoder_may_be_given_and_stays_as_it_is(scenes: Path, tmp_path: Path) -> None:
    encoder = tiny_encoder("vit")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    segment(encoder, data=scenes, out=tmp_path, steps=1, batch_size=2, overrides=SMALL, **QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert json.loads((tmp_path / "recipe.json").read_text())["start"] == encoder.architecture["model_name"]


def test_names_of_classes_are_found_from_any_folder(
    encoders: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\n", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    options: dict[str, Any] = {"data": scenes, "out": tmp_path / "run", "steps": 1, "batch_size": 2, **QUIET}
    monkeypatch.chdir(tmp_path)
    segment(encoders / "vit", overrides={**SMALL, "data.classes": "names.txt"}, **options)
    assert load_segmenter(tmp_path / "run").classes == ("a", "b", "c")
    segment(encoders / "vit", overrides={"data.classes": "names.txt"}, resume=True, **options)
    monkeypatch.chdir(tmp_path / "elsewhere")
    segment(encoders / "vit", resume=True, **options)


def test_a_run_among_the_pictures_is_refused(encoders: Path, tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path, parts={".": 4})
    with pytest.raises(UserError, match="lies inside the data"):
        segment(encoders / "vit", data=scenes, out=scenes / "images" / "run", **QUIET)
    assert not (scenes / "images" / "run").exists()


def built(start: str, recipe: SegmentRecipe, classes: tuple[str, ...]) -> Training:
    parts = find_parts(start, image_size=recipe.data.image_size, seed=recipe.seed)
    return build_network(*parts, recipe, classes)


def test_the_pyramid_of_the_run_is_what_training_starts_from(encoders: Path) -> None:
    recipe = with_settings(default(), overrides={**SMALL, "network.neck": "pretrained"})
    start = str(encoders / "hivit")
    network = built(start, recipe, ("a", "b"))
    trained = load_pyramid(start)
    assert trained is not None
    own = network.segmenter.backbone.neck.state_dict()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(own[f"pyramid.{name}"], tensor)
    random = with_settings(recipe, overrides={"network.random": True})
    other = built(start, random, ("a", "b"))
    drawn = other.segmenter.backbone.state_dict()
    before = network.segmenter.backbone.state_dict()
    matrices = [name for name, tensor in before.items() if tensor.ndim > 1 and "pos_embed" not in name]
    assert all(not torch.equal(drawn[name], before[name]) for name in matrices)
    ablated = with_settings(recipe, overrides={"network.neck": "native"})
    assert not list(built(start, ablated, ("a", "b")).segmenter.backbone.neck.parameters())


def test_layers_learn_at_the_rates_of_their_depth(encoders: Path, scenes: Path) -> None:
    recipe = with_settings(default(), overrides=SMALL)
    network = built(str(encoders / "vit"), recipe, ("a", "b", "c"))
    task = SegmentTask(network, *find_mask_files(scenes), recipe)
    depths = {name: task.depth_of(name) for name, _ in network.named_parameters()}
    prefix = "segmenter.backbone.encoder.model."
    assert task.blocks == 2 and depths[f"{prefix}patch_embed.proj.weight"] == 0
    assert depths[f"{prefix}blocks.1.mlp.fc1.weight"] == 2
    outside = {name: depth for name, depth in depths.items() if not name.startswith(prefix)}
    assert any("head" in name for name in outside) and any("neck" in name for name in outside)
    assert set(outside.values()) == {None}


def test_validation_is_of_the_data_set_however_many_processes_share_it(encoders: Path, scenes: Path) -> None:
    recipe = with_settings(default(), overrides=SMALL)
    network = built(str(encoders / "vit"), recipe, ("a", "b", "c"))
    task = SegmentTask(network.eval(), *find_mask_files(scenes), recipe)
    whole = task.validate(network, Process(device=torch.device("cpu")))

    class Two(Process):
        """The first of two, that is told what the other one found."""

        def together(self, found: Any) -> Any:
            other = Process(device=torch.device("cpu"), index=1, count=2)
            assert other.share(3) == range(1, 3, 2)
            if not isinstance(found[0], torch.Tensor):
                return found
            scene = task.validation.read(1)
            with torch.no_grad():
                said = network.segmenter.scores(scene.pixels).argmax(0)
            return [*found, confusion(said, torch.from_numpy(scene.mask).long(), 3)]

    assert task.validate(network, Two(device=torch.device("cpu"), index=0, count=2)) == whole


@pytest.mark.skipif(sys.platform != "linux", reason="others cannot tell who sent a signal")
def test_a_signal_to_the_whole_group_leaves_the_validation_running(
    encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = write_scenes(tmp_path, parts={"training": 1, "validation": 64})
    recipe = with_settings(default(), overrides=SMALL)
    network = built(str(encoders / "vit"), recipe, ("a", "b", "c"))
    task = SegmentTask(network.eval(), *find_mask_files(scenes), recipe)
    plain = task.validate(network, Process(device=torch.device("cpu")))
    scores = Segmenter.scores
    told: list[str] = []

    def signalled(*given: Any, **named: Any) -> torch.Tensor:
        if not told:
            told.extend(str(worker.pid) for worker in multiprocessing.active_children())
            subprocess.run(["kill", "-TERM", *told], check=True)
        return scores(*given, **named)

    monkeypatch.setattr(Segmenter, "scores", signalled)
    assert task.validate(network, Process(device=torch.device("cpu"), workers=1)) == plain
    assert len(told) == 1


def test_a_run_that_goes_on_is_the_run(encoders: Path, scenes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": scenes, "batch_size": 4, "steps": 6, "overrides": SMALL, **QUIET}
    segment(encoders / "vit", out=tmp_path / "whole", **options)
    task_steps = {**options, "overrides": {**SMALL, "checkpoint.every": 3}}
    seen = loop._update
    calls = []

    def stopping(*given: Any, **named: Any) -> Any:
        calls.append(named["step"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return seen(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_update", stopping)
        with pytest.raises(KeyboardInterrupt):
            segment(encoders / "vit", out=tmp_path / "cut", **task_steps)
    with pytest.raises(UserError, match="the recipe of this one is default, not mae_vit_base_ade20k"):
        segment(
            encoders / "vit", out=tmp_path / "cut", resume=True, recipe="mae_vit_base_ade20k", **task_steps
        )
    segment(encoders / "vit", out=tmp_path / "cut", resume=True, recipe="default", **task_steps)
    assert calls == [0, 1, 2, 3, 4]
    whole, cut = (load_segmenter(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


def test_pictures_that_break_later_are_left_out_and_said(
    encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "survey", lambda *_given, **_named: np.ones(3))
    scenes = write_scenes(tmp_path / "scenes", parts={"training": 4, "validation": 3})
    path = scenes / "images" / "validation" / "1.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    segment(
        encoders / "vit", data=scenes, out=tmp_path / "run", steps=1, batch_size=2, overrides=SMALL, **QUIET
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["unreadable"]) == [str(path)] and metrics["miou"] is not None


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole(name: str) -> None:
    recipe = named_recipe(name)
    assert recipe.name == name and type(recipe).model_validate_json(recipe.to_json()) == recipe
    if name != "default":
        text = RECIPES[name].__doc__ or ""
        assert all(
            field in text for field in ("Source:", "Command:", "Published:", "Cost:", "Reproduced by us:")
        )
        assert recipe.data.reduce_zero_label and recipe.network.norm == "batch"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--recipe", "mine"], "there is no recipe 'mine'"),
        (["network.nek=simple"], "Did you mean network.neck"),
        (["network.neck=pretrained"], "trained together with the encoder"),
        (["--val-data", "."], "go with --annotations"),
        (["--image-size", "30"], "cannot take images of 30 x 30"),
        (["--batch-size", "100"], "fewer than one batch of 100"),
        (["network.norm=batch", "--batch-size", "4", "optim.accumulate=4"], "and here it is one"),
        (["data.reduce_zero_label=true", "data.classes=NAMES"], "'a', is that of index 1"),
        (["--annotations", "nothing.json"], "There is no file nothing.json"),
    ],
)
def test_mistakes_are_explained(
    extra: list[str], message: str, encoders: Path, scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "names").write_text("a\nb\nc\n", encoding="utf-8")
    extra = [one.replace("NAMES", str(tmp_path / "names")) for one in extra]
    given = [str(encoders / "vit"), "--data", str(scenes), "--out", str(tmp_path / "run"), *extra]
    result = CliRunner().invoke(app, ["evaluate", "segment", *given])
    assert isinstance(result.exception, UserError) and message in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_pixels_have_nothing_to_train(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights to train"):
        segment("pixels", data=scenes, out=tmp_path / "run", **QUIET)
