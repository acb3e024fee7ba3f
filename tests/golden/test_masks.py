"""Mask samplers against the official generators: exact where the random numbers are given, else by
statistics.
"""

import json
import math
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden.golden import load_case, mismatch
from unmask.masking import BlockMask, Mask, RandomMask, SquareMask, average_distance, hidden_count

FOLDER = Path(os.environ.get("UNMASK_GOLDEN", Path(__file__).parent))
CASE = "masks"
INFO = json.loads((FOLDER / f"{CASE}.json").read_text()) if (FOLDER / f"{CASE}.json").is_file() else {}
DRAWS = 4000
DISTANCES = 24  # masks a setting whose average distance is taken


@cache
def case() -> dict[str, Any]:
    return load_case(FOLDER / CASE)


def entries(kind: str) -> Any:
    return pytest.mark.parametrize(
        "entry", [pytest.param(e, id=f"{CASE}-{kind}-{e['tag']}") for e in INFO.get(kind, ())]
    )


@entries("simmim")
def test_simmim(entry: dict[str, Any]) -> None:
    side = entry["input_size"] // entry["model_patch_size"]
    unit = entry["mask_patch_size"] // entry["model_patch_size"]
    sampler = RandomMask(ratio=entry["mask_ratio"], unit=unit, rounding="up")
    order = torch.from_numpy(case()["inputs"][f"simmim/{entry['tag']}/permutations"].astype(np.int64))
    # The official code hides the first units of a permutation: the earlier, the larger the score.
    mask = sampler.from_noise(-order.argsort(1).float(), (side, side))
    expected = case()["expected"][f"out/simmim/{entry['tag']}/samples"]
    assert mask.count == entry["hidden_tokens"]
    assert hidden_count(entry["units_per_side"] ** 2, entry["mask_ratio"], "up") == entry["hidden_units"]
    assert mismatch(expected, mask.hidden.view(-1, side, side).numpy()) == 0


@entries("mae")
def test_mae(entry: dict[str, Any]) -> None:
    tag, total = entry["tag"], entry["L"]
    noise = torch.from_numpy(case()["inputs"][f"mae/{tag}/noise"])
    sampler = RandomMask(ratio=entry["mask_ratio"], rounding="mae_official")
    mask = sampler.from_noise(noise, (1, total))
    keep = mask.visible_index.gather(1, noise.gather(1, mask.visible_index).argsort(1))
    expected = case()["expected"]
    assert mask.count == total - entry["kept"]
    assert mismatch(expected[f"out/mae/{tag}/mask"], mask.hidden.numpy()) == 0
    assert mismatch(expected[f"out/mae/{tag}/ids_keep"], keep.numpy()) == 0


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, id=f"{CASE}-kept-{r['L']}-{r['mask_ratio']}") for r in INFO.get("mae_kept_table", ())],
)
def test_mae_kept(row: dict[str, Any]) -> None:
    assert row["L"] - hidden_count(row["L"], row["mask_ratio"], "mae_official") == row["kept"]
    # Ours is the nearest whole number, free of floating-point surprises.
    assert abs(row["L"] - hidden_count(row["L"], row["mask_ratio"]) - row["exact_real_value"]) <= 0.5 + 1e-9


def block_mask(entry: dict[str, Any], *, official: bool) -> BlockMask:
    low, high = entry["aspect"]
    assert math.isclose(low * high, 1)
    return BlockMask(
        count=entry["num_masking_patches"],
        min_block=entry["min_num_patches"],
        max_block=entry["max_num_patches"],
        aspect=low,
        official=official,
    )


@entries("beit")
def test_beit_exact(entry: dict[str, Any]) -> None:
    """The same random numbers give the same masks, draw after draw."""
    side, generator = entry["grid"], random.Random(entry["python_and_numpy_seed"])
    sampler = block_mask(entry, official=True)
    samples, counts = (case()["expected"][f"out/beit/{entry['tag']}/{key}"] for key in ("samples", "counts"))
    number = counts["shape"][0]
    drawn = torch.stack([sampler.draw_official(generator, (side, side)) for _ in range(number)])
    assert mismatch(samples, drawn[: samples["shape"][0]].numpy()) == 0
    assert mismatch(counts, drawn.flatten(1).sum(1).numpy()) == 0


