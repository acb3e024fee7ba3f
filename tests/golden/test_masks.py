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
from unmask.masking import BlockMask, RandomMask, hidden_count

FOLDER = Path(os.environ.get("UNMASK_GOLDEN", Path(__file__).parent))
CASE = "masks"
INFO = json.loads((FOLDER / f"{CASE}.json").read_text()) if (FOLDER / f"{CASE}.json").is_file() else {}
DRAWS = 4000


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
