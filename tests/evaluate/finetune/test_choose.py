"""The recipe that fits a start, and what the papers' recipes say."""

import pytest

from tests.tiny import tiny_encoder
from unmask.encoders import Encoder
from unmask.errors import UserError
from unmask.evaluate.finetune.choose import choose_recipe
from unmask.evaluate.finetune.published import PUBLISHED, few
from unmask.recipes.tasks import with_settings


def chosen(encoder: Encoder, method: str | None, images: int = 50_000, again: bool = False) -> str:
    return choose_recipe(None, method=method, encoder=encoder, images=images, again=again).name


@pytest.mark.parametrize(
    ("encoder", "method", "again", "name"),
    [
        ("vit", "mae", False, "mae_base"),
        ("vit", None, False, "mae_base"),
        ("vit", "simmim", False, "simmim_vit_base"),
        ("vit", "beitv2", True, "beitv2_base_again"),
        ("vit", "mae", True, "mae_base"),
        ("beit_shared", "beit", False, "beit_base"),
        ("beit_shared", "peco", True, "beit_base_again"),
        ("beit_shared", None, False, "beit_base"),
        ("beit_placed", "cae", False, "cae_base"),
        ("vit", "milan", False, "milan_base"),
        ("swin", "simmim", False, "simmim_swin_base"),
        ("swinv2", "simmim", False, "simmim_swinv2_base"),
        ("hivit", "itpn", False, "itpn_base"),
        ("hivit", "mae", False, "mae_hivit"),
        ("fast_itpn", "itpn_teacher", False, "itpn_teacher_base"),
        ("revcolv2", "revcolv2", False, "revcolv2_base"),
        ("revcol", None, False, "revcolv2_base"),
    ],
)
def test_the_method_says_whose_recipe(encoder: str, method: str | None, again: bool, name: str) -> None:
    assert chosen(tiny_encoder(encoder), method, again=again) == name


def test_few_images_get_a_short_recipe() -> None:
    encoder = tiny_encoder("hivit")
    recipe = choose_recipe(None, method="itpn", encoder=encoder, images=3000, again=False)
    assert recipe.name == "itpn_few" and recipe.optim.layer_decay_convention == "equivalent_12_layers"
    assert recipe.schedule.epochs == 50 and recipe.schedule.warmup_epochs == 5
    assert recipe.task.pool == "auto"  # what a HiViT has; of a plain ViT the norm comes after the mean
    plain = choose_recipe(None, method="mae", encoder=tiny_encoder("vit"), images=99, again=False)
    assert plain.task.pool == "mean_norm"
    rates = [few("mae", width).optim.peak_lr for width in (96, 192, 768)]
    assert rates == pytest.approx([3e-3, 3e-3, 7.5e-4])
    assert choose_recipe(None, method="mae", encoder=encoder, images=37, again=False).optim.batch_size == 32
    assert chosen(encoder, "itpn", images=19_999) == "itpn_few"
    with pytest.raises(UserError, match="too few to train on"):
        chosen(encoder, "itpn", images=1)


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "decay", "drop"),
    [
        ("mae_base", 2e-3, 100, 0.65, 0.1),
        ("mae_large", 4e-3, 50, 0.75, 0.2),
        ("simmim_swin_base", 5e-3, 100, 0.8, 0.1),
        ("beit_base", 4e-3, 100, 0.65, 0.1),
        ("beitv2_base", 5e-4, 100, 0.6, 0.2),
        ("itpn_base", 1.6e-3, 100, 0.6, 0.15),
        ("milan_base", 4e-4, 100, 0.65, 0.1),
        ("cmae_base", 1e-3, 100, 0.65, 0.1),
        ("cae_base", 8e-3, 100, 0.65, 0.1),
    ],
)
def test_published_numbers(name: str, lr: float, epochs: int, decay: float, drop: float) -> None:
    recipe = PUBLISHED[name]()
    assert recipe.optim.peak_lr == pytest.approx(lr) and recipe.schedule.epochs == epochs
    assert recipe.optim.layer_decay == decay and recipe.encoder.options["drop_path_rate"] == drop
    assert recipe.schedule.final_lr * recipe.optim.peak_lr == pytest.approx(1e-6)


@pytest.mark.parametrize("name", [*PUBLISHED, "mae_few"])
def test_rates_are_scaled_to_the_batch(name: str) -> None:
    recipe = few("mae", 192) if name == "mae_few" else PUBLISHED[name]()
    half = with_settings(recipe, batch_size=recipe.optim.batch_size // 2)
    assert half.optim.peak_lr == recipe.optim.peak_lr / 2
    assert with_settings(recipe, batch_size=8, lr=1e-3).optim.peak_lr == 1e-3


def test_a_batch_that_is_fitted_to_the_images_scales_the_rate_too() -> None:
    recipe = choose_recipe("cae_base", method=None, encoder=tiny_encoder("vit"), images=100, again=False)
    assert recipe.optim.batch_size == 64 and recipe.optim.peak_lr == pytest.approx(8e-3 * 64 / 4096)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_can_be_built_and_are_named_alike(name: str) -> None:
    recipe = PUBLISHED[name]()
    assert recipe.name == name
    assert recipe.task.mixes is not name.endswith("_again")


def test_a_recipe_of_a_vit_fits_an_architecture_with_one_pooling() -> None:
    recipe = choose_recipe("mae_base", method=None, encoder=tiny_encoder("swin"), images=100_000, again=False)
    assert recipe.task.pool == "auto"