@entries("beit")
def test_beit_statistics(entry: dict[str, Any]) -> None:
    """Masks from our own random numbers: counts and how often each cell is hidden."""
    torch.manual_seed(0)
    side = entry["grid"]
    mask = block_mask(entry, official=True)(DRAWS, (side, side))
    counts = mask.hidden.sum(1).double()
    noise = 1 / entry["draws"] + 1 / DRAWS
    exact = entry["fraction_exact"]
    assert mask.count is None
    assert abs(counts.mean() - entry["count_mean"]) <= 4 * entry["count_std"] * math.sqrt(noise)
    assert abs((counts == entry["num_masking_patches"]).double().mean() - exact) <= 4 * math.sqrt(
        exact * (1 - exact) * noise
    )
    check_cells(mask.hidden.view(-1, side, side), f"out/beit/{entry['tag']}/marginal", noise)


@entries("beit2")
def test_beit2_statistics(entry: dict[str, Any]) -> None:
    """Exact counts: BEiT v2's top-up, drawn for the whole batch at once."""
    torch.manual_seed(0)
    side = entry["grid"]
    mask = block_mask(entry, official=False)(DRAWS, (side, side))
    assert (mask.hidden.sum(1) == entry["num_masking_patches"]).all()
    noise = 1 / entry["draws"] + 1 / DRAWS
    check_cells(mask.hidden.view(-1, side, side), f"out/beit2/{entry['tag']}/marginal", noise)


def check_cells(hidden: torch.Tensor, key: str, noise: float) -> None:
    expected = case()["expected"][key]["values"].reshape(hidden.shape[1:])
    share = hidden.double().mean(0).numpy()
    assert (np.abs(share - expected) <= 4.5 * np.sqrt(expected * (1 - expected) * noise)).all()


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, id=f"{CASE}-{key}")
        for key in INFO.get("expected", ())
        if key.startswith("out/avgdist/")
    ],
)
def test_average_distance(key: str) -> None:
    """Exact, of explicit masks on units whose size the name says."""
    unit = key.removeprefix("out/avgdist/").removesuffix("/values")
    hidden = torch.from_numpy(case()["inputs"][f"avgdist/{unit}/masks"])
    mask = Mask.ragged(hidden.flatten(1), (hidden.shape[1], hidden.shape[2]))
    distance = average_distance(mask, int(unit.removeprefix("unit")))
    assert mismatch(case()["expected"][key], distance.numpy()) <= 1e-6


def row_name(row: dict[str, Any]) -> str:
    return f"{CASE}-distance-{row['strategy']}-{row['unit']}-{row['nominal_ratio'] or row['side_px']}"


@pytest.mark.parametrize("row", [pytest.param(r, id=row_name(r)) for r in INFO.get("avgdist_rows", ())])
def test_average_distance_of_a_strategy(row: dict[str, Any]) -> None:
    """The mean over masks of our own samplers, within the sampling error of both means."""
    torch.manual_seed(0)
    side = INFO["avgdist"]["image_size"] // row["unit"]
    if row["n"] == 0:  # nothing would be visible
        with pytest.raises(ValueError, match="one left visible"):
            hidden_count(side**2, row["nominal_ratio"], "up")
        return
    distances = average_distance(strategy(row)(DISTANCES, (side, side)), row["unit"])
    noise = math.sqrt(1 / row["n"] + 1 / DISTANCES)
    assert abs(distances.mean() - row["mean"]) <= 4 * row["std"] * noise


def strategy(row: dict[str, Any]) -> RandomMask | SquareMask | BlockMask:
    if row["strategy"] == "random":
        return RandomMask(ratio=row["nominal_ratio"], rounding="up")
    if row["strategy"] == "square":
        return SquareMask(side=row["side_px"] // row["unit"])
    assert row["strategy"] == "block"
    return BlockMask(count=row["num_masking_patches"], min_block=row["min_num_patches"], official=True)


@pytest.mark.parametrize(
    ("side", "distance"),
    [
        pytest.param(int(side), distance, id=f"{CASE}-square-{side}")
        for side, distance in INFO.get("avgdist", {})
        .get("closed_form_isolated_interior_block_even_p", {})
        .items()
    ],
)
def test_average_distance_of_a_lone_square(side: int, distance: float) -> None:
    hidden = torch.zeros(1, 9, dtype=torch.bool)
    hidden[:, 4] = True
    assert average_distance(Mask.of(hidden, (3, 3), 1), side).item() == pytest.approx(distance, rel=1e-12)
