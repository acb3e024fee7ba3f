"""Every number of every model fixture that an implemented method answers for, against the official code.

The folder is `UNMASK_GOLDEN` (default: this one). Select a case with `-k mae_vit`.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden.golden import load_case, mismatch
from tests.golden.measures import measure_for

FOLDER = Path(os.environ.get("UNMASK_GOLDEN", Path(__file__).parent))
CASES = sorted(path.stem for path in FOLDER.glob("*.json") if measure_for(path.stem))


def quantities() -> list[Any]:
    listed = []
    for case in CASES:
        info = json.loads((FOLDER / f"{case}.json").read_text())
        keys = [*info["expected"], *(f"{prefix}/*" for prefix in info["grad_l2"])]
        listed += [pytest.param(case, key, id=f"{case}-{key}") for key in keys]
    return listed


@cache
def measured(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    case = load_case(FOLDER / name)
    return case, measure_for(name)(case)


def test_there_are_cases() -> None:
    assert CASES, f"no fixture in {FOLDER} belongs to an implemented method"


@pytest.mark.parametrize(("name", "key"), quantities())
def test_matches_the_official_code(name: str, key: str) -> None:
    case, result = measured(name)
    tolerance = case["info"]["tolerance"]
    prefix, _, tensor = key.partition("/")
    if tensor == "*":
        check_norms(case["info"], result, prefix)
        return
    expected = case["expected"][key]
    actual = result[key].detach().numpy().reshape(expected["shape"])
    limit = tolerance["per_key"].get(key, tolerance["out" if prefix == "out" else "grad"])
    if np.asarray(expected["values"]).dtype.kind in "biu":
        limit = 0.0
    assert mismatch(expected, actual) <= limit


def check_norms(info: dict[str, Any], result: dict[str, Any], prefix: str) -> None:
    """The norm of the gradient of every parameter, none left out."""
    limit, ignored = info["tolerance"]["grad_l2"], set(info["grad_l2_ignore"].get(prefix, ()))
    for name, norm in info["grad_l2"][prefix].items():
        key = f"{prefix}/{name}"
        if norm is None:
            assert key not in result or not torch.any(result[key]), f"{name} should have no gradient"
        elif name not in ignored:
            found = float(result[key].double().norm())
            # A norm of exactly zero (a clamped logit scale) must be zero here too.
            assert abs(found - norm) <= limit * norm, f"{name}: {found} instead of {norm}"
