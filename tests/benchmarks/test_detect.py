"""The rows of the detection table."""

import pytest

from benchmarks.detect import CROPS, ROWS, gain, of_class, spread
from unmask.evaluate.detect.recipes import find_recipe
from unmask.recipes.resolve import resolve_recipe
from unmask.recipes.tasks import with_settings


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_recipe(name: str) -> None:
    recipe = with_settings(find_recipe("small"), overrides=ROWS[name].overrides)
    assert recipe.heads.kind == ("cascade" if name == "cascade" else "single")


def test_the_pretraining_is_a_recipe() -> None:
    recipe = resolve_recipe("mae", images=205, overrides=CROPS)
    assert recipe.data.crop_scale == (0.07, 0.25)


def test_what_the_table_says() -> None:
    base = {seed: {"AP": 0.1 * seed} for seed in (1, 2, 3)}
    own = {seed: {"AP": 0.1 * seed + 0.02} for seed in (1, 2)}
    assert gain(own, base) == "+2.0 ± 0.0"
    assert gain(base, base) == ""
    assert gain({7: {"AP": 0.5}}, base) == ""
    assert spread([1.0, 3.0]) == "2.0 (1.4)"
    assert of_class({"classes": [{"class": "a", "AP": None}, {"class": "b", "AP": 0.5}]}, "b") == 0.5
    assert of_class({"classes": [{"class": "a", "AP": None}]}, "a") == 0.0
