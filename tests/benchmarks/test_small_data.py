"""The rows of the small-data table."""

import pytest

from benchmarks.small_data import ROWS
from unmask.recipes.build import build_method
from unmask.recipes.resolve import resolve_recipe


@pytest.mark.parametrize("name", ROWS)
def test_every_row_can_be_built_and_probed(name: str) -> None:
    row = ROWS[name]
    method = build_method(resolve_recipe(row.method, images=3068, **row.options))
    assert row.layer is None or -method.encoder.depth <= row.layer < method.encoder.depth
