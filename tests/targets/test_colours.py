"""Colours as classes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from unmask.targets import Bins, Clusters, read_colours

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(levels: Tensor) -> Tensor:
    """As the engine makes them of bytes."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (levels / 255 - mean) / std


@pytest.mark.parametrize("classes", [2, 8, 256])
def test_every_byte_falls_into_its_bin(classes: int) -> None:
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    bins = Bins(classes, mean=MEAN, std=STD).encode(normalised(levels))
    assert torch.equal(bins, (levels * classes / 256).floor().long())


def test_a_number_of_bins_that_does_not_divide_256() -> None:
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    counts = Bins(10, mean=MEAN, std=STD).encode(normalised(levels))[0, 0].flatten().bincount()
    assert len(counts) == 10 and set(counts.tolist()) <= {25, 26}


def test_colours_out_of_range_take_the_outer_bins() -> None:
    bins = Bins(8, mean=MEAN, std=STD)
    colours = torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert bins.encode(colours).flatten().tolist() == [0] * 3 + [7] * 3


def test_bins_are_scored_channel_by_channel() -> None:
    bins = Bins(8, mean=MEAN, std=STD)
    prediction = torch.randn(2, 24, 4, 5)
    target = torch.randint(8, (2, 3, 4, 5))
    error = bins.error(prediction, target)
    logits = prediction[1, :, 2, 3].view(8, 3)[:, 2]  # class by class, within it channel by channel
    torch.testing.assert_close(error[1, 2, 2, 3], F.cross_entropy(logits, target[1, 2, 2, 3]))
    assert bins.outputs == 24 and bins.chance_loss == math.log(8)
    even = bins.error(torch.zeros_like(prediction), target)
    torch.testing.assert_close(even, torch.full_like(even, math.log(8)))


@pytest.mark.parametrize("classes", [8, 256])
def test_a_certain_prediction_of_a_bin_is_its_centre(classes: int) -> None:
    bins = Bins(classes, mean=MEAN, std=STD)
    levels = torch.randint(256, (2, 3, 4, 4)).float()
    certain = 100.0 * F.one_hot(bins.encode(normalised(levels)), classes)
    decoded = bins.decode(certain.permute(0, 4, 1, 2, 3).flatten(1, 2))
    width = 256 / classes
    centres = (levels / width).floor() * width + width / 2 - 0.5
    torch.testing.assert_close(decoded, normalised(centres))


def test_an_undecided_prediction_is_the_mean_of_the_centres() -> None:
    decoded = Bins(8, mean=MEAN, std=STD).decode(torch.zeros(1, 24, 1, 1))
    torch.testing.assert_close(decoded, normalised(torch.full((1, 3, 1, 1), 127.5)))


def test_the_nearest_colour_of_the_table() -> None:
    table = torch.rand(50, 3)
    clusters = Clusters(table, mean=MEAN, std=STD)
    levels = torch.randint(256, (2, 3, 6, 6)).float()
    distance = (levels.permute(0, 2, 3, 1)[..., None, :] / 255 - table).square().sum(-1)
    assert torch.equal(clusters.encode(normalised(levels))[:, 0], distance.argmin(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clusters.encode(normalised(levels))[:, 0], distance.argmin(-1))


def test_clusters_are_scored_and_shown() -> None:
    clusters = Clusters(torch.rand(50, 3), mean=MEAN, std=STD)
    prediction, target = torch.randn(2, 50, 4, 4), torch.randint(50, (2, 1, 4, 4))
    error = clusters.error(prediction, target)
    torch.testing.assert_close(error[:, 0], F.cross_entropy(prediction, target[:, 0], reduction="none"))
    assert clusters.outputs == 50 and clusters.chance_loss == math.log(50)
    shown = clusters.decode(100.0 * F.one_hot(target[:, 0], 50).movedim(-1, 1))
    torch.testing.assert_close(shown, normalised(255 * clusters.centres[target[:, 0]].movedim(-1, 1)))
    torch.testing.assert_close(clusters.encode(shown), target)


def test_tables_in_three_units(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).permutation(256)[:60].reshape(20, 3).astype(np.uint8)
    expected = torch.from_numpy(levels / 255).float()
    tables = {"bytes": levels, "unit": levels / 255, "gpt": (levels / 127.5 - 1).astype(np.float32)}
    for name, table in tables.items():
        np.save(tmp_path / f"{name}.npy", table)
        torch.testing.assert_close(read_colours(tmp_path / f"{name}.npy", 3), expected)
    save_file({"clusters": expected}, tmp_path / "table.safetensors")
    assert torch.equal(read_colours(tmp_path / "table.safetensors", 3), expected)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((4, 4)), r"shape \[4, 4\]; a table of colours is \[colours, 3\]"),
        (np.zeros(3), r"shape \[3\]"),
        (np.zeros((1, 3)), r"shape \[1, 3\]"),
        (np.full((4, 3), np.nan), "no finite numbers"),
        (np.arange(12).reshape(4, 3), "no bytes"),
        (np.linspace(0, 255, 12).reshape(4, 3), "outside of"),
        (np.linspace(-3, 1, 12).reshape(4, 3), "outside of"),
        (np.full((4, 3), 0.5), "twice"),
        (np.array([["a", "b", "c"]] * 2), "no finite numbers"),
    ],
)
def test_tables_that_are_none(table: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", table)
    with pytest.raises(ValueError, match=message):
        read_colours(tmp_path / "table.npy", 3)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`unmask colours` makes one"):
        read_colours(tmp_path / "missing.npy", 3)
    for name in ("text.npy", "empty.npy", "text.safetensors"):
        (tmp_path / name).write_text("" if name == "empty.npy" else "red green blue")
        with pytest.raises(ValueError, match="neither a"):
            read_colours(tmp_path / name, 3)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="neither a"):  # code in a pickle is never run
        read_colours(tmp_path / "objects.npy", 3)
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="holds 2 tensors"):
        read_colours(tmp_path / "two.safetensors", 3)
