"""From a folder of pictures to figures: splits, baselines, files, the run's log, messages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluate.pictures import write_pictures
from tests.tiny import tiny_encoder
from unmask.errors import UserError
from unmask.evaluate import evaluate, score
from unmask.evaluate.subject import find_subject, untrained
from unmask.export import save_encoder
from unmask.recipes.base import Choice, Data, Recipe

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "train", each=20, seed=0)
    write_pictures(root / "val", each=8, seed=1)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a finished run leaves, as far as evaluation looks at it."""
    recipe = Recipe(
        name="mae",
        method=Choice(name="mae"),
        encoder=Choice(name="vit_tiny_patch16_224", position="sincos", init="mae", **VIT),
        data=Data(image_size=(64, 64)),
    )
    folder = tmp_path / "run"
    made_by = {"method": "mae", "step": 300}
    torch.manual_seed(5)
    encoder = tiny_encoder("vit")
    save_encoder(encoder, folder, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3), made_by=made_by)
    (folder / "recipe.json").write_text(recipe.to_json())
    (folder / "log.jsonl").write_text('{"step": 300, "loss": 0.5, "time": 1.0}\n{"torn')
    return folder


def quick(kind: str, run_or_name: Any, data: Path, **options: Any) -> dict[str, Any]:
    return evaluate(kind, run_or_name, data=data, device="cpu", progress=False, **options)


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_colours_are_told_apart_by_random_features(kind: str, data: Path, tmp_path: Path) -> None:
    result = quick(
        kind, tiny_encoder("vit"), data, baselines=True, baseline_seeds=2, json=tmp_path / "result.json"
    )
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert result["kind"] == kind
    assert result["top1"] > 0.9
    assert result["train"] == {"images": 60, "classes": 3}
    assert result["validation"] == {"images": 24, "classes": 3}
    assert result["classes"] == ["blue", "green", "red"]
    assert (result["pool"], result["layer"], result["seed"]) == ("mean", None, 0)
    assert list(result["baselines"]) == ["random initialisation", "raw pixels", "majority class"]
    drawn = result["baselines"]["random initialisation"]
    assert len(drawn["runs"]) == 2
    assert drawn["top1"] == pytest.approx(sum(drawn["runs"]) / 2)
    assert result["baselines"]["raw pixels"]["top1"] > 0.9
    assert result["baselines"]["majority class"]["top1"] == pytest.approx(1 / 3)


def test_same_result_twice_whatever_the_batches(data: Path) -> None:
    encoder = tiny_encoder("vit")
    results = [
        quick("linear", encoder, data, batch_size=batch, workers=workers)
        for batch, workers in ((64, 0), (7, 1))
    ]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


def test_the_callers_encoder_is_left_as_it_was(data: Path) -> None:
    encoder = tiny_encoder("vit").train()
    before = torch.get_rng_state()
    quick("knn", encoder, data, baselines=True)
    assert encoder.training
    assert torch.equal(torch.get_rng_state(), before)


def test_one_folder_is_split(data: Path) -> None:
    result = quick("knn", "pixels", data / "train")
    assert (result["train"]["images"], result["validation"]["images"]) == (48, 12)
    assert (result["encoder"], result["pool"]) == ("pixels", None)
    assert result["top1"] > 0.9


def test_options_reach_the_probe(data: Path) -> None:
    assert quick("knn", "pixels", data, k=3, temperature=0.5)["settings"] == {"k": 3, "temperature": 0.5}
    settings = quick("linear", "pixels", data, epochs=5, warmup_epochs=1, lr=1.6, flip=True)["settings"]
    assert settings == {"epochs": 5, "warmup_epochs": 1, "batch": 64, "flip": True, "lr": 1.6}


