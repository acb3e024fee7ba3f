"""Fine-tuning from the data to the folder that it leaves."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.engine.tiny import events, lines, same, training, weights
from tests.evaluate.pictures import write_pictures
from tests.tiny import tiny_encoder
from unmask import cli
from unmask.encoders.itpn import Pyramid
from unmask.engine.run import Run
from unmask.errors import UserError
from unmask.evaluate.finetune import finetune
from unmask.evaluate.finetune.augment import Mixing
from unmask.evaluate.subject import find_subject
from unmask.export import export, save_encoder
from unmask.load import load_encoder, load_pyramid
from unmask.runs import read_json

STATISTICS = {"mean": [0.5] * 3, "std": [0.25] * 3}
STEPS = 12
QUICK = {"optim.lr": 3e-3, "validation.every": 2, "data.augment": "rand-m3-n1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for part, each, seed in (("train", 14, 0), ("validation", 4, 1), ("test", 4, 2)):
        write_pictures(folder / part, each=each, seed=seed)
    return folder


def saved(folder: Path, name: str = "vit", **about: Any) -> Path:
    """A folder as a run of MAE leaves it, of random weights."""
    torch.manual_seed(0)
    encoder = tiny_encoder(name, image_size=(32, 32) if name == "vit" else (64, 64))
    save_encoder(encoder, folder, made_by={"method": "mae", "step": 7}, **STATISTICS, **about)
    return folder


def tune(start: Path | str, data: Any, out: Path, **options: Any) -> Run:
    torch.set_num_threads(1)
    defaults = {"steps": STEPS, "batch_size": 8, "workers": 0, "device": "cpu", "precision": "fp32"}
    own = {} if options.get("resume") and out.exists() else {**defaults, "overrides": QUICK}
    own |= {"workers": 0, "progress": False} | options
    return finetune(start, data=data, out=out, **own)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "mae")


@pytest.fixture(scope="module")
def tuned(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tuned"
    tune(start, data, out, steps=40)
    return out


def test_colours_are_learned_and_all_is_written(tuned: Path) -> None:
    metrics = read_json(tuned / "metrics.json")
    assert metrics["judged_by"] == "test" and metrics["test"]["images"] == 12
    assert metrics["test"]["top1"] >= 0.9 and metrics["train"]["images"] == 42
    assert (metrics["start"]["method"], metrics["recipe"]) == ("mae", "mae_few")
    assert metrics["classes"] == ["blue", "green", "red"]
    with (tuned / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["trained"], row["judged"]) for row in rows] == [
        (name, "14", "4") for name in metrics["classes"]
    ]
    with (tuned / "predictions.csv").open() as file:
        answers = list(csv.DictReader(file))
    assert sum(int(row["right"]) for row in answers if row["part"] == "test") / 12 == pytest.approx(
        metrics["test"]["top1"]
    )
    assert Image.open(tuned / "images" / "confusion.png").size > (100, 100)
    page = (tuned / "report.html").read_text()
    assert f"{metrics['test']['top1']:.1%}" in page
    assert not re.findall(r'(?:src|href)="(?:http|//)', page)  # needs no network
    recipe = read_json(tuned / "recipe.json")
    assert recipe["kind"] == "finetune" and recipe["data"]["mean"] == [0.5, 0.5, 0.5]
    assert events(tuned)[0] == "start" and events(tuned)[-1] == "end"


def fixed_images(size: int) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(3))


ELSEWHERE = """
import sys, json, torch
sys.modules["unmask"] = None  # importing it is an error
import timm
folder, code = sys.argv[1], sys.argv[2]
images = torch.load(folder + "/images.pt")
hub = timm.create_model("local-dir:" + folder, pretrained=True).eval()
scope = {}
exec(code, scope)
config = timm.data.resolve_model_data_config(hub)
with torch.no_grad():
    torch.save({"hub": hub(images), "plain": scope["model"](images)}, folder + "/answers.pt")
