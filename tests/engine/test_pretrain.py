"""What a step does."""

import dataclasses
import json
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.engine.tiny import TINY, events, lines, pictures, run, same, training, weights
from unmask.data import View, open_source
from unmask.engine.guard import MOST_REJECTED
from unmask.engine.machine import Machine, choose_precision, cpu_has_bf16
from unmask.engine.measure import to_host
from unmask.engine.pretrain import update
from unmask.engine.setup import Job, prepare
from unmask.errors import UserError
from unmask.masking import Mask
from unmask.methods.base import Method
from unmask.methods.mae import MAE
from unmask.recipes.resolve import resolve_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


def job(
    data: Path,
    out: Path,
    overrides: dict[str, Any] | None = None,
    *,
    resumed: bool = False,
    **machine: Any,
) -> Job:
    torch.set_num_threads(1)
    recipe = resolve_recipe(
        "mae",
        encoder="vit_tiny_patch16_224",
        image_size=(32, 32),
        batch_size=16,
        steps=4,
        overrides=TINY | (overrides or {}),
    )
    defaults = {"device": "cpu", "precision": "fp32", "workers": 0, "compile": False, "checkpointing": False}
    return prepare(recipe, open_source(data), out, Machine(**(defaults | machine)), resumed=resumed)


def batches(of: Job) -> Iterator[dict[str, Tensor]]:
    return of.loader.batches(0)


def gradients(of: Job) -> list[Tensor]:
    """Gradients of the first batch, caught before the optimiser uses them."""
    caught: list[Tensor] = []
    of.optimiser.optimizer.register_step_pre_hook(  # type: ignore[attr-defined]
        lambda *_: caught.extend(p.grad.clone() for p in of.parameters)  # type: ignore[union-attr]
    )
    update(of, next(batches(of)))
    return caught


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(data: Path, tmp_path: Path) -> None:
    whole = gradients(job(data, tmp_path))
    parts = gradients(job(data, tmp_path, {"optim.accumulate": 4}))
    assert len(whole) == len(parts) > 20
    for first, second in zip(whole, parts, strict=True):
        assert torch.allclose(first, second, atol=1e-6, rtol=1e-4)


def test_checkpointing_changes_no_gradient(data: Path, tmp_path: Path) -> None:
    plain = gradients(job(data, tmp_path))
    checkpointed = job(data, tmp_path, checkpointing=True)
    assert checkpointed.learner.encoder.checkpointing
    for first, second in zip(plain, gradients(checkpointed), strict=True):
        assert torch.equal(first, second)


def test_clip_bounds_the_gradient_and_reports_its_norm_before(data: Path, tmp_path: Path) -> None:
    free, clipped = job(data, tmp_path), job(data, tmp_path, {"optim.clip": 0.01})
    norm = torch.stack([g.norm() for g in gradients(free)]).norm().item()
    assert norm > 0.1
    assert torch.stack([g.norm() for g in gradients(clipped)]).norm().item() == pytest.approx(0.01, rel=1e-3)
    again = job(data, tmp_path, {"optim.clip": 0.01})
    assert update(again, next(batches(again))).norm == pytest.approx(norm, rel=1e-5)


class Broken(nn.Module):
    """A method whose loss, or only its gradient, is no number."""

    def __init__(self, method: nn.Module, what: str) -> None:
        super().__init__()
        self.method, self.what = method, what

    def forward(self, images: Tensor, *, mask: Mask) -> dict[str, Tensor]:
        loss = self.method(images=images, mask=mask)["loss"]
        if self.what == "loss":
            return {"loss": loss * math.nan}
        return {"loss": loss + (loss * 0).sqrt()}  # finite, but the slope of a root is infinite at 0


@pytest.mark.parametrize("overrides", [{}, {"optim.clip": 1.0}])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_step_that_is_not_finite_changes_nothing(
    data: Path, tmp_path: Path, what: str, overrides: dict[str, float]
) -> None:
    good = job(data, tmp_path, overrides)
    before = {name: value.clone() for name, value in good.learner.state_dict().items()}
    broken = update(dataclasses.replace(good, model=Broken(good.learner, what)), next(batches(good)))
    assert math.isnan(broken.losses["loss"]) is (what == "loss")
    assert not math.isfinite(broken.norm) and not broken.accepted
    assert same(before, good.learner.state_dict())
    good.scheduler.step_update(3)
    clean = update(good, next(batches(good)))  # and so is the next step
    assert math.isfinite(clean.losses["loss"]) and clean.accepted
    assert not same(before, good.learner.state_dict())
    assert all(value.isfinite().all() for value in good.learner.state_dict().values())


