"""A file of features must hold those of the encoder, of the right images, or not be there."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluate.pictures import write_pictures
from tests.tiny import tiny_encoder
from unmask import cli
from unmask.data import evaluation_view, normalise, open_image
from unmask.embed import embed
from unmask.errors import UserError

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_pictures(tmp_path_factory.mktemp("data"), each=5)
    (root / "blue" / "002.png").write_bytes(b"no picture")
    return root


NAMES = [f"{colour}/{number:03}.png" for colour in ("blue", "green", "red") for number in range(5)]
NAMES.remove("blue/002.png")


def quick(encoder: Any, data: Path, out: Path, **options: Any) -> Any:
    options |= {"device": "cpu", "batch_size": 4, "workers": 0, "progress": False}
    return embed(encoder, data=data, out=out, **options)


def images_of(data: Path) -> torch.Tensor:
    views = [evaluation_view(open_image((data / name).read_bytes()), (64, 64)) for name in NAMES]
    return normalise(torch.stack(views))


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
@pytest.mark.parametrize(("name", "pool", "layer"), [("vit", "cls+mean", None), ("swin", "mean", 1)])
def test_features_and_patches(
    suffix: str, name: str, pool: str, layer: int | None, data: Path, tmp_path: Path
) -> None:
    encoder, out = tiny_encoder(name), tmp_path / f"features{suffix}"
    written = quick(encoder, data, out, pool=pool, layer=layer, patches=True)
    with torch.no_grad():
        found = encoder.eval()(images_of(data), take=() if layer is None else (layer,))
    patches = found.patches if layer is None else found.taps[0]
    features = torch.cat([found.cls, patches.mean(1)], 1) if pool == "cls+mean" else patches.mean(1)
    assert (written.path, written.images, written.width) == (out, 14, features.shape[1])
    assert list(written.skipped) == ["blue/002.png"]
    if suffix == ".parquet":
        table = parquet.read_table(out)
        assert table.column_names == ["name", "label", "features", "patches"]
        assert table["name"].to_pylist() == NAMES
        assert table["label"].to_pylist() == [name.split("/")[0] for name in NAMES]
        held = {column: np.array(table[column].to_pylist()) for column in ("features", "patches")}
        about = table.schema.metadata[b"unmask"]
    else:
        arrays = np.load(out)
        assert arrays["name"].tolist() == NAMES
        classes = arrays["classes"].tolist()
        assert [classes[label] for label in arrays["label"]] == [name.split("/")[0] for name in NAMES]
        assert arrays["features"].dtype == np.float32
        held, about = arrays, str(arrays["unmask"])
    assert np.allclose(held["features"], features, atol=1e-5)
    assert np.allclose(held["patches"], patches, atol=1e-5)
    said = json.loads(about)
    assert (said["pool"], said["layer"], said["data"]) == (pool, layer, str(data))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_without_labels(suffix: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / f"features{suffix}"
    assert quick(tiny_encoder("vit"), data / "red", out).images == 5
    names = parquet.read_table(out).column_names if suffix == ".parquet" else list(np.load(out))
    assert "features" in names and not {"label", "classes", "patches"} & set(names)


def test_rows_are_written_as_they_are_read(data: Path, tmp_path: Path) -> None:
    quick(tiny_encoder("vit"), data, tmp_path / "a.parquet")
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 4  # batches of 4, 4, 4 and 2


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a.csv", {}, r"must end in one of \.parquet, \.npz"),
        ("no/a.npz", {}, "a folder that is there"),
        ("a.npz", {"pool": "median"}, "cannot pool by 'median'"),
        ("a.npz", {"layer": 9}, "there is no block 9"),
    ],
)
def test_wrong_choices(out: str, options: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        quick(tiny_encoder("vit"), data, tmp_path / out, **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_nothing_to_read_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    broken, out = tmp_path / "broken", tmp_path / f"features{suffix}"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    out.write_text("old")
    with pytest.raises(UserError, match=r"None of the 1 images could be read.*a\.png"):
        quick(tiny_encoder("vit"), broken, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", out.name]


def test_without_pyarrow(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["unmask.embed"], "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'unmask\[parquet\]'"):
        quick(tiny_encoder("vit"), data, tmp_path / "a.parquet")


def test_command(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    out = tmp_path / "a.npz"
    options = ["--data", str(data), "--out", str(out), "--image-size", "32", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["unmask", "embed", "random:vit_tiny_patch16_224", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert ended.value.code == 0
    assert said.out.strip() == f"{out}: 14 images, 192 features each"
    assert "1 could not be read" in said.err and "blue/002.png" in said.err
