"""Tokenizers are trained by the loop of methods, handed over, and used by the methods that need one."""

import json
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import events, lines, pictures, same, training, weights
from tests.engine.workshop import guess_run, register, tokenizer_run
from unmask.data import open_source
from unmask.engine import pretrain as engine
from unmask.engine.machine import Machine
from unmask.engine.pretrain import pretrain
from unmask.engine.run import FIRST_STAGE
from unmask.engine.settle import settle
from unmask.engine.setup import prepare
from unmask.errors import UserError
from unmask.masks import masks
from unmask.recipes.base import Choice
from unmask.recipes.resolve import resolve_recipe
from unmask.recipes.stages import stand_ins
from unmask.recipes.trained import load_tokenizer
from unmask.runs import load_method, read_plan, read_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def test_trained_tokenizer_comes_back_as_it_was(data: Path, tmp_path: Path) -> None:
    run = tokenizer_run(data, tmp_path / "tok")
    assert (run.step, run.interrupted) == (12, None)
    tokenizer = load_tokenizer(tmp_path / "tok")
    assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())
    kept = weights(tmp_path / "tok", step=12)
    assert torch.equal(tokenizer.state_dict()["colours"], kept["colours"])
    card = json.loads((tmp_path / "tok" / "tokenizer.json").read_text())
    assert (card["name"], card["vocabulary"], card["grid"]) == ("nearest", 16, [4, 4])
    assert 1 <= card["use"]["used"] <= 16 and card["made_by"]["step"] == card["made_by"]["steps"] == 12
    assert (tmp_path / "tok" / "report.html").is_file()
    assert sorted(p.name for p in (tmp_path / "tok" / "images").glob("step_*.png"))
    assert read_plan(tmp_path / "tok").learner.options == {"vocabulary": 16, "stride": 8}


def test_tokenizer_learns_and_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    tokenizer_run(data, whole, overrides={"checkpoint.every": 5})
    first, *_, last = (
        line["reconstruction"]["tokenizer"] for line in lines(whole) if line.get("event") == "probe"
    )
    assert last < first
    cut = tmp_path / "cut"
    with pytest.MonkeyPatch.context() as patch:
        update, count = engine.update, iter(range(100))

        def broken(*given: object, **named: object) -> object:
            if next(count) == 7:
                raise KeyboardInterrupt
            return update(*given, **named)  # type: ignore[arg-type]

        patch.setattr(engine, "update", broken)
        with pytest.raises(KeyboardInterrupt):
            tokenizer_run(data, cut, overrides={"checkpoint.every": 5})
    with pytest.raises(UserError, match="not finished: step 5 of 12"):
        load_tokenizer(cut)
    load_tokenizer(cut / "tokenizer.safetensors")  # named itself, it is meant as it is
    tokenizer_run(data, cut, resume=True)
    assert training(cut) == training(whole)
    assert same(weights(cut, 12), weights(whole, 12))


def test_method_without_a_tokenizer_gets_one_first(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    guess_run(data, out)
    assert events(out / FIRST_STAGE) == ["start", "probe", "probe", "end"]
    assert read_plan(out / FIRST_STAGE).schedule.steps == read_plan(out).schedule.steps == 6
    assert events(out) == ["start", "end"]
    assert read_recipe(out).method.options["tokenizer"] == FIRST_STAGE
    # The run can be moved with the tokenizer that it holds.
    moved = out.rename(tmp_path / "elsewhere")
    method = load_method(moved)
    assert same(
        method.tokenizer.state_dict(),  # type: ignore[operator, union-attr]
        load_tokenizer(moved / FIRST_STAGE).state_dict(),
    )


def test_finished_tokenizer_is_used_again_and_a_begun_one_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tokenizer_run(data, out / FIRST_STAGE, steps=4)
    before = (out / FIRST_STAGE / "log.jsonl").read_text()
    guess_run(data, out)
    assert (out / FIRST_STAGE / "log.jsonl").read_text() == before
    begun = tmp_path / "begun"
    tokenizer_run(data, begun / FIRST_STAGE, steps=4)
    log = begun / FIRST_STAGE / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"end"' not in line))
    with pytest.raises(UserError, match="holds a run already"):
        guess_run(data, begun)
    guess_run(data, begun, resume=True)
    assert events(begun / FIRST_STAGE)[-2:] == ["resume", "end"]
    assert events(begun) == ["start", "end"]


def test_overwriting_trains_the_tokenizer_anew(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    guess_run(data, out)
    guess_run(data, out, overwrite=True, seed=1)
    assert read_plan(out / FIRST_STAGE).seed == 1
    assert events(out) == ["start", "end"]


def test_run_goes_on_only_with_the_tokenizer_that_it_began_with(data: Path, tmp_path: Path) -> None:
    tokenizer, out = tmp_path / "tok", tmp_path / "run"
    tokenizer_run(data, tokenizer)
    named = {"method.tokenizer": str(tokenizer), "probe.every": 0}
    guess_run(data, out, overrides=named)
    assert read_recipe(out).method.options["tokenizer"] == str(tokenizer.resolve())
    log = out / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"end"' not in line))
    guess_run(data, out, resume=True, steps=None, batch_size=None, overrides=None)
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"end"' not in line))
    tokenizer_run(data, tokenizer, overwrite=True, seed=1)
    with pytest.raises(UserError, match=r"method\.tokenizer names are not those"):
        guess_run(data, out, resume=True, steps=None, batch_size=None, overrides=None)


def test_what_does_not_fit_is_said_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    tokenizer_run(data, tmp_path / "tok", image_size=(64, 64))
    for given, message in (
        (tmp_path / "tok", "codes of \\(8, 8\\) places"),
        (tmp_path / "none", "there is no tokenizer"),
        (data, "there is no tokenizer"),
    ):
        with pytest.raises(UserError, match=message):
            guess_run(data, tmp_path / "run", overrides={"method.tokenizer": str(given)})
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="holds a tokenizer"):
        guess_run(data, tmp_path / "tok", resume=True)
    with pytest.raises(UserError, match="did you mean 'vocabulary'"):
        tokenizer_run(data, tmp_path / "new", overrides={"tokenizer.vocabulry": 8})
    with pytest.raises(UserError, match="is a tokenizer: `unmask tokenizer nearest`"):
        pretrain("nearest", data=data, out=tmp_path / "new", progress=False)


def test_masks_and_speed_can_be_looked_at_without_a_tokenizer(data: Path, tmp_path: Path) -> None:
    recipe = resolve_recipe("guess", images=50, steps=2, batch_size=8)
    parts = stand_ins(recipe, images=50)
    assert parts["tokenizer"].grid == (4, 4)
    machine = Machine(device="cpu", precision="fp32", workers=0, compile=None, checkpointing=False)
    job = prepare(settle(recipe, open_source(data)), open_source(data), tmp_path, machine, parts=parts)
    assert job.learner.tokenizer is parts["tokenizer"]  # type: ignore[comparison-overlap]
    assert masks("guess", count=2).own is not None
    named = recipe.model_copy(update={"method": Choice(name="guess", tokenizer="runs/tok")})
    assert stand_ins(named) == {}
