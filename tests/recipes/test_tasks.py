"""Recipes of what is learned from labels: settings as a person types them."""

from pathlib import Path

import pytest

from tests.engine.labels import TinyRecipe
from unmask.errors import UserError
from unmask.recipes.base import Schedule
from unmask.recipes.tasks import read_task_recipe, with_settings


def test_settings_are_read_as_typed() -> None:
    recipe = with_settings(
        TinyRecipe(),
        batch_size=4,
        lr=0.5,
        seed=7,
        overrides={"optim.layer_decay": "0.8", "optim.clip": "none", "schedule.kind": "poly"},
    )
    assert (recipe.optim.batch_size, recipe.optim.peak_lr, recipe.seed) == (4, 0.5, 7)
    assert (recipe.optim.layer_decay, recipe.optim.clip, recipe.schedule.kind) == (0.8, None, "poly")


def test_another_length_keeps_the_share_of_warm_up_and_milestones() -> None:
    recipe = TinyRecipe(schedule=Schedule(epochs=36, warmup_epochs=2, kind="multistep", milestones=(27, 33)))
    shorter = with_settings(recipe, epochs=12).schedule
    assert (shorter.epochs, shorter.steps) == (12, None)
    assert shorter.warmup_epochs == pytest.approx(2 / 3) and shorter.milestones == pytest.approx((9, 11))
    with pytest.raises(UserError, match="two ways to say the same"):
        with_settings(recipe, epochs=2, steps=3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim.layer_decay", "1.5", "optim.layer_decay=1.5"),
        ("optim.layer_decay_convention", "twelve", "'per_layer' or 'equivalent_12_layers'"),
        ("optim.layer_deca", "0.5", "Did you mean optim.layer_decay?"),
        ("layer_decay", "0.5", "Did you mean optim.layer_decay?"),
    ],
)
def test_mistakes_are_named(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        with_settings(TinyRecipe(), overrides={key: value})
    assert message in str(error.value)


def test_a_recipe_is_read_back(tmp_path: Path) -> None:
    recipe = with_settings(TinyRecipe(), overrides={"optim.layer_decay": 0.25})
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert read_task_recipe(TinyRecipe, tmp_path) == recipe
    (tmp_path / "recipe.json").write_text('{"kind": "tiny", "nam": "x"}')
    with pytest.raises(UserError, match="is no recipe that this version can read"):
        read_task_recipe(TinyRecipe, tmp_path)
