"""A folder and every archive of it must be the same source; mistakes must be explained."""

import contextlib
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from unmask.data.files import parent_labels
from unmask.data.sources import Subset, labels_of, open_source, open_splits, split
from unmask.errors import UserError

ARCHIVES = ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip", "stored.zip"]


def pack(folder: Path, kind: str, *, prefix: str = "") -> Path:
    path = folder.parent / f"{folder.name}.{kind}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [prefix + str(file.relative_to(folder)) for file in files]
    if kind.endswith("zip"):
        method = zipfile.ZIP_STORED if kind == "stored.zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            for file, name in zip(reversed(files), reversed(names), strict=True):
                archive.write(file, name)
    else:
        mode = "w:" + (kind.split(".")[1] if "." in kind else "")
        with tarfile.open(path, mode) as archive:
            for file, name in zip(reversed(files), reversed(names), strict=True):
                archive.add(file, name)
    return path


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("prefix", ["", "./", "wrapped/"])
def test_an_archive_equals_its_folder(photos, kind, prefix):
    (photos / "readme.txt").write_text("no picture")
    (photos / ".hidden.jpg").write_text("hidden")
    folder = open_source(photos)
    archive = open_source(pack(photos, kind, prefix=prefix))
    assert len(archive) == len(folder) == 24
    assert [archive.read(index) for index in range(24)] == [folder.read(index) for index in range(24)]
    assert archive.labels == folder.labels
    assert archive.classes == folder.classes == ["cat", "dog"]
    assert archive.name(0).endswith("cat/01.jpg") and archive.name(0).startswith(str(archive.path))
    copy = pickle.loads(pickle.dumps(archive))
    assert copy.read(5) == folder.read(5)


def test_temporary_copy_of_a_compressed_tar_is_removed(photos, monkeypatch, tmp_path):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    source = open_source(pack(photos, "tar.xz"))
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    child = os.fork()
    if child == 0:
        del source  # a worker that drops its copy must not remove the file
        os._exit(0)
    os.waitpid(child, 0)
    assert source.read(0)
    del source
    assert list((tmp_path / "scratch").iterdir()) == []


def test_folders_are_searched_at_any_depth_and_in_order(tmp_path):
    for name in (
        "b/2.PNG",
        "a.jpg",
        "b/c/d/e/f.webp",
        "b/1.tiff",
        ".git/x.jpg",
        "b/.y.jpg",
        "b/notes.txt",
        "c.GIF",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    source = open_source(tmp_path)
    assert [source.read(index).decode() for index in range(len(source))] == [
        "a.jpg", "b/1.tiff", "b/2.PNG", "b/c/d/e/f.webp", "c.GIF",
    ]  # fmt: skip
    assert source.labels is None and source.classes is None


def test_links_in_a_circle_and_linked_folders(tmp_path):
    (tmp_path / "data" / "real").mkdir(parents=True)
    (tmp_path / "data" / "real" / "1.jpg").write_bytes(b"1")
    (tmp_path / "data" / "real" / "up").symlink_to("..")
    (tmp_path / "data" / "a-link").symlink_to("real")
    (tmp_path / "data" / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "data" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.jpg").write_bytes(b"2")
    (tmp_path / "data" / "far").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "data" / "pipe.jpg")
    source = open_source(tmp_path / "data")
    assert list(source.names) == ["far/2.jpg", "gone.jpg", "real/1.jpg", "self.jpg"]
    with pytest.raises(OSError):
        source.read(1)  # counted as a bad file by the loader, rather than passed over in silence


def test_names_that_are_not_utf8(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"coffee")
    source = open_source(tmp_path)
    assert source.read(0) == b"coffee"
    assert source.name(0).encode("utf-8").endswith(b"caf\\udce9.jpg")


def test_labels_come_from_the_parent_folder():
    assert parent_labels(["x/cat/1.jpg", "x/dog/2.jpg", "y/cat/3.jpg"]) == ([0, 1, 0], ["cat", "dog"])
    assert parent_labels(["cat/1.jpg", "dog/2.jpg", "3.jpg"]) is None
    assert parent_labels(["cat/1.jpg", "cat/2.jpg"]) is None
    assert parent_labels(["train/1.jpg", "val/2.jpg"]) is None


def test_subset_keeps_bytes_names_and_labels(photos):
    source = open_source(photos)
    part = Subset(source, [20, 3])
    assert len(part) == 2
    assert part.read(0) == source.read(20) and part.name(1) == source.name(3)
    assert part.labels == [source.labels[20], source.labels[3]] and part.classes == source.classes
    nested = Subset(part, [1])
    assert nested.read(0) == source.read(3) and nested.labels == [source.labels[3]]


def test_split_is_stratified_disjoint_and_repeatable(photos):
    source = open_source(photos)  # 16 cats, 8 dogs
    train, held_out = split(source)
    assert sorted([*train.indices, *held_out.indices]) == list(range(24))
    assert (held_out.labels.count(0), held_out.labels.count(1)) == (3, 2)
    assert list(split(source)[1].indices) == list(held_out.indices)
    assert any(list(split(source, seed=seed)[1].indices) != list(held_out.indices) for seed in (1, 2, 3))
    unlabelled = Subset(source, range(10))
    unlabelled.labels = None
    assert len(split(unlabelled)[1]) == 2


def test_split_never_empties_a_class(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    train, held_out = split(open_source(tmp_path))
    assert train.labels == [0, 1] and held_out.labels == [1]
    with pytest.raises(UserError, match="cannot be split"):
        split(Subset(train, [0]))
    with pytest.raises(ValueError, match="fraction"):
        split(train, fraction=1.0)


@pytest.mark.parametrize("name", ["validation", "val", "test"])
@pytest.mark.parametrize("packed", [None, "tar", "zip"])
def test_given_splits_are_used(photos, name, packed):
    root = photos.parent / "set"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos, root / name)
    for path in list((root / name).rglob("0*.jpg")):
        path.unlink()
    (root / "overview.jpg").write_bytes(b"lies outside the parts")
    if packed:
        (root / "overview.jpg").unlink()
        root = pack(root, packed, prefix="wrapped/")
    train, held_out = open_splits(root)
    assert len(train) == 24 and len(held_out) == 14
    assert train.classes == held_out.classes == ["cat", "dog"]
    assert all("/train/" in train.name(index) for index in range(24))
    assert all(f"/{name}/" in held_out.name(index) for index in range(14))
    assert [held_out.classes[label] in held_out.name(i) for i, label in enumerate(held_out.labels)] == [
        True
    ] * 14


def test_one_labelled_folder_is_split(photos):
    train, held_out = open_splits(photos)
    assert len(train) == 19 and len(held_out) == 5


def test_splits_need_matching_classes(photos):
    root = photos.parent / "set"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos / "cat", root / "val" / "lynx")
    with pytest.raises(UserError, match=r"not in train \(lynx\)"):
        open_splits(root)
    shutil.rmtree(root / "train")
    shutil.copytree(photos / "cat", root / "train")
    shutil.rmtree(root / "val")
    shutil.copytree(photos / "cat", root / "val")
    with pytest.raises(UserError, match="no class folders"):
        open_splits(root)


