"""A Python dataset is a source like any other, whatever form its items have."""

import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from tests.data.conftest import encoded, smooth
from unmask.data import Augment, EvaluationLoader, PretrainLoader, View, labels_of, open_source, open_splits
from unmask.errors import UserError

PIXELS = [smooth(30, 40, seed) for seed in range(12)]


class Mapped(Dataset):
    """Reads nothing before it is asked."""

    def __init__(self, items: list) -> None:
        self.items, self.asked = items, []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        self.asked.append(index)
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


def images(data: object, **options) -> torch.Tensor:
    return torch.cat(
        [batch for batch, _, _ in EvaluationLoader(open_source(data), (20, 24), batch_size=5, **options)]
    )


FORMS = {
    "images": [Image.fromarray(one) for one in PIXELS],
    "arrays": PIXELS,
    "one array": np.stack(PIXELS),
    "tensors": [torch.from_numpy(one).permute(2, 0, 1) for one in PIXELS],
    "one tensor": torch.from_numpy(np.stack(PIXELS)).permute(0, 3, 1, 2),
    "pairs": [(Image.fromarray(one), 0) for one in PIXELS],
    "rows": [{"label": "x", "image": one} for one in PIXELS],
    "undecoded rows": [
        {"image": {"bytes": encoded(Image.fromarray(one), "PNG"), "path": None}} for one in PIXELS
    ],
    "bytes": [encoded(Image.fromarray(one), "PNG") for one in PIXELS],
    "tensor dataset": TensorDataset(torch.from_numpy(np.stack(PIXELS)).permute(0, 3, 1, 2)),
    "map-style": Mapped([(Image.fromarray(one), 1) for one in PIXELS]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_pixels_of_a_folder(tmp_path, form) -> None:
    for index, one in enumerate(PIXELS):
        Image.fromarray(one).save(tmp_path / f"{index:02}.png")
    assert torch.equal(images(FORMS[form]), images(tmp_path))
    settings = {"batch_size": 4, "seed": 3, "workers": 0}
    first, second = (
        next(PretrainLoader(open_source(data), {"images": View()}, Augment((16, 16)), **settings).batches())
        for data in (FORMS[form], tmp_path)
    )
    assert torch.equal(first["images"], second["images"])


def test_paths_and_somebody_elses_images_stay_as_they_are(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(PIXELS[0]).save(path, exif=exif)
    opened = Image.open(path)
    assert torch.equal(images([str(path), path])[0], images([str(path), path])[1])
    assert (images([opened]).int() - images([path]).int()).abs().float().mean() < 3
    assert opened.size == (40, 30)


def test_workers_read_it_too() -> None:
    assert torch.equal(images(FORMS["map-style"], workers=1), images(FORMS["map-style"]))


def test_labels_that_lie_ready_are_taken_and_others_read_on_request() -> None:
    named = open_source([(one, name) for one, name in zip(PIXELS, "ba" * 6, strict=True)])
    assert named.classes == ["a", "b"] and named.labels == [1, 0] * 6
    lazy = Mapped([(one, torch.tensor(index % 3 + 8)) for index, one in enumerate(PIXELS)])
    assert open_source(lazy).labels is None and lazy.asked == [0]
    train, held_out = open_splits(lazy)
    assert train.classes == ["8", "9", "10"] and len(train) + len(held_out) == 12
    assert open_source([{"image": one} for one in PIXELS]).labels is None
    with pytest.raises(UserError, match="carry no labels"):
        labels_of(open_source(PIXELS))


def test_torchvision_folders_and_subsets_of_them(photos) -> None:
    from torchvision.datasets import ImageFolder

    whole = ImageFolder(str(photos))
    source = open_source(Subset(whole, [20, 2]))
    assert source.labels == [1, 0] and source.classes == ["cat", "dog"]
    own = open_source(photos)
    assert open_source(whole).labels == own.labels


def test_a_dictionary_of_parts() -> None:
    data = {
        "train": [(one, name) for one, name in zip(PIXELS, "abc" * 4, strict=True)],
        "test": [(PIXELS[0], "c"), (PIXELS[1], "b")],
    }
    train, held_out = open_splits(data)
    assert train.classes == held_out.classes == ["a", "b", "c"]
    assert held_out.labels == [2, 1]
    with pytest.raises(UserError, match=r"not in train \(z\)"):
        open_splits(data | {"test": [(PIXELS[0], "z"), (PIXELS[1], "a")]})
    with pytest.raises(UserError, match=r"needs 'train' and one of"):
        open_splits({"train": data["train"]})
    with pytest.raises(UserError, match=r"give one of its parts.*data\['train'\]"):
        open_source(data)


class Endless(IterableDataset):
    def __iter__(self):
        yield PIXELS[0]


class Nameless(Dataset):
    def __getitem__(self, index: int) -> np.ndarray:
        return PIXELS[index]


@pytest.mark.parametrize(
    "data, says",
    [
        (Endless(), "IterableDataset"),
        (Nameless(), "without a length"),
        ([], "without any item"),
        (7, "is a int; it must be a list"),
        (b"bytes", "is a bytes"),
        (["/nowhere.jpg"], "first item.*No such file"),
        ([3.5], "a float, not an image"),
        ([{"picture_of": PIXELS[0]}], "columns picture_of and none of image"),
        (Mapped([KeyError("broken")]), "cannot be had .KeyError"),
    ],
)
def test_what_is_no_dataset_is_explained(data, says) -> None:
    with pytest.raises(UserError, match=says):
        open_source(data)


def test_items_that_fail_are_bad_ones_with_the_reason() -> None:
    data = Mapped([*PIXELS[:3], RuntimeError("disk on fire"), "/nowhere.jpg", *PIXELS[:7]])
    loader = EvaluationLoader(open_source(data), (8, 8), batch_size=12)
    assert sum(len(batch) for batch, _, _ in loader) == 10
    assert loader.bad == {
        "image 3 of the Mapped": "RuntimeError: disk on fire",
        "image 4 of the Mapped": "No such file or directory",
    }


@pytest.mark.parametrize("decoded", [True, False])
def test_hugging_face_datasets(decoded) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({
        "image": datasets.Image(decode=decoded), "label": datasets.ClassLabel(names=["cat", "dog"]),
    })  # fmt: skip
    rows = {
        "image": [{"bytes": encoded(Image.fromarray(one), "PNG"), "path": None} for one in PIXELS],
        "label": [index % 2 for index in range(12)],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    source = open_source(data)
    assert source.labels == rows["label"] and source.classes == ["cat", "dog"]
    assert torch.equal(images(data), images(PIXELS))
    parts = datasets.DatasetDict({"train": data, "validation": data.select(range(4))})
    assert [len(part) for part in open_splits(parts)] == [12, 4]


def test_a_module_of_ones_own_may_be_called_datasets(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    assert len(open_source([PIXELS[0]])) == 1
    with pytest.raises(UserError, match="is a int"):
        open_source(7)


def test_deep_arrays_keep_their_depth() -> None:
    deep = [np.full((8, 8, 5), 1000 + index, np.uint16) for index in range(4)]
    found = images(deep, channels=5, bits=16)
    assert found.dtype == torch.uint16 and found[:, 0, 0, 0].tolist() == [1000, 1001, 1002, 1003]
    buffer = io.BytesIO()
    np.save(buffer, deep[0])
    assert torch.equal(images([buffer.getvalue()], channels=5, bits=16)[0], found[0])