told = {"mean": config["mean"], "size": config["input_size"], "labels": hub.pretrained_cfg["label_names"]}
print(json.dumps(told))
"""


def test_timm_alone_gives_the_same_logits(tuned: Path, tmp_path: Path) -> None:
    folder = export(tuned, to="timm", out=tmp_path / "timm")
    images = fixed_images(32)
    torch.save(images, folder / "images.pt")
    card = (folder / "README.md").read_text()
    code = (
        card.split("```python\n")[2]
        .split("```")[0]
        .replace("model.safetensors", f"{folder}/model.safetensors")
    )
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert told == {"mean": [0.5] * 3, "size": [3, 32, 32], "labels": ["blue", "green", "red"]}
    answers = torch.load(folder / "answers.pt")
    # The trained weights themselves, through the encoder of this package.
    encoder, best = load_encoder(tuned), load_file(tuned / "best.safetensors")
    norm = encoder.model.norm
    encoder.model.norm = nn.Identity()  # this recipe's norm comes after the mean
    with torch.no_grad():
        features = norm(encoder(images).pooled("mean"))
        expected = features @ best["head.weight"].T + best["head.bias"]
    assert expected.abs().max() > 0.1
    for found in answers.values():
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def logits_of(tuned: Path, images: Tensor) -> Tensor:
    with torch.no_grad():
        return timm.create_model(f"local-dir:{tuned}", pretrained=True).eval()(images)


def test_transformers_gives_the_same_logits(tuned: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = export(tuned, to="huggingface", out=tmp_path / "hf")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    images = fixed_images(32)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, logits_of(tuned, images), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnx_gives_the_same_logits(tuned: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = export(tuned, to="onnx", out=tmp_path / "graph.onnx", normalise=True)
    images = fixed_images(32)
    pixels = (images * 0.25 + 0.5).numpy()
    (logits,) = runtime.InferenceSession(path).run(None, {"images": pixels})
    np.testing.assert_allclose(logits, logits_of(tuned, images).numpy(), atol=1e-4)
    assert read_json(path.with_suffix(".json"))["classes"] == ["blue", "green", "red"]


class Stopping:
    """Sends this process a signal while the n-th batch is mixed."""

    def __init__(self, calls: int) -> None:
        self.left, self.whole = calls, Mixing.__call__

    def __call__(self, mixing: Mixing, *inputs: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return self.whole(mixing, *inputs)


def test_stopped_and_resumed_is_as_never_stopped(
    start: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QUICK | {"checkpoint.every": 3, "optim.ema": 0.9, "encoder.drop_path_rate": 0.2}
    tune(start, data, tmp_path / "whole", overrides=settings)
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stopping = Stopping(7)
        patch.setattr(Mixing, "__call__", lambda self, *inputs: stopping(self, *inputs))
        stopped = tune(start, data, out, overrides=settings)
    assert (stopped.interrupted, stopped.step) == (143, 7) and not (out / "metrics.json").exists()
    tune(start, data, out, resume=True)
    assert same(weights(tmp_path / "whole", STEPS), weights(out, STEPS))
    assert training(tmp_path / "whole") == training(out)
    assert same(load_file(tmp_path / "whole" / "model.safetensors"), load_file(out / "model.safetensors"))


def test_a_fine_tuned_run_is_fine_tuned_further(tuned: Path, data: Path, tmp_path: Path) -> None:
    tune(tuned, data, tmp_path / "same", steps=1, lr=1e-9, overrides={})
    before, after = (load_file(run / "model.safetensors") for run in (tuned, tmp_path / "same"))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)  # with its classifier
    other = tmp_path / "data"
    for part in ("train", "validation"):
        shutil.copytree(data / part, other / part)
        shutil.rmtree(other / part / "red")
    tune(tuned, other, tmp_path / "other", steps=1, lr=1e-9, overrides={})
    after = load_file(tmp_path / "other" / "model.safetensors")
    body = [name for name in before if not name.startswith("head.")]
    torch.testing.assert_close({n: after[n] for n in body}, {n: before[n] for n in body}, rtol=0, atol=1e-6)
    assert after["head.weight"].shape == (2, 48) and after["head.weight"].abs().max() < 1e-3
    recipe = read_json(tmp_path / "other" / "recipe.json")
    assert recipe["start"]["method"] == "mae"  # whose weights they still are
    made_by = read_json(tmp_path / "other" / "encoder.json")["made_by"]
    assert made_by["method"] == "mae" and made_by["fine_tuned"]["from"] == str(tuned)
    assert find_subject(tuned, image_size=None, seed=0).run is None  # no log of a pre-training


def test_random_weights_are_a_baseline_under_the_same_budget(start: Path, data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tune(start, data, tmp_path / name, random=True, steps=1, seed=seed, lr=1e-9)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert same(a, b) and not same(a, c)
    own = load_encoder(start).model.state_dict()
    assert not torch.equal(a["blocks.0.attn.qkv.weight"], own["blocks.0.attn.qkv.weight"])
    recipe = read_json(tmp_path / "a" / "recipe.json")
    assert recipe["start"]["random"] is True
    assert recipe["optim"]["layer_decay"] == 0.75  # all settings are the same
    assert tune(start, data, tmp_path / "a", resume=True).step == 1  # which remembers that it was random


def test_a_run_killed_at_once_goes_on_with_the_same_random_weights(data: Path, tmp_path: Path) -> None:
    name = "random:test_vit"
    one = {"image_size": 32, "steps": 1, "lr": 1e-9}
    tune(name, data, tmp_path / "whole", seed=3, **one)
    out = tmp_path / "killed"
    out.mkdir()
    shutil.copy(tmp_path / "whole" / "recipe.json", out)
    tune(name, data, out, resume=True, device="cpu", precision="fp32")
    assert same(load_file(tmp_path / "whole" / "model.safetensors"), load_file(out / "model.safetensors"))


def test_a_fraction_and_another_size(start: Path, data: Path, tmp_path: Path) -> None:
    tune(start, data, tmp_path / "run", fraction=0.5, image_size=48, steps=2, batch_size=4)
    metrics, recipe = (read_json(tmp_path / "run" / f"{name}.json") for name in ("metrics", "recipe"))
    assert metrics["train"]["images"] == 21 and recipe["data"]["fraction"] == 0.5
    assert load_encoder(tmp_path / "run").image_size == (48, 48)


def test_a_fraction_as_a_setting_chooses_the_recipe_too(start: Path, data: Path, tmp_path: Path) -> None:
    tune(start, data, tmp_path / "run", steps=1, batch_size=None, overrides={"data.fraction": "0.25"})
    assert read_json(tmp_path / "run" / "recipe.json")["optim"]["batch_size"] == 8  # fits 12 images, not 42


@pytest.mark.parametrize("name", ["swin", "hivit", "revcolv2"])
def test_other_architectures(name: str, data: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "start", name)
    tune(run, data, tmp_path / "out", steps=2)
    log = [line for line in lines(tmp_path / "out") if "loss" in line and "event" not in line]
    assert len(log) == 2 and (tmp_path / "out" / "encoder.safetensors").is_file()


def test_a_pyramid_of_pre_training_stays_beside_its_backbone(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(48, width=16, depth=1)
    run = saved(tmp_path / "start", "hivit", pyramid=pyramid)
    tune(run, data, tmp_path / "out", steps=1)
    kept = load_pyramid(tmp_path / "out")
    assert kept is not None and same(kept.state_dict(), pyramid.state_dict())
    tune(run, data, tmp_path / "random", steps=1, random=True)
    assert load_pyramid(tmp_path / "random") is None


def test_pictures_of_more_channels_and_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for part, each in (("train", 6), ("validation", 2)):
        for label in ("dark", "light"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for number in range(each):
                pixels = generator.integers(0, 20000, (36, 36, 5)) + 40000 * (label == "light")
                np.save(tmp_path / "data" / part / label / f"{number}.npy", pixels.astype(np.uint16))
    torch.manual_seed(0)
    encoder = tiny_encoder("vit", image_size=(32, 32), channels=5)
    about = {"mean": [0.4] * 5, "std": [0.3] * 5, "bits": 16, "made_by": {"method": "mae"}}
    save_encoder(encoder, tmp_path / "start", **about)
    overrides = {"validation.every": 3}
    tune(
        tmp_path / "start",
        tmp_path / "data",
        tmp_path / "out",
        batch_size=4,
        overrides=overrides,
        progress=True,
    )
    assert "RandAugment needs RGB pictures of 8 bits and is left out" in " ".join(
        capsys.readouterr().err.split()
    )
    recipe = read_json(tmp_path / "out" / "recipe.json")
    assert recipe["data"]["augment"] is None and recipe["data"]["bits"] == 16
    with pytest.raises(UserError, match="needs RGB pictures of 8 bits"):
        tune(tmp_path / "start", tmp_path / "data", tmp_path / "other", overrides={"data.augment": "rand-m9"})


def test_unreadable_files_are_counted_and_left_out(start: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    for part in ("train", "validation"):
        path = tmp_path / "data" / part / "red" / "001.png"
        path.write_bytes(path.read_bytes()[:60])
    tune(start, tmp_path / "data", tmp_path / "out", steps=6)
    metrics = read_json(tmp_path / "out" / "metrics.json")
    assert (metrics["train"]["unreadable"], metrics["validation"]["unreadable"]) == (1, 1)
    assert metrics["validation"]["images"] == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"start.random": True}}, "start.random follows from what is fine-tuned"),
        ({"overrides": {"task.mixap": 1}}, "Did you mean task.mixup"),
        ({"batch_size": 7}, "use an even --batch-size"),
        ({"batch_size": 64}, "has 42 samples, fewer than one batch of 64"),
        ({"recipe": "mea_base"}, "did you mean mae_base"),
        ({"image_size": 30}, "30 x 30 pixels"),
        ({"overrides": {"task.pool": "max"}}, "task.pool='max'"),
        ({"overrides": {"task.head_std": 0}}, "task.head_std=0"),
        (
            {"overrides": {"encoder.num_classes": 7}},
            "encoder.num_classes cannot be set here: it follows from",
        ),
        ({"overrides": {"encoder.global_pool": "max"}}, "it follows from task.pool"),
        ({"overrides": {"data.fraction": "half"}}, "data.fraction='half'"),
        ({"fraction": 2.0}, "data.fraction=2.0"),
        ({"epochs": 2}, "two ways to say the same"),
    ],
)
def test_mistakes_are_named(
    start: Path, data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        tune(start, data, tmp_path / "out", **options)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_fine_tuned_is_named(start: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pixels cannot be fine-tuned"):
        tune("pixels", data, tmp_path / "out")
    with pytest.raises(UserError, match="There is no"):
        tune(tmp_path / "nothing", data, tmp_path / "out")
    with pytest.raises(UserError, match="lies inside the data"):
        tune(start, data, data / "out")
    out = tmp_path / "out"
    tune(start, data, out, steps=1)
    with pytest.raises(UserError, match=r"start.name is"):
        tune(saved(tmp_path / "other"), data, out, resume=True)
    with pytest.raises(UserError, match="recipe of this one is mae_few, not cae_base"):
        tune(start, data, out, resume=True, recipe="cae_base")
    from unmask.engine.pretrain import pretrain

    with pytest.raises(UserError, match="holds what `unmask evaluate finetune` trained"):
        pretrain("mae", data=data, out=out, overwrite=True)


def test_the_command_line(
    start: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = [
        "unmask",
        "evaluate",
        "finetune",
        str(start),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
    ]
    own = ["--steps", "2", "--batch-size", "8", "--workers", "0", "--device", "cpu", "optim.layer_decay=0.9"]
    endings = []
    for arguments in ([*command, *own], command):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        endings.append((ended.value.code, capfd.readouterr()))
    (first, shown), (second, refused) = endings
    assert not first and "on 12 test images" in shown.out and "report.html" in shown.out
    assert read_json(tmp_path / "run" / "recipe.json")["optim"]["layer_decay"] == 0.9
    assert second == 2 and "holds a run already" in refused.err and "Traceback" not in refused.err


def test_the_report_is_written_anew(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    endings = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["unmask", "report", str(run)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        endings.append((ended.value.code, capfd.readouterr()))
        (run / "metrics.json").unlink(missing_ok=True)
    (first, shown), (second, refused) = endings
    assert not first and shown.out.strip() == str(run / "report.html")
    assert len((run / "report.html").read_text()) == pytest.approx(len(page), rel=0.01)
    assert second == 2 and "no result yet" in refused.err