def breaking(monkeypatch: pytest.MonkeyPatch, steps: range, what: str) -> None:
    """MAE is broken at some steps of the next run."""
    forward, calls = MAE.forward, iter(range(1, 100))

    def sometimes(self: MAE, images: Tensor, *, mask: Mask) -> dict[str, Tensor]:
        losses = forward(self, images, mask=mask)
        zero = losses["loss"] * (math.nan if what == "loss" else 0)
        return {"loss": losses["loss"] + zero.sqrt()} if next(calls) in steps else losses

    monkeypatch.setattr(MAE, "forward", sometimes)


def test_rejected_steps_are_counted_and_the_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, range(2, 4), "gradient")
    run(data, tmp_path / "run", steps=5)
    rejected = [line for line in lines(tmp_path / "run") if line.get("event") == "rejected"]
    assert [line["step"] for line in rejected] == [2, 3]
    assert all(math.isfinite(float(line["loss"])) for line in rejected)
    assert not any(math.isfinite(float(line["grad_norm"])) for line in rejected)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run", 5).values())


def test_a_rejected_last_step_does_not_cost_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, range(5, 6), "loss")
    out = tmp_path / "run"
    run(data, out, steps=5, overrides={"checkpoint.every": 3})
    assert json.loads((out / "encoder.json").read_text())["made_by"]["step"] == 5
    assert all(value.isfinite().all() for value in weights(out, 5).values())
    assert lines(out)[-1]["event"] == "end"


def test_weights_that_are_not_finite_are_not_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(self: MAE, step: int, total: int) -> None:
        if step == 4:
            with torch.no_grad():
                next(self.encoder.parameters()).fill_(math.inf)

    monkeypatch.setattr(MAE, "after_step", poison)
    out = tmp_path / "run"
    with pytest.raises(UserError, match="neither are the weights"):
        run(data, out, steps=4, overrides={"checkpoint.every": 2})
    assert json.loads((out / "encoder.json").read_text())["made_by"]["step"] == 2
    assert all(value.isfinite().all() for value in load_file(out / "encoder.safetensors").values())


class Processes:
    """Several processes, of which this is one: what the others hold is appended."""

    num_processes = 3

    def gather(self, row: Tensor) -> Tensor:
        return torch.cat([row, torch.tensor([[2.0, 0.0]]), torch.tensor([[6.0, 15.0]])])


def test_what_all_processes_hold_comes_in_one_copy() -> None:
    values = to_host([torch.tensor(1.0), torch.tensor(0)], Processes())  # type: ignore[arg-type]
    assert values == [(1.0, 2.0, 6.0), (0.0, 0.0, 15.0)]


def test_step_passes_signals_on(data: Path, tmp_path: Path) -> None:
    of = job(data, tmp_path)
    assert update(of, next(batches(of)), signal=15).signal == 15
    assert update(of, next(batches(of))).signal == 0


def test_run_that_diverged_ends_and_says_what_to_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--lr.*optim.clip"):
        run(data, tmp_path / "run", steps=60, lr=1e30, overrides={"schedule.warmup_epochs": 0})
    rejected = [line for line in lines(tmp_path / "run") if line.get("event") == "rejected"]
    assert len(rejected) == MOST_REJECTED
    assert [line["step"] for line in rejected] == list(range(rejected[0]["step"], rejected[-1]["step"] + 1))


