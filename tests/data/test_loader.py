"""Batches must depend on the seed and the step alone, and broken files must not stop a run."""

import itertools
import logging
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.conftest import encoded, smooth
from unmask.data.loader import Batch, EvaluationLoader, PretrainLoader, allowed_bad, epoch_order
from unmask.data.sources import open_source
from unmask.data.views import Augment, View, evaluation_view
from unmask.errors import UserError

VIEWS = {"images": View(), "small": View(scale=0.5, interpolation="lanczos", shift=3)}
AUGMENT = Augment(image_size=(16, 24))


def loader(path, *, batch_size=5, seed=7, workers=0, **options) -> PretrainLoader:
    return PretrainLoader(
        open_source(path), VIEWS, AUGMENT, batch_size=batch_size, seed=seed, workers=workers, **options
    )


def take(loader: PretrainLoader, count: int, start: int = 0) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(loader.batches(start), count))


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_shapes_epochs_and_types(photos):
    batches = loader(photos)
    assert len(batches) == 4  # 24 images, 5 in a batch, the rest dropped
    first = take(batches, 1)[0]
    assert first["images"].shape == (5, 3, 16, 24) and first["small"].shape == (5, 3, 8, 12)
    assert first["images"].dtype == first["small"].dtype == torch.uint8


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3, 10])
def test_batches_do_not_depend_on_workers_or_the_point_of_resume(photos, workers, start):
    whole = take(loader(photos), 14)
    assert_equal(take(loader(photos, workers=workers), 14 - start, start), whole[start:])


