"""Lists and tables name the pictures; whatever is wrong with a line is said with its number."""

from pathlib import Path

import numpy as np
import pytest

from unmask.data import EvaluationLoader, labels_of, open_source, open_splits
from unmask.errors import UserError


def written(photos: Path, text: str, name: str = "list.txt", encoding: str = "utf-8") -> Path:
    path = photos / name
    path.write_text(text, encoding=encoding)
    return path


def test_a_text_file_has_a_path_a_line_in_its_own_order(photos: Path) -> None:
    absolute = photos / "dog" / "03.jpg"
    text = f"# chosen by hand\n\n  cat/02.jpg  \r\n{absolute}\ncat/01.jpg\n"
    source = open_source(written(photos, text))
    assert [source.read(index) for index in range(len(source))] == [
        (photos / "cat/02.jpg").read_bytes(), absolute.read_bytes(), (photos / "cat/01.jpg").read_bytes(),
    ]  # fmt: skip
    assert source.labels == [0, 1, 0] and source.classes == ["cat", "dog"]
    assert source.name(0) == str(photos / "cat/02.jpg")
    assert str(source) == str(photos / "list.txt")


@pytest.mark.parametrize("mark, name", [(",", "t.csv"), (";", "t.csv"), ("\t", "t.tsv"), ("\t", "t.csv")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_has_columns_in_any_order(photos: Path, mark: str, name: str, encoding: str) -> None:
    rows = [["Label", "note", "Path"], ["10", '"a, b; c"', "cat/01.jpg"], ["9", "", "dog/00.jpg"]]
    source = open_source(written(photos, "\n".join(mark.join(row) for row in rows), name, encoding))
    assert source.classes == ["9", "10"]  # by value
    assert source.labels == [1, 0]
    assert source.read(1) == (photos / "dog/00.jpg").read_bytes()


@pytest.mark.parametrize("header", ["", "whatever\n", "image\n"])
def test_without_a_known_column_the_first_one_counts(photos: Path, header: str) -> None:
    source = open_source(written(photos, header + "cat/01.jpg\ndog/00.jpg\n", "table.csv"))
    assert len(source) == 2 and source.classes == ["cat", "dog"]


def test_parts_named_in_a_table(photos: Path) -> None:
    files = sorted(path.relative_to(photos) for path in photos.rglob("*.jpg"))
    rows = [
        f"{file},{'odd' if n % 2 else 'even'},{'val' if n > 15 else 'train'}" for n, file in enumerate(files)
    ]
    table = written(photos, "path,label,split\n" + "\n".join(rows), "table.csv")
    train, held_out = open_splits(table)
    assert (len(train), len(held_out)) == (16, 8)
    assert train.classes == held_out.classes == ["even", "odd"]
    assert held_out.labels == [0, 1] * 4
    unsplit = written(photos, table.read_text().replace(",split", ",part"), "other.csv")
    train, held_out = open_splits(unsplit)
    assert (len(train), len(held_out)) == (20, 4) and train.classes == ["even", "odd"]


def test_folders_of_parts_named_in_a_list(photos: Path) -> None:
    for part in ("train", "val"):
        (photos.parent / part).symlink_to(photos)
    names = [f"{part}/{name}" for part in ("train", "val") for name in ("cat/01.jpg", "dog/00.jpg")]
    train, held_out = open_splits(written(photos.parent, "\n".join(names)))
    assert (train.labels, held_out.labels, train.classes) == ([0, 1], [0, 1], ["cat", "dog"])


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "names no picture"),
        ("# nothing\n\n", "names no picture"),
        ("path,label\ncat/01.jpg,a\n,b\n", "line 3: column 1 is empty"),
        ("path,label\ncat/01.jpg\n", "line 2: column 2 is empty or missing"),
        ("path,label\ncat/01.jpg,a\n\ndog/00.jpg,\n", "line 4: column 2 is empty"),
        ('path\ncat/01.jpg\n"dog/00.jpg\n', "line 3: .*quotation mark"),
        ("path\nlion/01.jpg\n", r"line 2: there is no file .*lion/01.jpg.*relative to the list's own folder"),
        ("path\n" + "x" * 5000 + "\n", "line 2: there is no file"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(photos: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_source(written(photos, text, "table.csv"))


def test_text_that_is_none(photos: Path) -> None:
    (photos / "list.txt").write_bytes("cat/01.jpg".encode("utf-16"))
    with pytest.raises(UserError, match="UTF-8"):
        open_source(photos / "list.txt")


def test_single_missing_files_are_bad_ones(photos: Path) -> None:
    names = ["cat/01.jpg", "gone.jpg", "cat", "cat/02.jpg", *["dog/00.jpg"] * 8]
    loader = EvaluationLoader(open_source(written(photos, "\n".join(names))), (8, 8), batch_size=12)
    ((images, _, indices),) = loader
    assert len(images) == 10 and 1 not in indices and 2 not in indices
    assert [reason.split(" (")[0] for reason in loader.bad.values()] == [
        "No such file or directory",
        "no regular file",
    ]


def test_files_in_a_list_need_no_extension(photos: Path) -> None:
    (photos / "picture").write_bytes((photos / "cat/01.jpg").read_bytes())
    np.save(photos / "array.npy", np.zeros((4, 4, 3), np.uint8))
    source = open_source(written(photos, "picture\narray.npy\n"))
    ((images, _, _),) = EvaluationLoader(source, (8, 8), batch_size=2)
    assert len(images) == 2
    with pytest.raises(UserError, match="a table"):
        labels_of(source)
