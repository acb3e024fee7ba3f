"""Labelled data in three parts."""

from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.pictures import write_pictures
from unmask.data.parts import open_parts
from unmask.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for part, each in (("train", 10), ("val", 2), ("test", 3)):
        write_pictures(folder / part, each=each)
    return folder


def test_parts_are_found(data: Path) -> None:
    parts = open_parts(data)
    assert parts.test is not None and parts.notes == ()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [30, 6, 9]
    assert parts.classes == ["blue", "green", "red"] == parts.test.classes
    assert parts.validation.labels == [0, 0, 1, 1, 2, 2]


def test_a_table_has_parts_too(data: Path, tmp_path: Path) -> None:
    rows = [
        f"{data}/{part}/{name}/{number:03}.png,{name},{said}"
        for part, said in (("train", "train"), ("val", "validation"), ("test", "test"))
        for name in ("red", "blue")
        for number in range(2)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    parts = open_parts(tmp_path / "list.csv")
    assert parts.test is not None
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [4, 4, 4]
    assert parts.classes == ["blue", "red"]


def test_what_is_missing_is_held_out_of_the_training_images(data: Path, tmp_path: Path) -> None:
    parts = open_parts(data / "train")
    assert [len(parts.train), len(parts.validation)] == [24, 6] and parts.test is None
    assert "6 of 30 training images are held out" in parts.notes[0]
    for part in ("train", "test"):
        (tmp_path / part).symlink_to(data / part)
    parts = open_parts(tmp_path)  # the test images choose no weights
    assert parts.test is not None
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [24, 6, 9]
    names = [{part.name(index) for index in range(len(part))} for part in (parts.train, parts.validation)]
    assert not names[0] & names[1]


def test_test_images_without_classes_are_left_out_and_said_so(data: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(data / part)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "one.png").write_bytes((data / "val" / "red" / "000.png").read_bytes())
    parts = open_parts(tmp_path)
    assert parts.test is None and parts.notes == ("test/ has no class folders, or only one: it is not used.",)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "vehicles", each=5)
    (folder / "red").rename(folder / "train")
    assert open_parts(folder).classes == ["blue", "green", "train"]


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_a_fraction_is_balanced_nested_and_the_same_for_a_seed(data: Path, fraction: float) -> None:
    parts = open_parts(data)
    part = parts.with_fraction(fraction, seed=3).train
    assert np.bincount(part.labels).tolist() == [round(10 * fraction)] * 3
    names = {part.name(index) for index in range(len(part))}
    again = parts.with_fraction(fraction, seed=3).train
    assert names == {again.name(index) for index in range(len(again))}
    larger = parts.with_fraction(0.8, seed=3).train
    assert names < {larger.name(index) for index in range(len(larger))}
    other = parts.with_fraction(fraction, seed=4).train
    assert names != {other.name(index) for index in range(len(other))}
    assert all(part.classes[label] in part.name(index) for index, label in enumerate(part.labels))


def test_mistakes_are_named(data: Path, tmp_path: Path) -> None:
    one = write_pictures(tmp_path / "one" / "train", each=3, colours=("red",)).parent
    write_pictures(one / "val", each=2, colours=("red",))
    with pytest.raises(UserError, match=r"no class folders inside|one class only"):
        open_parts(one)
    unknown = write_pictures(tmp_path / "unknown" / "train", each=3, colours=("red", "blue")).parent
    write_pictures(unknown / "val", each=2)
    with pytest.raises(UserError, match=r"classes in validation are not in train \(green\)"):
        open_parts(unknown)
    loose = write_pictures(tmp_path / "loose" / "train", each=3).parent
    write_pictures(loose / "val", each=2)
    (loose / "train" / "x.png").write_bytes((data / "val" / "red" / "000.png").read_bytes())
    with pytest.raises(UserError, match=r"outside class folders, directly in train/"):
        open_parts(loose)
    (tmp_path / "broken.csv").write_text('path,label\n"a.png,red\n')
    with pytest.raises(UserError, match="quotation mark"):
        open_parts(tmp_path / "broken.csv")
    single = tmp_path / "single.csv"
    single.write_text(f"path,label\n{data}/val/red/000.png,red\n{data}/val/red/001.png,red\n")
    with pytest.raises(UserError, match="one class only, red"):
        open_parts(single)
    with pytest.raises(UserError, match="There is no file or folder"):
        open_parts(tmp_path / "nowhere")
