"""The command line's contract: what is printed, what is written, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import unmask as unmask_package
from tests.convert.official import save as save_official
from unmask import cli
from unmask.masking import Mask
from unmask.methods import MAE, METHODS

TINY = ["--encoder", "vit_tiny_patch16_224", "--image-size", "32", "--batch-size", "8", "--workers", "0"]
TINY += ["--device", "cpu", "encoder.embed_dim=48", "encoder.depth=2"]
TINY += ["encoder.num_heads=3", "encoder.patch_size=8"]
TINY += ["method.decoder_dim=32", "method.decoder_depth=1", "method.decoder_heads=2"]


def unmask(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unmask", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """The message of a command that must end with exit code 2, without a traceback."""
    monkeypatch.setattr(sys, "argv", ["unmask", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capfd.readouterr().err
    assert ended.value.code == 2, error
    assert "Traceback" not in error
    return error


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in train and validation: reddish and bluish pictures with something on them."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 16), ("validation", 6)):
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (48, 40), colour)
                image.paste((index * 9, 255 - index * 9, 90), (index, 5, index + 12, 25))
                image.save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    done = unmask("pretrain", "mae", "--data", photos / "train", "--out", out, "--steps", 6, *TINY)
    assert done.returncode == 0, done.stderr
    return out


def test_help_is_light_and_quick() -> None:
    code = (
        "import sys, unmask.cli; print('torch' in sys.modules, 'timm' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3
    before = os.times()
    assert "pretrain" in unmask("--help").stdout
    after = os.times()
    # Processor time, which other programs on the machine do not lengthen.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0


def test_a_run_folder_holds_what_is_promised(run: Path) -> None:
    promised = {
        "recipe.json",
        "environment.json",
        "log.jsonl",
        "checkpoints",
        "encoder.safetensors",
        "encoder.json",
    }
    assert promised | {"report.html", "images", "metrics"} <= {path.name for path in run.iterdir()}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all({"step", "loss", "lr", "images_per_s"} <= line.keys() for line in steps)
    assert json.loads((run / "recipe.json").read_text())["schedule"]["steps"] == 6


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_evaluate(kind: str, run: Path, photos: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = unmask("evaluate", kind, run, "--data", photos, "--json", result, "--workers", 0, "--baselines")
    assert done.returncode == 0, done.stderr
    figures = json.loads(result.read_text())
    assert 0 <= figures["top1"] <= 1 and figures["validation"]["images"] == 12
    assert f"{figures['top1']:.1%}" in done.stdout and "raw pixels" in done.stdout


def test_export_reconstruct_and_report(run: Path, photos: Path, tmp_path: Path) -> None:
    done = unmask("export", run, "--to", "timm", "--out", tmp_path / "timm")
    assert done.returncode == 0 and (tmp_path / "timm" / "model.safetensors").is_file()
    strip = tmp_path / "strip.png"
    done = unmask("reconstruct", run, photos / "train" / "red" / "1.png", "--out", strip)
    assert done.returncode == 0 and Image.open(strip).width > 100
    assert unmask("report", run).stdout.strip() == str(run / "report.html")


def test_convert(tmp_path: Path) -> None:
    path = save_official("simmim_swin", tmp_path / "swin.pth")
    done = unmask("convert", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "SimMIM pre-training, encoder and head, epoch 799" in done.stdout
    assert "swin_base_patch4_window7_224 with embed_dim=8" in done.stdout
    assert f"unmask reconstruct {tmp_path / 'run'} picture.jpg" in " ".join(done.stdout.split())
    assert (tmp_path / "run" / "recipe.json").is_file()


def test_masks(tmp_path: Path) -> None:
    done = unmask("masks", "--masks", "1", "--image-size", "32", "--plot", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "random, 16 px (MAE)" in done.stdout and "masks.png" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"masks.png", "masks-distance.png"}


def test_version() -> None:
    assert unmask("--version").stdout == f"unmask {unmask_package.__version__}\n"


def answer(*arguments: str) -> str:
    """What a command prints, in this process."""
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_list_and_show() -> None:
    assert [line.split()[0] for line in answer("list", "methods").splitlines()] == list(METHODS)
    assert "simmim_swin_base_800ep" in answer("list", "recipes")
    assert "vit_tiny_patch16_224" in answer("list", "encoders", "tiny").splitlines()
    shown = answer("show", "mae_vit_base_800ep")
    assert "Published:" in shown and '"base_lr": 0.00015' in shown
    mae = answer("show", "mae")
    assert "arXiv 2111.06377" in mae and "--images 3000" in mae and MAE.card.masking in mae
    assert "unmask show peco --tokenizer" in answer("show", "peco")
    assert "Defaults of `unmask tokenizer peco`" in answer("show", "peco", "--tokenizer")
    few = answer("show", "mae", "--images", "3000")
    assert "for 3,000 images" in few and '"patch_size": 8' in few
    assert '"dim": 192' in answer("show", "vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "mae", "--data", "x", "--ouut", "y"], "--out"),
        (["pretrian"], "pretrain"),
        (["pretrain", "mae", "--data", "/nowhere", "--out", "{tmp}/r"], "/nowhere"),
        (["pretrain", "maee", "--data", "{photos}", "--out", "{tmp}/r"], "did you mean mae"),
        (["pretrain", "mae", "--data", "{photos}", "--out", "{tmp}/r", "mask_ratio"], "KEY=VALUE"),
        (["pretrain", "mae", "--data", "{photos}", "--out", "{tmp}/r", "mask_ratio=1"], "method.mask_ratio?"),
        (["pretrain", "mae", "--data", "{photos}", "--out", "{photos}/r"], "lies inside the data"),
        (["pretrain", "mae", "--data", "{photos}", "--out", "/proc/r"], "cannot be made"),
        (["list", "encoders", "zzz"], "has 'zzz' in its name"),
        (
            ["pretrain", "mae", "--data", "{photos}", "--out", "{tmp}/r", "method.mask_rato=1"],
            "did you mean 'mask_ratio'",
        ),
        (
            ["pretrain", "mae", "--data", "{photos}", "--out", "{tmp}/r", "optim.clp=1"],
            "Did you mean optim.clip",
        ),
        (
            ["pretrain", "mae", "--data", "{photos}", "--out", "{tmp}/r", "--image-size", "wide"],
            "'wide' is no image size",
        ),
        (["pretrain", "mae", "--data", "{photos}", "--out", "{tmp}/r", "--batch-size", "4096"], "4096"),
        (
            ["pretrain", "mae", "--data", "{photos}", "--out", "{tmp}/r", "--epochs", "1", "--steps", "1"],
            "one of them",
        ),
        (["evaluate", "knn", "{tmp}/none", "--data", "{photos}"], "{tmp}/none"),
        (["evaluate", "knn", "resnet50", "--data", "{photos}"], "resnet50"),
        (["export", "{tmp}/none", "--to", "timm"], "{tmp}/none"),
        (["show", "mae_vit_bse_800ep"], "mae_vit_base_800ep"),
        (
            ["show", "mae_vit_base_800ep", "--images", "3000"],
            "--images goes with a method (mae, simmim, ",
        ),
        (["show", "mae", "--tokenizer"], "no tokenizer is called 'mae'. Tokenizers: dvae, peco, vqkd."),
        (["list", "methds"], "methods"),
        (
            ["pretrain", "milan", "--data", "{photos}", "--out", "{tmp}/r", "method.teacher=none"],
            "MILAN cannot do without a teacher",
        ),
        (
            ["pretrain", "milan", "--data", "{photos}", "--out", "{tmp}/r", "method.teacher={tmp}/no"],
            "and there is no such path. Possible are efficientnet_lite0, timm:NAME",
        ),
        (
            ["pretrain", "beit", "--data", "{photos}", "--out", "{tmp}/r", "method.tokenizer={photos}"],
            "there is no tokenizer {photos}",
        ),
        (["reconstruct", "{tmp}", "a.jpg"], "{tmp}"),
        (["convert", "{tmp}/none.pth"], "{tmp}/none.pth is not there"),
        (["convert", "{photos}", "--out", "{tmp}/out"], "a folder; give the file in it"),
        (["masks", "simmin"], "simmim"),
        (["masks", "method.mask_ratio=0.5"], "method.mask_ratio"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str],
    message: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    places = {"tmp": tmp_path, "photos": photos / "train"}
    error = refused([argument.format(**places) for argument in arguments], monkeypatch, capfd)
    assert message.format(**places) in " ".join(error.split())
    assert not any(tmp_path.iterdir())  # nothing was created


def test_a_mistake_in_a_real_process() -> None:
    done = unmask("pretrain", "mae", "--data", "/nowhere", "--out", "r")
    assert done.returncode == 2 and done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


def test_no_memory_is_a_mistake_with_a_way_out(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def forward(self: MAE, images: Tensor, *, mask: Mask | None = None) -> dict[str, Tensor]:
        return {"loss": images.new_empty(2**60).sum()}  # more than any machine has

    monkeypatch.setattr(MAE, "forward", forward)
    command = ["pretrain", "mae", "--data", str(photos / "train"), "--out", str(tmp_path / "run")]
    error = refused([*command, "--steps", "2", *TINY], monkeypatch, capfd)
    assert "out of memory" in error and "--batch-size" in error


def test_debug_shows_the_traceback() -> None:
    done = unmask("--debug", "show", "nothing")
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_sigterm_saves_and_exits_with_143(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["pretrain", "mae", "--data", photos / "train", "--out", out, "--steps", "100000", *TINY]
    process = subprocess.Popen(
        [sys.executable, "-m", "unmask.cli", *map(str, command)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").is_file() or '"step": 5' not in (out / "log.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    checkpoints = [path for path in (out / "checkpoints").iterdir() if not path.name.startswith(".")]
    assert checkpoints


def test_public_names_are_functions_even_where_a_module_has_the_name() -> None:
    code = """