def test_an_archive_gives_the_same_batches(photos):
    with tarfile.open(photos.parent / "photos.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    packed = loader(photos.parent / "photos.tar.gz", workers=2)
    assert_equal(take(packed, 3), take(loader(photos), 3))


def test_epochs_and_seeds_differ(photos):
    first = take(loader(photos), 8)
    assert not torch.equal(first[0]["images"], first[4]["images"])
    assert not torch.equal(first[0]["images"], take(loader(photos, seed=8), 1)[0]["images"])
    orders = {tuple(epoch_order(24, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(24)) for order in orders)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_one_global_batch(photos, world_size):
    together = take(loader(photos, batch_size=8), 7)
    parts = [
        take(loader(photos, batch_size=8 // world_size, rank=rank, world_size=world_size), 7)
        for rank in range(world_size)
    ]
    joined = [{name: torch.cat([part[step][name] for part in parts]) for name in VIEWS} for step in range(7)]
    assert_equal(joined, together)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_numbers_are_left_alone(photos, workers):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, the legacy state is what is watched
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    take(loader(photos, workers=workers), 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == before_numpy).all()  # noqa: NPY002


def test_too_few_images_for_a_batch(photos):
    with pytest.raises(UserError, match=r"24 images, fewer than one batch of 25; use a --batch-size of 24 "):
        loader(photos, batch_size=25)
    with pytest.raises(
        UserError, match=r"one batch of 26 \(13 on each of 2 processes\); use a --batch-size of 12"
    ):
        loader(photos, batch_size=13, world_size=2)


def break_files(folder, count):
    """Four kinds of damage, over and over."""
    paths = sorted(folder.rglob("*.jpg"))[1 : 1 + count]
    for kind, path in enumerate(paths):
        data = path.read_bytes()
        path.write_bytes([data[: len(data) // 2], b"", b"<html>not found</html>", data[:100]][kind % 4])
    return {str(path) for path in paths}


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_replaced_counted_and_logged_once(photos, workers, caplog):
    broken = break_files(photos, 4)
    source = loader(photos, workers=workers)
    with caplog.at_level(logging.WARNING):
        batches = take(source, 16)  # four epochs
    assert set(source.bad) == broken and all(source.bad.values())
    assert all(len(batch["images"]) == 5 for batch in batches)
    assert sorted(record.args[0] for record in caplog.records) == sorted(broken)
    assert_equal(take(loader(photos), 3, 13), batches[13:])


def test_the_next_readable_file_takes_the_place(photos):
    names = [open_source(photos).names[index] for index in range(24)]
    broken = break_files(photos, 2)
    assert broken == {str(photos / name) for name in names[1:3]}
    replaced = take(loader(photos, batch_size=24), 1)[0]["images"]
    for name in names[1:3]:
        shutil.copy(photos / names[3], photos / name)
    assert torch.equal(take(loader(photos, batch_size=24), 1)[0]["images"], replaced)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_files_end_the_run(photos, workers):
    break_files(photos, 7)  # of 24, six are forgiven
    with pytest.raises(
        UserError, match=r"7 of 24 files cannot be read so far, and at most 6.*\n.*/cat/"
    ) as caught:
        take(loader(photos, workers=workers), 40)
    assert len(str(caught.value).splitlines()) == 6  # the message and five files


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("max_bad", [0.01, 1.0])
def test_nothing_readable_ends_at_once(photos, workers, max_bad):
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        take(loader(photos, workers=workers, max_bad=max_bad), 1)


def test_how_many_may_be_bad():
    assert [allowed_bad(count, 0.01) for count in (2, 8, 24, 60, 999, 1100, 5000)] == [
        1,
        2,
        6,
        10,
        10,
        11,
        50,
    ]
    assert allowed_bad(1000, 0) == 0
    with pytest.raises(ValueError, match="max_bad"):
        allowed_bad(10, 1.5)


def test_a_file_that_vanishes_is_a_bad_file(photos):
    source = loader(photos)
    (photos / "dog" / "00.jpg").unlink()
    take(source, 8)
    assert source.bad == {str(photos / "dog" / "00.jpg"): "No such file or directory"}


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order(photos, workers):
    source = open_source(photos)
    batches = list(EvaluationLoader(source, (16, 24), batch_size=7, workers=workers))
    assert [len(images) for images, _, _ in batches] == [7, 7, 7, 3]
    assert torch.cat([indices for _, _, indices in batches]).tolist() == list(range(24))
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == source.labels
    with Image.open(photos / source.names[9]) as image:
        assert torch.equal(batches[1][0][2], evaluation_view(image, (16, 24)))


def test_evaluation_leaves_broken_files_out(photos):
    broken = break_files(photos, 4)
    evaluation = EvaluationLoader(open_source(photos), (8, 8), batch_size=4, channels=1)
    assert len(evaluation) == 6
    seen = torch.cat([indices for _, _, indices in evaluation]).tolist()
    assert seen == [0, *range(5, 24)]
    assert set(evaluation.bad) == broken
    assert torch.cat([images for images, _, _ in evaluation]).shape == (20, 1, 8, 8)
    break_files(photos, 8)
    with pytest.raises(UserError, match="at most 6 may be bad"):
        list(EvaluationLoader(open_source(photos), (8, 8), batch_size=4))


def test_evaluation_without_labels(photos):
    batches = list(EvaluationLoader(open_source(photos / "dog"), (8, 8), batch_size=8))
    assert len(batches) == 1 and batches[0][1] is None


def test_grey_and_alpha_channels(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encoded(Image.fromarray(smooth(20, 20, number)), "PNG"))
    for channels in (1, 4):
        augment = Augment(image_size=(8, 8), channels=channels)
        batches = PretrainLoader(
            open_source(tmp_path), {"images": View()}, augment, batch_size=4, seed=0, workers=0
        )
        assert next(batches.batches(0))["images"].shape == (4, channels, 8, 8)


def by_index(epoch: int, batches: list[Batch], count: int, seed: int = 7) -> dict[int, torch.Tensor]:
    """An epoch's views by the numbers of the pictures."""
    rows = torch.cat([batch["images"] for batch in batches])
    return dict(zip(epoch_order(count, seed, epoch).tolist(), rows, strict=False))


def test_crops_come_again(photos):
    fresh, fixed = loader(photos, batch_size=1), loader(photos, batch_size=1, crops=2)
    steps = len(fixed)
    count = len(fixed.source)
    assert_equal(take(fresh, 2 * steps), take(fixed, 2 * steps))
    epochs = [by_index(epoch, take(fixed, steps, epoch * steps), count) for epoch in range(4)]
    for first, again in ((0, 2), (1, 3)):
        assert all(torch.equal(epochs[first][index], epochs[again][index]) for index in range(count))
    assert not any(torch.equal(epochs[0][index], epochs[1][index]) for index in range(count))


@pytest.mark.parametrize("workers", [0, 2])
def test_marks_tell_crops_apart(photos, workers):
    marked = loader(photos, batch_size=2, crops=2, marked=("small", "images"), workers=workers)
    count, steps = len(marked.source), len(marked)
    known: dict[int, tuple] = {}
    for step, batch in enumerate(take(marked, 6 * steps)):
        assert batch.marks is not None and batch.marks.shape == (2, 3)
        start = step % steps * 2
        order = epoch_order(count, 7, step // steps)[start : start + 2]
        for row, (place, small, image) in enumerate(batch.marks.tolist()):
            assert place == step // steps % 2 * count + order[row]
            pixels = batch["small"][row], batch["images"][row]
            before = known.setdefault(place, ((small, image), pixels))
            assert before[0] == (small, image)
            assert all(torch.equal(one, two) for one, two in zip(before[1], pixels, strict=True))
    prints = [value for marks, _ in known.values() for value in marks]
    assert len(set(prints)) == len(prints) and 0 not in prints
    assert next(loader(photos, crops=2).batches()).marks is None