def test_run_folder_gets_an_event_and_a_report(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Path] = []
    monkeypatch.setattr("unmask.report.write_report", reports.append)
    result = quick("knn", run, data, baselines=True)
    lines = (run / "log.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"step": 300, "loss": 0.5, "time": 1.0}', '{"torn']
    event = json.loads(lines[2])
    assert (event["event"], event["kind"], event["step"]) == ("evaluation", "knn", 300)
    assert event["score"] == result["top1"]
    assert event["baselines"] == {name: value["top1"] for name, value in result["baselines"].items()}
    assert reports == [run]


def test_an_evaluation_shows_in_the_report(data: Path, run: Path) -> None:
    result = quick("knn", run, data, baselines=True)
    page = (run / "report.html").read_text()
    assert f"{result['top1']:.1%}" in page
    assert "raw pixels" in page


def test_the_runs_own_normalisation_is_used(run: Path) -> None:
    assert find_subject(run, image_size=None, seed=0).mean == (0.4, 0.4, 0.4)
    assert find_subject(tiny_encoder("vit"), image_size=None, seed=0).mean is None


def test_untrained_network_of_a_run_starts_as_the_run_did(run: Path) -> None:
    """The fixed sine-cosine table of the recipe, which the card does not know of, and other weights."""
    subject = find_subject(run, image_size=None, seed=0)
    fresh = untrained(subject, seed=1).encoder
    trained, drawn = subject.encoder.model.state_dict(), fresh.model.state_dict()
    assert torch.equal(trained["pos_embed"], drawn["pos_embed"])
    assert not torch.equal(trained["blocks.0.attn.qkv.weight"], drawn["blocks.0.attn.qkv.weight"])
    again = untrained(subject, seed=1).encoder.model.state_dict()
    assert all(torch.equal(again[name], drawn[name]) for name in drawn)


def test_another_image_size_goes_for_the_baseline_too(run: Path) -> None:
    subject = find_subject(run, image_size=(32, 64), seed=0)
    fresh = untrained(subject, seed=0)
    assert subject.encoder.grid == fresh.encoder.grid == (4, 8)


def test_random_weights_follow_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        subject = find_subject("random:vit_tiny_patch16_224", image_size=(32, 32), seed=seed)
        return subject.encoder.model.patch_embed.proj.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_score() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    found = score(torch.tensor([0, 0, 0, 0, 0, 0, 0, 1]), labels, 2)
    assert found["top1"] == pytest.approx(7 / 8)
    assert found["standard_error"] == pytest.approx((7 / 8 * 1 / 8 / 8) ** 0.5)
    assert found["mean_class_accuracy"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given | {"kind": "svm"}, "no evaluation 'svm'; possible are knn, linear, sweep"),
        (lambda given: given | {"epoch": 3}, "no option 'epoch'.*Options: k, temperature"),
        (lambda given: given | {"kind": "linear", "epoch": 3}, "did you mean 'epochs'"),
        (lambda given: given | {"run_or_name": "vit_tiny_patch61_224"}, "no encoder is called"),
        (lambda given: given | {"run_or_name": "runs/a"}, "There is no runs/a"),
        (lambda given: given | {"data": given["data"] / "train" / "red"}, "carry no labels"),
        (lambda given: given | {"data": given["data"] / "tests"}, "There is no file or folder"),
        (lambda given: given | {"json": given["data"] / "no" / "result.json"}, "a folder that is there"),
        (lambda given: given | {"pool": "cls", "run_or_name": tiny_encoder("swin")}, "cannot pool by 'cls'"),
        (lambda given: given | {"baselines": True, "baseline_seeds": 0}, "1 or more"),
    ],
)
def test_messages(change: Callable[[dict[str, Any]], dict[str, Any]], message: str, data: Path) -> None:
    given = change({"kind": "knn", "run_or_name": tiny_encoder("vit"), "data": data})
    with pytest.raises(UserError, match=message):
        quick(given.pop("kind"), given.pop("run_or_name"), given.pop("data"), **given)


def test_a_class_that_was_never_trained(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", each=2, colours=("blue", "green"))
    write_pictures(tmp_path / "validation", each=2, colours=("blue", "red"))
    with pytest.raises(UserError, match="red"):
        quick("knn", "pixels", tmp_path)