import unmask.export, unmask.evaluate.knn
import unmask
assert callable(unmask.export) and callable(unmask.evaluate) and callable(unmask.pretrain)
assert set(unmask.METHODS) >= {"mae", "simmim"} and unmask.load_encoder and unmask.RECIPES and unmask.ENCODERS
from unmask.evaluate import knn
from unmask import evaluate, load_encoder
assert set(unmask.__all__) <= set(dir(unmask))
try:
    unmask.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "module 'unmask' has no attribute 'nothing'", done.stderr


def test_three_files_from_the_command_to_the_loss(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads one run reads cli.py, engine/pretrain.py and the method's file, in this order."""
    stacks = []

    def watched(method: MAE, images: Tensor, *, mask: Mask | None = None) -> dict[str, Tensor]:
        frames = [frame.f_globals["__name__"] for frame, _ in traceback.walk_stack(None)]
        stacks.append([name for name in reversed(frames) if name.startswith("unmask.")])
        return forward(method, images, mask=mask)

    forward = MAE.forward
    monkeypatch.setattr(MAE, "forward", watched)
    out = str(tmp_path / "run")
    command = [
        "unmask",
        "pretrain",
        "mae",
        "--data",
        str(photos / "train"),
        "--out",
        out,
        "--steps",
        "1",
        *TINY,
        "probe.every=0",
    ]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert list(dict.fromkeys(stacks[0])) == ["unmask.cli", "unmask.engine.pretrain"]
