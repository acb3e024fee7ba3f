"""A cache saves work and changes nothing: not when it is full, cut, shared, foreign or out of date."""

import errno
import inspect
import itertools
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from tests.engine.tiny import TINY, lines, pictures, run, same, training, weights
from tests.tiny import tiny_encoder, tiny_tokenizer
from unmask import cli, cli_tokenizer
from unmask.engine import cache_setup
from unmask.engine.cache import AnswerCache, Layout
from unmask.engine.first_stage import train_tokenizer
from unmask.engine.machine import CACHE_SIZE
from unmask.engine.pretrain import pretrain
from unmask.engine.records import Records
from unmask.engine.space import disk_use
from unmask.errors import UserError
from unmask.targets import Coded, EncoderTeacher, Taught
from unmask.tokenizers.codes import Codes

COUNT, STEPS = 48, 18  # six batches of eight in each of three epochs
RANDOM = "random:test_vit"
OVERRIDES: dict[str, Any] = {key: value for key, value in TINY.items() if "decoder" not in key}
OVERRIDES |= {"method.teacher": RANDOM, "method.mask": "random", "data.crops": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures", COUNT)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that the teacher was asked about in training; with a cache first once for its
    shape."""
    seen: list[int] = []
    forward = EncoderTeacher.forward

    def counting(self: EncoderTeacher, images: torch.Tensor, **options: Any) -> Taught:
        seen.append(len(images))
        return forward(self, images, **options)

    monkeypatch.setattr(EncoderTeacher, "forward", counting)
    monkeypatch.setattr("unmask.engine.pretrain.save_pictures", lambda *job: None)
    return seen


def distil(data: Path, out: Path, overrides: dict[str, Any] | None = None, **options: Any) -> None:
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"workers": 0, "progress": False, "device": "cpu"}
    if not options.get("resume"):
        settings |= {
            "encoder": "vit_tiny_patch16_224",
            "image_size": (32, 32),
            "batch_size": 8,
            "steps": STEPS,
        }
        settings |= {"overrides": OVERRIDES | (overrides or {})}
    pretrain("mask_distill", data=data, out=out, **(settings | options))


@pytest.fixture(scope="module")
def without(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never told of a cache."""
    out = tmp_path_factory.mktemp("without") / "run"
    distil(data, out)
    return out


def require_same(first: Path, second: Path, step: int = STEPS) -> None:
    assert training(first) == training(second) != []
    assert same(weights(first, step), weights(second, step))


def test_a_run_is_the_same_and_asks_once(data: Path, without: Path, tmp_path: Path, asked: list[int]) -> None:
    distil(data, tmp_path / "a", cache=tmp_path / "cache")
    assert asked == [1] + [8] * 6
    require_same(tmp_path / "a", without)
    cached = [line["cached"] for line in lines(tmp_path / "a") if "cached" in line]
    assert cached == [0] * 6 + [1] * 12
    asked.clear()
    distil(data, tmp_path / "b", cache=tmp_path / "cache")
    assert asked == [1], "another run with the same crops"
    require_same(tmp_path / "b", without)


def test_more_crops_go_on_where_fewer_were_kept(data: Path, tmp_path: Path, asked: list[int]) -> None:
    distil(data, tmp_path / "a", cache=tmp_path / "cache")
    asked.clear()
    distil(data, tmp_path / "b", {"data.crops": 2, "optim.accumulate": 2}, cache=tmp_path / "cache")
    assert asked == [1] + [4] * 12, "the second crop of each, once"


def test_another_teacher_has_another_cache(data: Path, tmp_path: Path, asked: list[int]) -> None:
    distil(data, tmp_path / "a", cache=tmp_path / "cache")
    other = {"method.teacher": f"{RANDOM}@resid"}
    distil(data, tmp_path / "without", other, steps=6)
    asked.clear()
    distil(data, tmp_path / "b", other, cache=tmp_path / "cache", steps=6)
    assert asked == [1] + [8] * 6
    require_same(tmp_path / "b", tmp_path / "without", 6)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_pictures_that_changed_under_their_names_are_noticed(tmp_path: Path, asked: list[int]) -> None:
    data = pictures(tmp_path / "pictures", 16)
    distil(data, tmp_path / "a", cache=tmp_path / "cache", steps=2)
    Image.fromarray(np.zeros((36, 36, 3), np.uint8)).save(data / "003.png")
    distil(data, tmp_path / "without", steps=2)
    asked.clear()
    distil(data, tmp_path / "b", cache=tmp_path / "cache", steps=2)
    assert asked == [1, 8], "the batch with that picture"
    require_same(tmp_path / "b", tmp_path / "without", 2)


def test_room_for_a_part(
    data: Path, without: Path, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 64_000  # bytes: 14 records of a class token and 16 features of 64 floats
    monkeypatch.setattr(cache_setup, "GB", bound)
    distil(data, tmp_path / "a", cache=tmp_path / "cache", cache_size=1)
    (file,) = (tmp_path / "cache").glob("*/answers")
    assert 0 < file.stat().st_size <= bound
    assert sum(asked) == 1 + 3 * COUNT - 2 * 14
    first, second = (np.array([line[2] for line in training(out)]) for out in (tmp_path / "a", without))
    assert np.allclose(first, second, rtol=1e-5)


def test_what_others_keep_counts(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_setup, "GB", 300_000)
    distil(data, tmp_path / "a", cache=tmp_path / "cache", cache_size=1, steps=6)
    distil(data, tmp_path / "b", seed=1, cache=tmp_path / "cache", cache_size=1, steps=6)
    first, second = sorted(file.stat().st_size for file in (tmp_path / "cache").glob("*/answers"))
    assert first < second, "the second has less room"
    assert disk_use(tmp_path / "cache") <= 300_000 + 4 * 4096  # whole blocks, and keys


def test_no_more_than_half_of_what_is_free(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_setup, "free_space", lambda folder: 100_000)
    distil(data, tmp_path / "a", cache=tmp_path / "cache", steps=6)
    (file,) = (tmp_path / "cache").glob("*/answers")
    assert 0 < file.stat().st_size <= 50_000


def test_a_full_disk_ends_no_run(
    data: Path, without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    write, times = Records.write, itertools.count()

    def until_full(self: Records, *record: Any) -> None:
        if next(times) >= 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, *record)

    monkeypatch.setattr(Records, "write", until_full)
    distil(data, tmp_path / "a", cache=tmp_path / "cache")
    require_same(tmp_path / "a", without)
    assert sum("No space left" in message for message in caplog.messages) == 1


def test_a_killed_run_goes_on_as_if_never_stopped(data: Path, without: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(
        target=distil, args=(data, out, {"checkpoint.every": 4}), kwargs={"cache": cache}
    )
    process.start()
    while process.is_alive() and len(training(out)) < 9:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert 0 < len(training(out)) < STEPS, "it was to be killed in the middle"
    (file,) = cache.glob("*/answers")
    os.truncate(file, file.stat().st_size - 100)  # the last place, cut
    distil(data, out, resume=True, cache=cache)
    require_same(out, without)


@pytest.mark.parametrize("length", [1, 3])
def test_answers_become_records_and_come_back(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    taught = Taught(
        patches=torch.randn(length, 4, 6, generator=generator),
        cls=torch.randn(length, 6, generator=generator),
    )
    coded = Coded(codes=torch.randint(0, 8192, (length, 9), generator=generator))
    for answer in (taught, coded):
        layout = Layout.of(answer)
        records = layout.pack(answer)
        assert records.shape == (length, layout.length)
        back = layout.unpack(records, torch.device("cpu"))
        assert type(back) is type(answer)
        for name, tensor in vars(answer).items():
            found = vars(back)[name]
            assert found is tensor is None or (torch.equal(found, tensor) and found.dtype == tensor.dtype)
    assert Layout.of(coded).length == 4 * 9


def test_codes_are_kept(tmp_path: Path) -> None:
    encoder = tiny_encoder("vit")
    codes = Codes(tiny_tokenizer(encoder), encoder)
    (question,) = codes.questions.values()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    truth = question.ask(images)
    kept = AnswerCache(
        tmp_path, {}, question, Layout.of(truth), places=4, room=1e6, accelerator=Accelerator(cpu=True)
    )
    kept.open()
    places, marks = torch.tensor([3, 0, 2]), torch.tensor([5, 6, 7])
    for times, share in ((1, 0.0), (2, 1.0)):
        # Nothing but the answers kept can tell the codes of images that are black now.
        said = kept.answer(images if times == 1 else 0 * images, places, marks)
        assert torch.equal(codes.encode(said), codes.encode(images))
        assert kept.rate() == share
    kept.close()


def test_what_cannot_be_kept_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = {"cache": tmp_path / "cache"}
    with pytest.raises(UserError, match=r"data\.crops=4"):
        distil(data, tmp_path / "run", {"data.crops": None}, **cache)
    with pytest.raises(UserError, match="positive"):
        distil(data, tmp_path / "run", cache_size=0, **cache)
    with pytest.raises(UserError, match="is a file"):
        distil(data, tmp_path / "run", cache=tmp_path / "file")
    with pytest.raises(UserError, match="asks no teacher"):
        run(data, tmp_path / "run", overrides={"data.crops": 1}, **cache)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_command_line_has_the_same_bound() -> None:
    for command, function in ((cli.pretrain, pretrain), (cli_tokenizer.tokenizer, train_tokenizer)):
        bounds = {inspect.signature(one).parameters["cache_size"].default for one in (command, function)}
        assert bounds == {CACHE_SIZE}