def test_average_of_the_weights_by_hand_and_in_the_export(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(
        data,
        out,
        steps=4,
        lr=0.01,
        overrides={"optim.ema": 0.6, "checkpoint.every": 1, "checkpoint.keep": 9},
    )
    first = weights(out, 1)
    names = [name for name in first if not name.startswith("ema.")]
    assert all(torch.equal(first[f"ema.{name}"], first[name]) for name in names)  # no initial weights
    # The decay rises as 1 - step^(-2/3) to its final value.
    for step, decay in ((2, 1 - 2 ** (-2 / 3)), (3, 1 - 3 ** (-2 / 3)), (4, 0.6)):
        before, now = weights(out, step - 1), weights(out, step)
        assert 2 * len(names) == len(now)
        for name in names:
            expected = decay * before[f"ema.{name}"] + (1 - decay) * now[name]
            assert torch.allclose(now[f"ema.{name}"], expected, atol=1e-7)
    averaged, exported = weights(out, 4), load_file(out / "encoder.safetensors")
    assert len(exported) > 10
    for name, value in exported.items():
        assert torch.equal(value, averaged[f"ema.encoder.model.{name}"])


def test_pictures_and_checkpoints_do_not_change_the_training(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "few", steps=6)
    run(data, tmp_path / "many", steps=6, overrides={"checkpoint.pictures": 1, "checkpoint.every": 1})
    assert len(list((tmp_path / "many" / "images").iterdir())) == 6
    assert training(tmp_path / "few") == training(tmp_path / "many")
    assert same(weights(tmp_path / "few", 6), weights(tmp_path / "many", 6))


def test_method_without_pictures_trains_without(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MAE, "reconstruct", Method.reconstruct)
    run(data, tmp_path / "run", steps=2, overrides={"checkpoint.pictures": 1})
    assert events(tmp_path / "run") == ["start", "end"]
    assert not (tmp_path / "run" / "images").exists()


def test_strips_show_the_same_images_and_masks(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, steps=2, lr=0.1, overrides={"checkpoint.pictures": 1, "schedule.warmup_epochs": 0})
    first, second = (Image.open(path).convert("RGB") for path in sorted((out / "images").iterdir()))
    assert first.size == second.size
    changed = ImageChops.difference(first, second).getbbox()
    # Only reconstructions may differ: the first sample's original and masked picture are left of them.
    assert changed is not None and changed[0] >= first.width // 4


def test_unreadable_image_is_noted_once_and_kept_over_a_resumption(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures")
    (folder / "007.png").write_bytes(b"no picture")
    out = tmp_path / "run"
    run(folder, out, steps=14, overrides={"checkpoint.every": 7, "checkpoint.keep": 5})
    noted = [line for line in lines(out) if line.get("event") == "bad_image"]
    assert [Path(line["name"]).name for line in noted] == ["007.png"]
    (out / "checkpoints" / "step_00000014").rename(tmp_path / "gone")
    (out / "log.jsonl").write_text("".join((out / "log.jsonl").read_text().splitlines(keepends=True)[:-1]))
    run(folder, out, resume=True)
    assert len([line for line in lines(out) if line.get("event") == "bad_image"]) == 1


def test_bf16_on_a_cpu_only_where_it_pays() -> None:
    expected = "bf16" if cpu_has_bf16() else "fp32"
    assert choose_precision("auto", "cpu", 192) == expected
    assert choose_precision("auto", "cpu", 48) == "fp32"


def test_bf16_trains_close_to_fp32_and_keeps_weights_in_fp32(data: Path, tmp_path: Path) -> None:
    full, half = job(data, tmp_path), job(data, tmp_path, precision="bf16")
    loss = update(full, next(batches(full))).losses["loss"]
    loss_in_half = update(half, next(batches(half))).losses["loss"]
    assert loss_in_half != loss
    assert loss_in_half == pytest.approx(loss, rel=0.02)
    assert {value.dtype for value in half.learner.state_dict().values()} == {torch.float32}


def test_views_come_normalised_or_as_plain_pixels(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = job(data, tmp_path)
    monkeypatch.setattr(type(of.learner), "views", {"images": View(), "teacher": View(normalised=False)})
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (of.mean, of.std))
    torch.testing.assert_close(of.as_input("images", pixels), (pixels / 255 - mean) / std)
    torch.testing.assert_close(of.as_input("teacher", pixels), pixels / 255)


def test_log_names_data_and_machine_so_that_they_are_found_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    run(Path(data.name), tmp_path / "run", steps=2)
    facts = lines(tmp_path / "run")[0]
    assert facts["data"] == str(data.resolve())
    assert (facts["device"], facts["precision"], facts["compile"]) == ("cpu", "fp32", False)
    assert facts["torch"] == version("torch") and facts["processor"]
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["directory"] == str(data.parent)
    run(open_source(data.name), tmp_path / "open", steps=2)
    assert lines(tmp_path / "open")[0]["data"] == data.name


def test_compilation_is_kept_by_a_run_that_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[MAE] = []
    # The real one takes half a minute.
    monkeypatch.setattr(MAE, "compile", lambda self: compiled.append(self))
    (tmp_path / "environment.json").write_text(json.dumps({"compile": True}))
    before = [
        job(data, tmp_path, resumed=resumed, compile=asked)
        for resumed in (False, True)
        for asked in (None, False, True)
    ]
    assert [made.environment["compile"] for made in before] == [False, False, True, True, False, True]
    assert compiled == [made.learner for made in before if made.environment["compile"]]


def test_jitter_changes_colours_and_nothing_else(data: Path, tmp_path: Path) -> None:
    plain, some = (
        next(batches(job(data, tmp_path, {"data.jitter": jitter})))["images"]
        for jitter in ([0, 0, 0, 0], [0.4, 0.4, 0.4, 0])
    )
    assert not torch.equal(plain, some)
    # Of blocks of one colour each they stay blocks, at the same places.
    edges = (plain[..., 1:] != plain[..., :-1]).any(1)
    assert not ((some[..., 1:] != some[..., :-1]).any(1) & ~edges).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data.jitter": [0.4, 0, 0, 0.7]}, r"data.jitter=\[0.4, 0.0, 0.0, 0.7\]: .*hue lie in"),
        ({"data.jitter": [0.4, 0, 0, 0], "data.bits": 16}, r"not of 3 channels of 16 bits; data.jitter=\[0,"),
    ],
)
def test_impossible_jitter_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        job(data, tmp_path / "out", change)
    assert not (tmp_path / "out").exists()
