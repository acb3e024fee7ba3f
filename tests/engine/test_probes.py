"""Probes: what they measure, what they cost, and that training does not notice them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.tiny import TINY, events, lines, pictures, run, same, training, weights
from unmask import load_encoder
from unmask.data import open_source
from unmask.engine.machine import Machine
from unmask.engine.pretrain import pretrain
from unmask.engine.probes import MOST_IMAGES, SHARE, Probes, planned
from unmask.engine.setup import Job, prepare
from unmask.errors import UserError
from unmask.evaluate import features_of
from unmask.recipes.resolve import resolve_recipe
from unmask.spread import effective_rank, spread

PROBED = {"probe.every": 1}  # epochs, of six steps


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reddish and bluish pictures."""
    folder = tmp_path_factory.mktemp("data") / "labelled"
    generator = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (folder / name).mkdir(parents=True)
        for index in range(30):
            blocks = generator.integers(0, 120, (6, 6, 3), dtype=np.uint8)
            blocks[..., channel] += 120
            Image.fromarray(blocks.repeat(6, 0).repeat(6, 1)).save(folder / name / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Soft gradients of all colours: what is hidden can be told from the rest."""
    folder = tmp_path_factory.mktemp("data") / "smooth"
    generator = np.random.default_rng(0)
    for index in range(64):
        name = folder / "ab"[index % 2] / f"{index:03d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        corners = Image.fromarray(generator.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        corners.resize((36, 36), Image.Resampling.BICUBIC).save(name)
    return folder


def probes_in(out: Path) -> list[dict[str, Any]]:
    return [line for line in lines(out) if line.get("event") == "probe"]


def job(data: Path, out: Path, overrides: dict[str, Any] | None = None) -> Job:
    torch.set_num_threads(1)
    options: dict[str, Any] = {"encoder": "vit_tiny_patch16_224", "image_size": (32, 32), "batch_size": 8}
    recipe = resolve_recipe("mae", **options, steps=6, overrides=TINY | PROBED | (overrides or {}))
    machine = Machine(device="cpu", precision="fp32", workers=0, compile=False, checkpointing=False)
    return prepare(recipe, open_source(data), out, machine)


@pytest.mark.parametrize("overrides", [{"optim.ema": 0.9}, {"encoder.drop_path_rate": 0.3}])
def test_training_does_not_notice_probes(labelled: Path, tmp_path: Path, overrides: dict[str, float]) -> None:
    run(labelled, tmp_path / "without", steps=9, overrides=overrides)
    run(labelled, tmp_path / "with", steps=9, overrides=overrides | PROBED)
    assert [probe["step"] for probe in probes_in(tmp_path / "with")] == [0, 7, 9]
    assert training(tmp_path / "without") == training(tmp_path / "with")
    assert same(weights(tmp_path / "without", 9), weights(tmp_path / "with", 9))


def test_the_first_step_is_not_kept_waiting(data: Path, tmp_path: Path) -> None:
    """The weights of before it are probed after it, whatever it made of them."""
    outs = [tmp_path / name for name in ("slow", "fast")]
    for out, rate in zip(outs, (1e-6, 1e-2), strict=True):
        run(data, out, steps=2, overrides=PROBED | {"optim.lr": rate, "schedule.warmup_epochs": 0})
    (slow, *later), (fast, *others) = map(probes_in, outs)
    assert slow["step"] == 0 and slow["probe_loss"] == fast["probe_loss"]
    assert slow["effective_rank"] == fast["effective_rank"]
    assert later[-1]["probe_loss"] != others[-1]["probe_loss"]
    written = [line["step"] for line in lines(outs[0]) if "loss" in line or line.get("event") == "probe"]
    assert written[:2] == [1, 0]


@pytest.mark.slow
def test_probes_do_not_depend_on_interruptions(labelled: Path, tmp_path: Path) -> None:
    def figures(out: Path) -> list[dict[str, Any]]:
        return [
            {name: probe[name] for name in probe if name not in ("time", "seconds")}
            for probe in probes_in(out)
        ]

    overrides = PROBED | {"checkpoint.every": 5, "checkpoint.keep": 9}
    run(labelled, tmp_path / "whole", steps=14, overrides=overrides)
    out = tmp_path / "run"
    run(labelled, out, steps=14, overrides=overrides)
    # As if killed after the checkpoint at step 10.
    for path in sorted((out / "checkpoints").iterdir())[1:]:
        if int(path.name.removeprefix("step_")) > 10:
            path.rename(tmp_path / path.name)
    kept = [line for line in (out / "log.jsonl").read_text().splitlines(keepends=True) if '"end"' not in line]
    (out / "log.jsonl").write_text("".join(kept))
    run(labelled, out, resume=True, overrides=overrides)
    assert figures(out) == figures(tmp_path / "whole")
    assert same(weights(out, 14), weights(tmp_path / "whole", 14))
    card = json.loads((tmp_path / "whole" / "encoder_best.json").read_text())
    assert json.loads((out / "encoder_best.json").read_text())["made_by"] == card["made_by"]


def test_figures_are_those_of_the_features(data: Path, tmp_path: Path) -> None:
    of = job(data, tmp_path, {"probe.images": 40})
    before = torch.get_rng_state()
    of.learner.train()
    facts = Probes(of).measure(6)
    assert of.learner.training and all(module.training for module in of.learner.modules())
    assert torch.equal(torch.get_rng_state(), before)
    assert facts["images"] == 40 and "knn" not in facts
    vectors = features_of(of.learner.encoder)
    indices = [index * 50 // 40 for index in range(40)]
    images = [
        np.asarray(Image.open(data / f"{index:03d}.png").resize((32, 32), 3, (2.25,) * 2 + (33.75,) * 2))
        for index in indices
    ]
    with torch.no_grad():
        features = vectors(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    assert facts["effective_rank"] == pytest.approx(effective_rank(features), rel=0.02)
    assert facts["spread"] == pytest.approx(spread(features), rel=0.02)
    assert (facts["constant"], facts["copies"]) == (0, 0)
    assert facts == Probes(of).measure(6) | {"seconds": facts["seconds"]}  # the same images and masks again
    with Image.open(tmp_path / "images" / "neighbours_00000006.png") as sheet:
        assert sheet.height > 700


def test_classes_are_found_and_the_best_encoder_is_kept(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    scores = iter([0.9, 0.4, 0.7, 0.6, 0.5])
    measure = Probes.measure

    def scored(self: Probes, step: int) -> dict[str, Any]:
        facts = measure(self, step)
        assert facts["classes"] == 2 and facts["linear"] == 1  # the colours say it all
        return facts | {"linear": next(scores)}

    monkeypatch.setattr(Probes, "measure", scored)
    run(labelled, out, steps=28, overrides=PROBED | {"checkpoint.every": 2, "checkpoint.keep": 2})
    # Random weights, step 0, are no candidate.
    assert json.loads((out / "encoder_best.json").read_text())["made_by"]["step"] == 14
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["step_00000014", "step_00000026", "step_00000028"]
    best = load_encoder(out / "encoder_best.safetensors").model.state_dict()
    checkpoint = weights(out, 14)
    assert all(torch.equal(value, checkpoint[f"encoder.model.{name}"]) for name, value in best.items())
    assert "encoder of step 14, which scored best" in (out / "report.html").read_text()


def test_labelled_images_elsewhere(data: Path, labelled: Path, tmp_path: Path) -> None:
    facts = Probes(job(data, tmp_path, {"probe.data": str(labelled), "probe.images": 30})).measure(6)
    assert (facts["images"], facts["classes"], facts["knn"]) == (30, 2, 1)
    for wrong, message in ((tmp_path / "nowhere", "There is no"), (data, "carry no labels")):
        with pytest.raises(UserError, match=f"probe.data=.*{message}"):
            run(data, tmp_path / "run", overrides=PROBED | {"probe.data": str(wrong)})
        assert not (tmp_path / "run").exists()


def test_folders_of_single_images_are_no_classes(tmp_path: Path) -> None:
    for index in range(20):
        folder = tmp_path / "pictures" / str(index)
        folder.mkdir(parents=True)
        Image.effect_noise((32, 32), 90).save(folder / "a.png")
    assert "classes" not in Probes(job(tmp_path / "pictures", tmp_path)).measure(6)


def test_constant_images_are_counted(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 24)
    for index in range(12):
        Image.new("RGB", (36, 36), (index % 4, 9, 9)).save(folder / f"{index:03d}.png")
    facts = Probes(job(folder, tmp_path)).measure(6)
    assert (facts["constant"], facts["copies"]) == (0.5, round(8 / 24, 4))


def test_unreadable_images_are_left_out(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures")
    (folder / "007.png").write_bytes(b"no picture")
    assert Probes(job(folder, tmp_path)).measure(6)["images"] == 49


def test_weights_that_are_not_finite_are_no_obstacle(data: Path, tmp_path: Path) -> None:
    of = job(data, tmp_path)
    with torch.no_grad():
        next(of.learner.encoder.parameters()).fill_(torch.nan)
    facts = Probes(of).measure(6)
    assert facts["probe_loss"] is None and "effective_rank" not in facts
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    ("total", "images", "batch"), [(24, 50, 8), (2_000, 1_100, 64), (400_000, 10**6, 1024)]
)
def test_cost_is_bounded(total: int, images: int, batch: int) -> None:
    recipe = resolve_recipe("mae", batch_size=batch, steps=total)
    steps, count = planned(recipe, total, images // batch)
    assert 0 in steps and total in steps and len(steps) <= 6
    assert 64 <= count <= MOST_IMAGES
    assert count == 64 or count * len(steps) <= SHARE * total * batch
    none, _ = planned(
        resolve_recipe("mae", steps=total, overrides={"probe.every": 0}), total, images // batch
    )
    assert none == frozenset()


def test_large_images_stay_within_memory() -> None:
    recipe = resolve_recipe("mae", image_size=1024, steps=10**6, overrides={"probe.images": 10**6})
    assert planned(recipe, 10**6, 100)[1] * 3 * 1024**2 <= 256 * 2**20


def test_run_that_collapses_is_told_so(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Weights decay by 40 % a step: what is left ignores the images.
    overrides = {"probe.every": None, "optim.weight_decay": 40, "schedule.warmup_epochs": 0}
    run(data, out, steps=60, lr=1e-2, overrides=overrides | {"schedule.kind": "constant"})
    verdict = lines(out)[-2]
    found = {finding["about"]: finding for finding in verdict["findings"]}
    assert verdict["level"] == "bad"
    assert found["features"]["what"].startswith("The encoder has collapsed")
    assert "Something is wrong" in (out / "report.html").read_text()


def test_run_with_a_learning_rate_a_thousand_times_too_high_is_told_so(
    labelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    overrides = {"probe.every": None, "schedule.warmup_epochs": 0, "method.norm_target": False}
    run(labelled, out, steps=60, lr=3.0, overrides=overrides)
    verdict = lines(out)[-2]
    found = {finding["about"]: finding for finding in verdict["findings"]}
    assert found["divergence"]["level"] == "bad" and "smaller --lr" in found["divergence"]["remedy"]


def test_run_on_constant_images_is_told_so(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    for index in range(40):
        Image.new("RGB", (40, 40), (index * 6, 128, 128)).save(folder / f"{index}.jpg", quality=70)
    out = tmp_path / "run"
    run(folder, out, steps=30, overrides={"probe.every": None})
    verdict = lines(out)[-2]
    assert verdict["level"] == "bad"
    assert verdict["findings"][0]["what"].startswith(
        "100% of 40 images that were looked at are of one colour"
    )


HEALTHY: dict[str, dict[str, Any]] = {
    "mae": {"steps": 400, "overrides": {**TINY, "method.norm_target": False}},
    "mae_normalised": {"overrides": TINY},
    "simmim_vit": {
        "steps": 400,
        "overrides": {key: TINY[key] for key in TINY if "decoder" not in key} | {"method.mask_size": 8},
    },
    "simmim_swin": {
        "encoder": "swin_tiny_patch4_window7_224",
        "overrides": {
            "encoder.embed_dim": 12,
            "encoder.depths": (2, 2),
            "encoder.num_heads": (1, 2),
            "method.mask_size": 8,
        },
    },
}
QUICK = "mae_normalised", "simmim_swin"


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in HEALTHY if name not in QUICK)]
)
def test_healthy_run_is_called_healthy(smooth: Path, tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    options = {"encoder": "vit_tiny_patch16_224", "steps": 80} | HEALTHY[name]
    options["overrides"] = options["overrides"] | {"probe.every": None, "schedule.warmup_epochs": 1}
    usual: dict[str, Any] = {"image_size": (32, 32), "batch_size": 8, "lr": 3e-3, "workers": 0}
    method, out = name.partition("_")[0], tmp_path / "run"
    pretrain(method, data=smooth, out=out, device="cpu", progress=False, **usual, **options)
    verdict = lines(out)[-2]
    assert verdict["level"] == "good", verdict["findings"]
    assert {"loss", "features", "accuracy", "trend", "gradient"} == {
        finding["about"] for finding in verdict["findings"]
    }
    assert events(out)[-1] == "end"
