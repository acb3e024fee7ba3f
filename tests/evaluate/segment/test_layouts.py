"""Folders of pictures and masks, and what can be wrong with them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.segment.scenes import mask_of, write_scenes
from unmask.errors import UserError
from unmask.evaluate.segment.layouts import find_mask_files, read_names
from unmask.evaluate.segment.scenes import (
    SceneError,
    Scenes,
    read_indices,
    require_classes,
    require_right_names,
    survey,
)
from unmask.evaluate.segment.score import IGNORED


@pytest.mark.parametrize("masks", ["annotations", "masks", "labels"])
@pytest.mark.parametrize("parts", [("training", "validation"), ("train", "val")])
def test_folders_with_parts(tmp_path: Path, masks: str, parts: tuple[str, str]) -> None:
    write_scenes(tmp_path, masks=masks, parts={parts[0]: 4, parts[1]: 2})
    training, validation = find_mask_files(tmp_path)
    assert (len(training), len(validation), training.classes) == (4, 2, ("0", "1", "2"))
    scene = validation.read(1)
    assert np.array_equal(scene.mask, mask_of(1)) and scene.pixels.shape == (12, 16, 3)
    assert validation.picture(1) == tmp_path / "images" / parts[1] / "1.png"


def test_parts_may_come_first(tmp_path: Path) -> None:
    write_scenes(tmp_path, parts={"a": 3, "b": 2})
    for old, new in (("a", "train"), ("b", "test")):
        (tmp_path / new).mkdir()
        for kind in ("images", "annotations"):
            (tmp_path / kind / old).rename(tmp_path / new / kind)
    assert [len(part) for part in find_mask_files(tmp_path)] == [3, 2]


def test_without_parts_a_fifth_validates_always_the_same(tmp_path: Path) -> None:
    write_scenes(tmp_path, parts={".": 10})
    training, validation = find_mask_files(tmp_path)
    again = find_mask_files(tmp_path)
    assert (len(training), len(validation)) == (8, 2)
    names = [{part.picture(index) for index in range(len(part))} for part in (training, validation)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 10
    assert [again[1].picture(index) for index in range(2)] == [
        validation.picture(index) for index in range(2)
    ]


def test_classes_have_the_names_of_the_file(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nwall\n\ntree\nnever seen\n", encoding="utf-8")
    assert find_mask_files(tmp_path)[0].classes == ("sky", "wall", "tree", "never seen")
    other = tmp_path / "names.txt"
    other.write_text("Idx\tRatio\tName\n1\t0.1\twall, side\n2\t0.1\tfloor\n3\t0.1\ttree\n", encoding="utf-8")
    assert find_mask_files(tmp_path, classes=other)[0].classes == ("wall", "floor", "tree")
    for text in ("", "\n".join(map(str, range(300)))):
        other.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="needed are 1 to 254"):
            read_names(other)
    with pytest.raises(UserError, match="cannot be read"):
        read_names(tmp_path / "nothing.txt")


def test_zero_can_be_no_class(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    training, _ = find_mask_files(tmp_path, reduce_zero_label=True)
    mask, raw = training.mask(2), mask_of(2)
    assert training.classes == ("1", "2")
    assert np.array_equal(mask == IGNORED, (raw == 0) | (raw == IGNORED))
    assert np.array_equal(mask == 1, raw == 2)


def test_a_survey_counts_the_pixels_of_each_class(tmp_path: Path) -> None:
    training, _ = find_mask_files(write_scenes(tmp_path))
    expected = sum(np.bincount(mask_of(number).ravel(), minlength=256)[:3] for number in range(6))
    assert np.array_equal(survey(training, part="training"), expected)


def of(folder: Path, name: str = "2.png") -> tuple[Path, Path]:
    return folder / "images" / "training" / name, folder / "annotations" / "training" / name


def another_size(folder: Path) -> None:
    Image.fromarray(mask_of(2)[:6]).save(of(folder)[1])


def out_of_range(folder: Path) -> None:
    mask = mask_of(2)
    mask[3, 3] = 77
    Image.fromarray(mask).save(of(folder)[1])


def broken_mask(folder: Path) -> None:
    of(folder)[1].write_bytes(of(folder)[1].read_bytes()[:60])


def broken_picture(folder: Path) -> None:
    of(folder)[0].write_bytes(b"no picture at all")


def colours_instead_of_indices(folder: Path) -> None:
    colours = np.zeros((12, 16, 3), dtype=np.uint8)
    colours[..., 1] = 9
    Image.fromarray(colours).save(of(folder)[1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_size, "16 x 12 pixels, its mask 16 x 6"),
        (out_of_range, "class index 77, and the 3 classes have the indices 0 to 2"),
        (broken_mask, "its mask 2.png cannot be read"),
        (broken_picture, "training/2.png: "),
        (colours_instead_of_indices, "one class index a pixel.*12 x 16 x 3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    write_scenes(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n", encoding="utf-8")
    spoil(tmp_path)
    training, _ = find_mask_files(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        survey(training, part="training")
    assert "1 of the 6 pictures in training cannot be used" in str(caught.value)
    with pytest.raises(SceneError):  # and if it happens later, the loop takes the next one
        training.read(2)


def test_missing_and_spare_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_scenes(tmp_path)
    picture, mask = of(tmp_path)
    picture.rename(tmp_path / "elsewhere.png")
    assert len(find_mask_files(tmp_path)[0]) == 5 and "1 masks" in caplog.text
    mask.unlink()
    of(tmp_path, "3.png")[1].unlink()
    with pytest.raises(UserError, match=r"1 of the 5 pictures in .* have no mask .* \(3.png\)"):
        find_mask_files(tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    Image.new("RGB", (16, 12)).save(of(tmp_path, "2.jpg")[0])
    with pytest.raises(UserError, match="two files called 2"):
        find_mask_files(tmp_path)


def test_masks_without_any_class_are_refused(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    for path in (tmp_path / "annotations").rglob("*.png"):
        Image.fromarray(np.full((12, 16), IGNORED, dtype=np.uint8)).save(path)
    with pytest.raises(UserError, match="No mask has a class"):
        find_mask_files(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(UserError, match="No pixel of the 6 masks in training has a class"):
        survey(find_mask_files(tmp_path)[0], part="training")


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    for path in (tmp_path / "annotations").rglob("*.png"):
        Image.fromarray((read_indices(path) == 1).astype(np.uint8)).save(path)
    training, _ = find_mask_files(tmp_path)
    require_classes(training, survey(training, part="training"))
    (tmp_path / "classes.txt").write_text("background\nobject\n", encoding="utf-8")
    for _ in ("names of the file", "numbers"):
        training, _ = find_mask_files(tmp_path, reduce_zero_label=True)
        with pytest.raises(UserError, match=r"nothing to tell apart.*data.reduce_zero_label"):
            require_classes(training, survey(training, part="training"))
        (tmp_path / "classes.txt").unlink(missing_ok=True)


def test_classes_without_a_pixel_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (write_scenes(tmp_path) / "classes.txt").write_text("sky\nwall\ntree\ncar\nsea\n", encoding="utf-8")
    training, _ = find_mask_files(tmp_path)
    require_classes(training, survey(training, part="training"))
    assert "2 of the 5 classes have no pixel" in caplog.text and "car, sea" in caplog.text


@pytest.mark.parametrize(
    ("names", "shift", "wrong"),
    [
        ("sky wall tree", 0, True),  # names of 0, 1, 2, and index 0 has none
        ("wall tree", 0, False),  # ADE20K: names of 1, 2
        ("sky wall tree sea", 0, False),  # some of ADE20K's pictures: other classes are missing too
        ("sky wall tree sea", 1, False),  # index 0 does not occur
    ],
)
def test_names_that_begin_with_another_index_are_found(
    tmp_path: Path, names: str, shift: int, wrong: bool
) -> None:
    (write_scenes(tmp_path, shift=shift) / "classes.txt").write_text(
        names.replace(" ", "\n"), encoding="utf-8"
    )
    parts = find_mask_files(tmp_path, reduce_zero_label=True)
    counts = [survey(scenes, part="training") for scenes in parts]
    if not wrong:
        require_right_names(parts, counts)
        return
    with pytest.raises(UserError, match=r"'sky', is that of index 1: so the last one, 'tree'"):
        require_right_names(parts, counts)


@pytest.mark.parametrize(
    ("folders", "message"),
    [((), "no layout that is known"), (("images/training",), "no layout"), (("images", "masks"), "no image")],
)
def test_other_folders_are_explained(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        find_mask_files(tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        find_mask_files(tmp_path / "nothing")


def test_every_way_to_write_indices(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [3, IGNORED, 5]], dtype=np.uint8)
    palette = Image.fromarray(values).convert("P")
    palette.putdata(values.flatten().tolist())
    saved = {
        "grey.png": Image.fromarray(values),
        "palette.png": palette,
        "three.png": Image.fromarray(np.repeat(values[..., None], 3, axis=2)),
        "deep.png": Image.fromarray(values.astype(np.uint16)),
        "page.tiff": Image.fromarray(values),
    }
    for name, image in saved.items():
        image.save(tmp_path / name)
        assert np.array_equal(read_indices(tmp_path / name), values), name
    np.save(tmp_path / "array.npy", values.astype(np.int64))
    assert np.array_equal(read_indices(tmp_path / "array.npy"), values)
    Image.fromarray(values > 1).save(tmp_path / "two.png")
    assert np.array_equal(read_indices(tmp_path / "two.png"), values > 1)


def test_masks_that_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", np.array([[0.5, 1.0]]))
    np.save(tmp_path / "negative.npy", np.array([[-1, 1]]))
    with pytest.raises(SceneError, match="one class index a pixel"):
        read_indices(tmp_path / "half.npy")
    with pytest.raises(SceneError, match="lossy"):
        read_indices(tmp_path / "mask.jpg")

    class One(Scenes):
        classes, zero_is_no_class = ("a", "b"), False

        def __len__(self) -> int:
            return 1

        def picture(self, index: int) -> Path:
            return tmp_path

        def indices(self, index: int) -> np.ndarray:
            return read_indices(tmp_path / "negative.npy")

    with pytest.raises(SceneError, match="class index -1"):
        One().mask(0)
