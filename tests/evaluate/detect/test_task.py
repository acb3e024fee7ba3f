"""A detector trained by the loop: what it learns, what it leaves, how it goes on."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.test_distributed import free_port
from tests.evaluate.detect.made import SMALL, write_json, write_shapes
from tests.tiny import tiny_encoder
from unmask import detect, load_detector
from unmask.engine.run import Run
from unmask.errors import UserError
from unmask.evaluate.backbone import find_parts
from unmask.evaluate.detect import task as validation
from unmask.evaluate.detect.found import look
from unmask.evaluate.detect.recipes import RECIPES, find_recipe
from unmask.evaluate.detect.task import DetectionTask
from unmask.evaluate.detect.training import _detector, _sets

OPTIONS: dict[str, Any] = {f"heads.{name}": value for name, value in SMALL.items()}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for name, masks in (("plain", ""), ("masked", "polygons")):
        write_shapes(root / name, f"{name}.json", count=8, masks=masks)
        write_shapes(root / f"{name}-val", f"{name}-val.json", count=3, seed=1, masks=masks)
    return root


def train(shapes: Path, out: Path, *, data: str = "plain", encoder: Any = None, **options: Any) -> Run:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    overrides = {**OPTIONS, "start.drop_path_rate": 0.1, **options.pop("overrides", {})}
    given = {"steps": 4, "image_size": 64, "precision": "fp32", "workers": 0, "progress": False, **options}
    return detect(
        encoder or tiny_encoder("vit"),
        data=shapes / data,
        annotations=shapes / f"{data}.json",
        val_data=shapes / f"{data}-val",
        val_annotations=shapes / f"{data}-val.json",
        out=out,
        device="cpu",
        overrides=overrides,
        **given,
    )


def test_what_a_run_leaves(shapes: Path, tmp_path: Path) -> None:
    run = train(shapes, tmp_path / "run", data="masked", overrides={"heads.kind": "cascade"})
    assert (run.step, run.interrupted) == (4, None)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["kind"] == "detect"
    assert {"AP", "AP50", "AP75", "AP_small", "mask_AP", "mask_AP50"} <= metrics.keys()
    assert (metrics["masks"], metrics["heads"], metrics["random"]) == (True, "cascade", False)
    assert metrics["validation"]["objects"] == 6
    assert [line["class"] for line in metrics["classes"]] == ["disc", "square"]
    with (run.folder / "classes.csv").open() as file:
        assert [line["objects"] for line in csv.DictReader(file)] == ["3", "3"]
    for line in json.loads((run.folder / "predictions.json").read_text()):
        assert line.keys() == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert line["category_id"] in (10, 20)
        assert line["segmentation"]["size"] == [48, 64]
    assert (run.folder / "detections.png").stat().st_size > 1000
    detector = load_detector(run.folder)
    assert detector.card.made_by["recipe"] == "small"
    best = load_file(run.folder / "best.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in detector.detector.state_dict().items())
    found = detector.find([shapes / "masked-val" / "masked-val-0.png"], threshold=0.0)[0]
    expected = [
        line["score"]
        for line in json.loads((run.folder / "predictions.json").read_text())
        if line["image_id"] == 1
    ]
    assert found.scores.round(5).tolist() == pytest.approx(expected, abs=2e-5)


def test_pictures_are_judged_at_the_larger_of_their_sizes(shapes: Path, tmp_path: Path) -> None:
    """In the run, and by the detector that is left."""
    overrides = {"data.scale": None, "data.short_side": (20, 30)}
    run = train(shapes, tmp_path / "run", steps=1, overrides=overrides)
    detector = load_detector(run.folder)
    assert detector.card.short_side == 30
    found = detector.find([shapes / "plain-val" / "plain-val-0.png"], threshold=0.0)[0]
    results = json.loads((run.folder / "predictions.json").read_text())
    expected = [line["score"] for line in results if line["image_id"] == 1]
    assert found.scores.round(5).tolist() == pytest.approx(expected, abs=2e-5)


def test_boxes_alone_where_there_are_no_masks_or_none_are_wanted(shapes: Path, tmp_path: Path) -> None:
    for data, overrides in (("plain", {}), ("masked", {"heads.masks": False})):
        run = train(shapes, tmp_path / data, data=data, steps=1, overrides=overrides)
        metrics = json.loads((run.folder / "metrics.json").read_text())
        assert not metrics["masks"]
        assert "mask_AP" not in metrics


def without_a_mask(file: Path) -> None:
    """Take the mask from the first object."""
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = []
    file.write_text(json.dumps(content))


def copied(shapes: Path, folder: Path) -> Path:
    for part in ("masked", "masked-val"):
        copytree(shapes / part, folder / part)
        copyfile(shapes / f"{part}.json", folder / f"{part}.json")
    return folder


def test_why_masks_are_not_learned_is_said(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied(shapes, tmp_path)
    without_a_mask(root / "masked.json")
    for overrides, learned, said in (
        ({}, False, "masked.json: 1 of 16 objects have no mask, so boxes alone are learned; --masks"),
        ({"heads.masks": True}, True, "masked.json: 1 objects without a mask"),
    ):
        run = train(root, root / str(learned), data="masked", steps=1, overrides=overrides, progress=True)
        assert json.loads((run.folder / "recipe.json").read_text())["heads"]["masks"] is learned
        assert said in capsys.readouterr().err


def test_a_run_goes_on_with_masks_when_one_is_gone(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether masks are learned is settled at the start, by the recipe; runs that left it open go on, too."""
    root = copied(shapes, tmp_path)
    options: dict[str, Any] = {"data": "masked", "steps": 2, "batch_size": 2}
    original = DetectionTask.losses

    def stopping(self: DetectionTask, *inputs: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return original(self, *inputs)

    for name in ("settled", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(DetectionTask, "losses", stopping)
            assert train(root, root / name, **options).interrupted == 143
    recipe = root / "open" / "recipe.json"
    content = json.loads(recipe.read_text())
    content["heads"]["masks"] = None
    recipe.write_text(json.dumps(content))
    assert train(root, root / "open", resume=True, **options).step == 2
    without_a_mask(root / "masked-val.json")
    run = train(root, root / "settled", resume=True, **options)
    assert run.step == 2
    assert "mask_AP" in json.loads((run.folder / "metrics.json").read_text())


def test_pictures_that_cannot_be_read(shapes: Path, tmp_path: Path) -> None:
    """Cut off after their header: another one is trained on, and on those to judge by nothing is found."""
    for part in ("plain", "plain-val"):
        copytree(shapes / part, tmp_path / part)
        copyfile(shapes / f"{part}.json", tmp_path / f"{part}.json")
        broken = tmp_path / part / f"{part}-0.png"
        broken.write_bytes(broken.read_bytes()[:60])
    run = train(tmp_path, tmp_path / "run", steps=2, batch_size=8)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["unreadable"] == 1
    assert metrics["validation"]["pictures"] == 3
    assert "plain-0.png" in (run.folder / "log.jsonl").read_text()


def final(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = sorted((folder / "checkpoints").iterdir())[-1].glob("*model*.safetensors")
    return load_file(path)


def test_stopped_and_resumed_is_as_never_stopped(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit on a CPU: what is sampled of anchors and boxes, too."""
    options: dict[str, Any] = {"steps": 5, "batch_size": 2, "data": "masked"}
    whole = train(shapes, tmp_path / "whole", **options)
    original, calls = DetectionTask.losses, []

    def stopping(self: DetectionTask, *inputs: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *inputs)

    monkeypatch.setattr(DetectionTask, "losses", stopping)
    assert train(shapes, tmp_path / "parts", **options).interrupted == 143
    run = train(shapes, tmp_path / "parts", resume=True, **options)
    assert (run.step, run.interrupted) == (5, None)
    ours, theirs = final(run.folder), final(whole.folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UserError, match="heads"):
        train(shapes, tmp_path / "parts", resume=True, **{**options, "overrides": {"heads.width": 8}})


@pytest.mark.skipif(sys.platform != "linux", reason="others cannot tell who sent a signal")
def test_a_signal_to_the_whole_group_leaves_the_validation_running(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def signalled(*given: Any, **named: Any) -> Any:
        told.append([str(worker.pid) for worker in multiprocessing.active_children()])
        subprocess.run(["kill", "-TERM", *told[-1]], check=True)
        return look(*given, **named)

    monkeypatch.setattr(validation, "look", signalled)
    overrides = {"validation.batch_size": 1}
    run = train(shapes, tmp_path / "run", steps=1, workers=1, overrides=overrides)
    assert (run.step, run.interrupted) == (1, None)
    assert len(told) == 6 and all(told)
    assert json.loads((run.folder / "metrics.json").read_text())["unreadable"] == 0


def test_rates_fall_towards_the_stem(shapes: Path) -> None:
    recipe = find_recipe("small").model_copy(
        update={"heads": RECIPES["small"]().heads.model_copy(update=SMALL)}
    )
    sets = _sets(
        recipe, shapes / "plain", shapes / "plain.json", shapes / "plain-val", shapes / "plain-val.json"
    )
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"image_size": (64, 64)})})
    parts = find_parts(tiny_encoder("vit"), image_size=64, seed=0)
    task = DetectionTask(*_detector(*parts, recipe, sets), recipe, sets)
    of = {name: task.depth_of(name) for name, _ in task.model.named_parameters()}
    inside = "levels.backbone.encoder.model."
    assert of[f"{inside}patch_embed.proj.weight"] == 0
    assert of[f"{inside}blocks.1.mlp.fc1.weight"] == 2
    assert of["levels.backbone.neck.1.each.0.0.weight"] is None
    assert of["heads.box_predictor.cls_score.weight"] is None
    assert task.blocks == 2


def test_the_random_baseline_has_the_same_heads_on_other_weights(shapes: Path) -> None:
    recipe = find_recipe("small")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"image_size": (64, 64)})})
    sets = _sets(
        recipe, shapes / "plain", shapes / "plain.json", shapes / "plain-val", shapes / "plain-val.json"
    )
    encoder = tiny_encoder("vit")
    made = {}
    for random in (False, True):
        own = recipe.model_copy(update={"start": recipe.start.model_copy(update={"random": random})})
        made[random], _ = _detector(*find_parts(encoder, image_size=64, seed=0), own, sets)
    given, drawn = (made[random].state_dict() for random in (False, True))
    weight = "levels.backbone.encoder.model.blocks.0.attn.qkv.weight"
    assert torch.equal(given[weight], encoder.model.blocks[0].attn.qkv.weight)
    assert not torch.equal(given[weight], drawn[weight])
    assert all(
        torch.equal(given[name], drawn[name])
        for name in given
        if not name.startswith("levels.backbone.encoder")
    )


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert type(recipe).model_validate_json(recipe.to_json()) == recipe
    assert all(side % 32 == 0 for side in recipe.data.image_size)
    if name != "small":
        doc = RECIPES[name].__doc__ or ""
        assert all(
            field in doc for field in ("Source:", "Command:", "Published:", "Cost:", "Reproduced by us:")
        )


def test_published_settings_of_vitdet() -> None:
    """detectron2's projects/ViTDet: 184,375 steps, of which rates fall at 163,889 and 177,546."""
    recipe = find_recipe("vitdet_base")
    steps = [round(epoch / 100 * 184_375) for epoch in recipe.schedule.milestones]
    assert steps == [163_889, 177_546]
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.layer_decay) == (1e-4, 0.1, 0.7)
    assert (recipe.heads.window, recipe.heads.global_blocks, recipe.heads.width) == (14, 4, 256)
    assert recipe.data.scales == (0.1, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "vitdet_bas"}, "did you mean vitdet_base"),
        ({"overrides": {"heads.kid": "cascade"}}, r"heads has no setting 'kid'.*heads.kind"),
        ({"overrides": {"heads.kind": "double"}}, r"heads.kind='double'"),
        ({"overrides": {"data.scale": (1.5, 0.5)}}, "from a low to a high factor"),
        ({"overrides": {"data.short_side": (60, 40), "data.scale": None}}, "from few to many pixels"),
        ({"overrides": {"data.short_side": (40, 60)}}, "needs jitter=none and scale=null"),
        ({"encoder": "pixels"}, "no weights to train"),
        ({"encoder": "runs/none"}, "There is no runs/none"),
        ({"image_size": 60}, "multiples of|cannot take"),
        ({"overrides": {"heads.masks": True}}, "None of the objects"),
        ({"overrides": {"heads.window": 4, "heads.global_blocks": 9}}, "between 0 and the 2 blocks"),
        ({"batch_size": 64}, "fewer than one batch"),
    ],
)
def test_messages(change: dict[str, Any], message: str, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(shapes, tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_nothing_to_find(shapes: Path, tmp_path: Path) -> None:
    empty = write_json(tmp_path / "empty.json", [{"id": 1, "file_name": "plain-0.png"}], [])
    with pytest.raises(UserError, match="no objects"):
        detect(
            tiny_encoder("vit"),
            data=shapes / "plain",
            annotations=shapes / "plain.json",
            val_annotations=empty,
            out=tmp_path / "run",
            progress=False,
        )


def test_what_is_missing_is_said_at_once(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval.core", None)
    with pytest.raises(UserError, match=r"pip install 'unmask\[detect\]'"):
        train(shapes, tmp_path / "run")


@pytest.mark.slow
def test_two_processes(shapes: Path, tmp_path: Path) -> None:
    """Every weight gets a gradient in both, and the figures are those of all pictures, once."""
    command = ["-m", "unmask", "evaluate", "detect", "random:vit_tiny_patch16_224", "--image-size", "64"]
    command += [
        "--data",
        shapes / "masked",
        "--annotations",
        shapes / "masked.json",
        "--out",
        tmp_path / "run",
    ]
    command += ["--val-data", shapes / "masked-val", "--val-annotations", shapes / "masked-val.json"]
    command += ["--steps", "3", "--batch-size", "4", "--workers", "0", "--device", "cpu", "--cascade"]
    command += [f"{name}={value}" for name, value in OPTIONS.items()]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={free_port()}",
    ]
    done = subprocess.run(
        [*launch, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("6 objects on 3 pictures") == 1
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "cascade"])
def test_boxes_and_masks_are_learned(kind: str, tmp_path: Path) -> None:
    """From random weights, in seconds: discs and squares on pictures that were not trained on."""
    for part, count in (("train", 48), ("train-val", 6)):
        write_shapes(tmp_path / part, f"{part}.json", count=count, seed=len(part), masks="runs")
    overrides = {
        "heads.kind": kind,
        "heads.width": 32,
        "heads.box_dim": 64,
        "schedule.warmup_steps": 10,
        "validation.every": 100,
    }
    run = train(tmp_path, tmp_path / "run", data="train", steps=72, lr=2e-3, overrides=overrides)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["AP50"] > 0.8
    assert metrics["mask_AP50"] > 0.8
