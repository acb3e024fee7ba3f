"""A sweep must answer as its probes would alone, and find what is there without the validation images."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.evaluate.pictures import write_pictures
from tests.tiny import tiny_encoder
from unmask.errors import UserError
from unmask.evaluate import Place, evaluate, linear_probe, places_of, sweep
from unmask.evaluate.table import by_layer, sweep_table

SWEEP, LINEAR = sys.modules[sweep.__module__], sys.modules[linear_probe.__module__]
SHORT: dict[str, Any] = {"epochs": 40, "rates": (0.4, 6.4)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_pictures(root / "train", each=20, seed=0)
    write_pictures(root / "val", each=8, seed=1)
    return root


def quick(run_or_name: Any, data: Path, **options: Any) -> dict[str, Any]:
    return evaluate("sweep", run_or_name, data=data, device="cpu", progress=False, **{**SHORT, **options})


def three_places(count: int, *, seed: int) -> tuple[Tensor, Tensor, dict[Place, int]]:
    """Noise at two places of width 8 and one of 12; only the second says the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    features = torch.randn(count, 28, generator=generator)
    features[:, 8:11] += 3.0 * torch.eye(3)[labels]
    return features, labels, {Place(0, "mean"): 8, Place(None, "mean"): 8, Place(None, "max"): 12}


def test_finds_the_place_that_says_the_class() -> None:
    train, labels, places = three_places(300, seed=0)
    test, test_labels, _ = three_places(300, seed=1)
    probe = sweep(train, labels, test, classes=3, places=places, **SHORT)
    assert (probe.settings["layer"], probe.settings["pool"]) == (None, "mean")
    right = [(trial.predictions == test_labels).float().mean().item() for trial in probe.trials]
    assert right[1] > 0.9 and max(right[0], right[2]) < 0.5
    assert torch.equal(probe.predictions, probe.trials[1].predictions)


@pytest.mark.parametrize("together", [True, False])
def test_each_trial_is_the_linear_probe_of_its_place(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rate, accuracy and answers; also where memory does not allow to train places together."""
    if not together:
        monkeypatch.setattr(SWEEP, "MOST_LOGITS", 1)
    monkeypatch.setattr(LINEAR, "RATES", SHORT["rates"])
    train, labels, places = three_places(100, seed=0)
    test, _, _ = three_places(100, seed=1)
    probe = sweep(train, labels, test, classes=3, places=places, mirrored=train + 0.1, **SHORT)
    start = 0
    for trial, width in zip(probe.trials, places.values(), strict=True):
        own = slice(start, start + width)
        start += width
        given = {"classes": 3, "mirrored": train[:, own] + 0.1, "epochs": SHORT["epochs"]}
        alone = linear_probe(train[:, own], labels, test[:, own], **given)
        assert trial.settings["lr"] == alone.settings["lr"]
        assert trial.settings["held_out"] == pytest.approx(max(alone.settings["held_out"].values()), abs=0.01)
        assert (trial.predictions == alone.predictions).float().mean() > 0.98  # sums in another order


def test_the_winner_is_what_evaluate_linear_gives_there(data: Path) -> None:
    encoder = tiny_encoder("vit")
    found = quick(encoder, data)
    place = {"layer": found["layer"], "pool": found["pool"], "lr": found["settings"]["lr"]}
    alone = evaluate("linear", encoder, data=data, device="cpu", progress=False, epochs=40, **place)
    assert found["top1"] == pytest.approx(alone["top1"], abs=1 / 24 + 1e-6)
    assert found["standard_error"] == pytest.approx((found["top1"] * (1 - found["top1"]) / 24) ** 0.5)


def test_places() -> None:
    assert places_of(tiny_encoder("vit")) == {
        Place(layer, pool): width
        for width, pools in ((48, ("mean", "max", "cls")), (96, ("mean+std", "cls+mean")))
        for layer in (0, None)
        for pool in pools
    }
    assert list(places_of(tiny_encoder("swin"), pools=["mean"]).items()) == [
        (Place(layer, "mean"), width) for layer, width in ((0, 12), (1, 24), (2, 48), (None, 96))
    ]
    assert list(places_of(tiny_encoder("vit"), layers=[-2, 0, 1], pools=["max"])) == [
        Place(0, "max"),
        Place(1, "max"),
        Place(None, "max"),
    ]


def test_result_baselines_and_table(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    result = quick(tiny_encoder("swin"), data, pools=("mean", "max"), baselines=True, json=file)
    assert json.loads(file.read_text()) == json.loads(json.dumps(result))
    assert result["top1"] > 0.9
    assert list(result["baselines"]) == ["random initialisation", "raw pixels", "majority class"]
    pools, rows = by_layer(result["trials"])
    assert (pools, list(rows)) == (["max", "mean"], [0, 1, 2, None])
    chosen = rows[result["layer"]][result["pool"]]
    assert chosen["top1"] == result["top1"]
    assert chosen["held_out"] == max(trial["held_out"] for trial in result["trials"])
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(sweep_table(result))
    lines = [line for line in console.export_text().splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in lines] == ["0", "1", "2", "last, after the norm"]
    assert f"{chosen['top1']:.1%}  {chosen['lr']:g}" in lines[list(rows).index(result["layer"])]


def test_pixels_have_one_place(data: Path) -> None:
    result = quick("pixels", data)
    assert len(result["trials"]) == 1
    assert result["top1"] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [7]}, "there is no block 7"),
        ({"pools": ["mean", "median"]}, "cannot pool by 'median'"),
        ({"rates": ()}, "learning rate above 0"),
        ({"rates": (1.0, -2.0)}, "learning rate above 0"),
        ({"layer": 1}, "name them as layers and pools"),
        ({"pool": "cls"}, "name them as layers and pools"),
        ({"lr": 1.0}, "no option 'lr'.*rates.*layers, pools"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, data: Path) -> None:
    with pytest.raises(UserError, match=message):
        quick(tiny_encoder("vit"), data, **options)


def test_too_little_memory_is_said_before_reading() -> None:
    SWEEP.require_memory(1_000_000, 192)
    with pytest.raises(UserError, match=r"1,000,000,000 images.*--layers -2"):
        SWEEP.require_memory(1_000_000_000, 100_000)