def test_missing_labels_are_explained(photos):
    cats = open_source(photos / "cat")
    assert cats.labels is None
    for wrong in (lambda: labels_of(cats), lambda: open_splits(photos / "cat")):
        with pytest.raises(UserError, match=r"01\.jpg.*named after its class"):
            wrong()
    assert labels_of(open_source(photos))[1] == ["cat", "dog"]


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"no file or folder .*/missing"):
        open_source(tmp_path / "missing")


def test_folder_without_images(tmp_path):
    with pytest.raises(UserError, match="nothing at all"):
        open_source(tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("")
    with pytest.raises(UserError, match=r"only 3 other files.*jpg jpeg png webp tif tiff bmp gif"):
        open_source(tmp_path)


def test_archive_without_images(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("")
    for kind in ("tar", "zip"):
        with pytest.raises(UserError, match="holds no image: found only 1 other file;"):
            open_source(pack(tmp_path / "in", kind))


def test_files_that_are_no_archive(photos, tmp_path):
    (tmp_path / "notes.md").write_text("not an archive, " * 100)
    with pytest.raises(UserError, match="no archive that can be read"):
        open_source(tmp_path / "notes.md")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.tar is no folder and no archive"):
        open_source(tmp_path / "empty.tar")
    with pytest.raises(UserError, match="is one picture"):
        open_source(photos / "cat" / "01.jpg")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_damaged_archives(photos, kind):
    path = pack(photos, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match="damaged or incomplete"):
        open_source(path)


def test_damage_inside_a_zip_is_an_unreadable_file(photos):
    for kind in ("zip", "stored.zip"):
        path = pack(photos, kind)
        source = open_source(path)
        content = bytearray(path.read_bytes())
        offset = int(source._index[7][0]) + 60
        content[offset : offset + 200] = bytes(200)
        path.write_bytes(bytes(content))
        with pytest.raises(OSError, match="damaged inside the zip"):
            source.read(7)
        assert source.read(9)


def let_others_in(folder):
    """Into a folder of pytest's, which only its user may enter, also below one of several processes."""
    for path in (folder, *folder.parents):
        if "pytest-of-" in str(path):
            path.chmod(0o755)


@contextlib.contextmanager
def not_root():
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_no_permission(photos, caplog):
    let_others_in(photos)  # so that root can give up its rights for the moment
    try:
        (photos / "dog").chmod(0)
        with not_root():
            assert len(open_source(photos)) == 16
            assert "No permission to list the folder" in caplog.text
            with pytest.raises(UserError, match="No permission to list"):
                open_source(photos / "dog")
        archive = pack(photos / "cat", "tar")
        archive.chmod(0)
        with not_root(), pytest.raises(UserError, match="No permission to read"):
            open_source(archive)
    finally:
        (photos / "dog").chmod(0o755)


def test_sources_are_called_by_their_path(photos):
    folder = open_source(photos)
    assert str(folder) == str(Subset(folder, [0])) == str(photos)
