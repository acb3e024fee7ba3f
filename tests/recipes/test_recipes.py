"""From names and overrides to recipes and modules."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import TinyTokenizer
from unmask.encoders import Encoder
from unmask.errors import UserError
from unmask.masking import Mask
from unmask.methods import METHODS, Method
from unmask.recipes import DEFAULTS, RECIPES, SMALL, TOKENIZER_RECIPES
from unmask.recipes.base import Choice, Recipe, scaled_lr
from unmask.recipes.build import build_method, lacking, with_defaults
from unmask.recipes.resolve import FEW_IMAGES, SMALL_RUN, resolve_recipe
from unmask.recipes.settings import parse_value
from unmask.targets import Teacher, create_teacher

PARAMETERS = {  # computed from the official code
    "mae_vit_base_800ep": 111_655_680,
    "mae_vit_large_800ep": 329_239_296,
    "mae_vit_huge_1600ep": 656_613_964,
    "milan_vit_base_400ep": 111_524_352,
    "itpn_base_clip_300ep": 88_738_288,
    "simmim_swin_base_100ep": 89_874_104,
    "simmim_swin_large_800ep": 199_881_204,
    "simmim_vit_base_800ep": 86_256_720,
    "simmim_swinv2_base_800ep": 90_042_744,
    "simmim_swinv2_large_800ep": 199_924_788,
    "simmim_swinv2_huge_800ep": 663_865_098,
    "mask_distill_vit_base_300ep": 86_256_720,
    "simmim_swinv2_giant_800ep": 3_010_401_504,  # of which the encoder 2,997,815,008
    "beit_vit_base_800ep": 91_965_776,
    "beit_vit_large_800ep": 311_534_016,
    "peco_vit_base_300ep": 91_965_776,
    "beitv2_vit_base_300ep": 106_143_056,
    "beitv2_vit_large_1600ep": 336_728_512,
    "cae_vit_base_800ep": 148_681_472,
}


def untrained(recipe: Recipe, *, vocabulary: int = 8192) -> dict[str, Any]:
    """The tokenizer that is trained for a run that names none; of it only the number of codes matters."""
    if lacking(recipe) is None:
        return {}
    patch_size = recipe.encoder.options.get("patch_size", 16)
    size = recipe.data.image_size
    return {"tokenizer": TinyTokenizer(image_size=size, stride=patch_size, vocabulary=vocabulary)}


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes_build(name: str) -> None:
    """On the meta device: nothing is allocated, only counted."""
    recipe = RECIPES[name]()
    assert recipe.name == name
    plain = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"init": None})})
    teacher = plain.method.options.get("teacher")
    if teacher is not None:  # random weights: nothing is fetched
        method = plain.method.model_copy(update={"teacher": teacher.replace("timm:", "random:")})
        plain = plain.model_copy(update={"method": method})
    parts = untrained(plain)
    with torch.device("meta"):
        method = build_method(plain, parts=parts)
    count = sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert name not in PARAMETERS or count == PARAMETERS[name]
    for field in ("Source:", "Command:", "Published:", "Cost:", "Reproduced by us:"):
        assert field in (RECIPES[name].__doc__ or "")
    assert f"unmask pretrain {name} " in (RECIPES[name].__doc__ or "")


def test_published_learning_rates() -> None:
    for name in ("milan_vit_base_400ep", "cmae_vit_base_300ep"):
        assert RECIPES[name]().optim.peak_lr == pytest.approx(2.4e-3)
    assert scaled_lr(1.5e-4, 4096, 256) == pytest.approx(2.4e-3)
    assert RECIPES["mae_vit_base_800ep"]().optim.peak_lr == pytest.approx(2.4e-3)
    assert RECIPES["simmim_swin_base_100ep"]().optim.peak_lr == pytest.approx(8e-4)
    assert RECIPES["simmim_vit_base_800ep"]().optim.peak_lr == pytest.approx(4e-4)


@pytest.mark.parametrize("name", ["mae", "simmim", *RECIPES])
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    recipe = resolve_recipe(name, images=5000)
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert Recipe.from_json(path) == recipe == resolve_recipe(str(path))


def test_overrides_reach_every_section() -> None:
    recipe = resolve_recipe(
        "mae",
        encoder="vit_tiny_patch16_224",
        image_size=(64, 96),
        steps=50,
        lr=1e-3,
        seed=7,
        overrides={
            "method.mask_ratio": "0.5",
            "encoder.drop_path_rate": "0.1",
            "data.flip": "false",
            "optim.clip": "none",
            "optim.betas": "[0.9, 0.99]",
            "schedule.kind": "constant",
            "checkpoint.every": "5",
        },
    )
    assert recipe.method.options["mask_ratio"] == 0.5
    assert recipe.encoder.name == "vit_tiny_patch16_224" and recipe.encoder.options["drop_path_rate"] == 0.1
    assert recipe.data.image_size == (64, 96) and recipe.data.flip is False
    assert recipe.optim.clip is None and recipe.optim.betas == (0.9, 0.99) and recipe.optim.peak_lr == 1e-3
    assert (recipe.schedule.steps, recipe.schedule.kind, recipe.seed) == (50, "constant", 7)
    assert recipe.checkpoint.every == 5


def test_fewer_epochs_keep_the_shape_of_the_schedule() -> None:
    recipe = resolve_recipe("simmim_swin_base_800ep", epochs=80)
    assert (recipe.schedule.epochs, recipe.schedule.warmup_epochs, recipe.schedule.milestones) == (
        80,
        1.0,
        (70.0,),
    )


@pytest.mark.parametrize("epochs", [10, 1600])
def test_a_twentieth_of_a_default_run_is_warm_up(epochs: int) -> None:
    assert resolve_recipe("mae", images=1000, epochs=epochs).schedule.warmup_epochs == epochs / 20
    override = {"schedule.warmup_epochs": 3}
    assert resolve_recipe("mae", images=1000, epochs=epochs, overrides=override).schedule.warmup_epochs == 3


def test_default_learning_rates_stay_below_the_published_peaks() -> None:
    assert resolve_recipe("mae").optim.peak_lr == pytest.approx(6e-4)
    assert resolve_recipe("mae", batch_size=4096).optim.peak_lr == pytest.approx(2.4e-3)
    assert resolve_recipe("simmim", batch_size=2048).optim.peak_lr == pytest.approx(8e-4)
    assert resolve_recipe("mae", batch_size=4096, lr=5e-3).optim.peak_lr == 5e-3


def test_another_encoder_keeps_what_the_method_wants() -> None:
    recipe = resolve_recipe("mae_vit_base_800ep", encoder="vit_small_patch16_224")
    assert recipe.encoder.options == {"position": "sincos", "init": "mae"}
    recipe = resolve_recipe("simmim_vit_base_800ep", encoder="swin_tiny_patch4_window7_224")
    assert recipe.encoder.options == {"drop_path_rate": 0.1}


def test_published_weights_bring_their_normalisation() -> None:
    name = "vit_base_patch16_224.augreg_in21k"
    recipe = resolve_recipe("mae", encoder=name, overrides={"encoder.pretrained": "true"})
    assert recipe.data.mean == recipe.data.std == (0.5, 0.5, 0.5)
    assert resolve_recipe("mae", encoder=name).data.mean is None


def test_many_images_get_the_default() -> None:
    large = resolve_recipe("mae", images=10_000_000)
    assert (large.optim.batch_size, large.schedule.epochs) == (256, 100)
    assert resolve_recipe("mae", images=FEW_IMAGES).schedule.epochs == 200  # of 20,000: 4 million in all
    assert resolve_recipe("mae", images=FEW_IMAGES).data.image_size == (224, 224)


@pytest.mark.parametrize("method", DEFAULTS)
def test_few_images_get_the_recipe_for_small_data(method: str) -> None:
    few, measured = resolve_recipe(method, images=FEW_IMAGES - 1), SMALL[method]()
    assert (few.encoder, few.data, few.optim) == (measured.encoder, measured.data, measured.optim)
    assert resolve_recipe(method).encoder == DEFAULTS[method]().encoder  # how many is not known
    built = build_method(few, parts=untrained(few, vocabulary=512))
    trained = [parameter.numel() for parameter in built.parameters() if parameter.requires_grad]
    assert sum(trained) < 4e6


@pytest.mark.parametrize("images", [1, 40, 500, 3_000, 19_999])
def test_a_run_on_few_images_is_as_long_as_bounds_allow(images: int) -> None:
    schedule = resolve_recipe("simmim", images=images).schedule
    assert schedule.epochs is not None
    assert SMALL_RUN.fewest_epochs <= schedule.epochs <= SMALL_RUN.most_epochs
    seen = schedule.epochs * images
    free = SMALL_RUN.fewest_epochs < schedule.epochs < SMALL_RUN.most_epochs
    assert not free or abs(seen - SMALL_RUN.images) <= images
    assert schedule.warmup_epochs == schedule.epochs / 20


@pytest.mark.parametrize(
    "chosen",
    [
        {"encoder": "vit_base_patch16_224"},
        {"image_size": 224},
        {"overrides": {"data.image_size": "[224, 224]"}},
        {"overrides": {"encoder.pretrained": "true"}},
    ],
)
def test_who_chooses_encoder_weights_or_size_gets_the_default_for_them(chosen: dict) -> None:
    """The small encoder is made for small images, and nobody publishes weights of it."""
    recipe = resolve_recipe("mae", images=3000, **chosen)
    assert "patch_size" not in recipe.encoder.options and recipe.data.image_size == (224, 224)
    assert recipe.schedule.epochs == 800


def test_other_choices_stay_with_the_recipe_for_small_data() -> None:
    overrides = {"method.mask_ratio": "0.6", "encoder.pretrained": "false"}
    recipe = resolve_recipe("mae", images=3000, epochs=7, lr=1e-4, overrides=overrides)
    assert recipe.encoder.options["patch_size"] == 8 and recipe.method.options["mask_ratio"] == 0.6
    assert (recipe.schedule.epochs, recipe.schedule.warmup_epochs) == (7, 7 / 20)
    assert recipe.optim.peak_lr == 1e-4


def test_a_batch_is_filled_by_the_images() -> None:
    assert resolve_recipe("mae", images=20).optim.batch_size == 16
    assert resolve_recipe("mae", images=20, encoder="vit_small_patch16_224").optim.batch_size == 16
    assert resolve_recipe("mae", images=100, encoder="vit_small_patch16_224").optim.batch_size == 64
    assert resolve_recipe("mae", images=100, batch_size=10).optim.batch_size == 10


@pytest.mark.parametrize("name", RECIPES)
def test_published_runs_do_not_follow_the_size_of_the_data(name: str) -> None:
    assert resolve_recipe(name, images=100) == resolve_recipe(name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("none", None),
        ("True", True),
        ("false", False),
        ("[1, 2]", [1, 2]),
        ("sincos", "sincos"),
    ],
)
def test_parse_value(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("maee", {}, "did you mean mae"),
        ("nowhere.json", {}, "there is no file nowhere.json"),
        (
            "mae",
            {"overrides": {"method.mask_rato": 0.5}},
            "MAE has no option 'mask_rato'; did you mean 'mask_ratio'",
        ),
        ("mae", {"overrides": {"method.mask_ratio": "much"}}, "mask_ratio='much' is not valid"),
        ("mae", {"overrides": {"method.mask_ratio": 1.5}}, "strictly between 0 and 1"),
        ("mae", {"overrides": {"optim.lrr": 1}}, "Did you mean optim.lr"),
        ("mae", {"overrides": {"optm.lr": 1}}, "Did you mean optim.lr"),
        ("mae", {"overrides": {"lr": 1}}, "there is no setting 'lr'. Did you mean optim.lr"),
        ("mae", {"batch_size": -1}, "optim.batch_size=-1"),
        ("mae", {"overrides": {"data.crop_scale": [0.9, 0.5]}}, "from a positive low to a high value"),
        ("mae", {"overrides": {"data.mean": [0.5]}}, "mean has 1 values for images of 3 channels"),
        ("mae", {"overrides": {"optim.accumulate": 3}}, "cannot be split into 3"),
        ("mae", {"epochs": 3, "steps": 3}, "give one of them"),
        ("mae", {"encoder": "swin_tiny_patch4_window7_224"}, "MAE encodes only visible patches"),
        ("mae", {"overrides": {"encoder.image_size": 64}}, "data.image_size"),
        ("mae", {"overrides": {"encoder.img_size": 64}}, "decided by data.image_size"),
        ("mae", {"overrides": {"encoder.fc_norm": True}}, "final norm"),
        ("mae", {"overrides": {"encoder.drop_path_rate": 2}}, "drop_path_rate=2"),
        ("mae", {"overrides": {"optim.betas": [1.5, 2]}}, "less than 1"),
        ("mae", {"overrides": {"method.decoder_heads": 0}}, "positive number of heads"),
        ("simmim", {"overrides": {"method.mask_size": 0}}, "mask_size of 0 pixels"),
        ("simmim", {"overrides": {"method.mask_size": -8}}, "method.mask_size=4"),
        ("mae", {"overrides": {"method.decoder_heads": 7}}, "cannot have 7 heads"),
        ("simmim", {"overrides": {"method.mask_size": 33}}, "no multiple of the encoder's patches"),
        ("simmim", {"overrides": {"method.local_window": 4}}, "odd number"),
        ("simmim", {"image_size": (32, 32)}, "at least one must be hidden"),
    ],
)
def test_mistakes_are_explained(name: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_method(resolve_recipe(name, **changes))


def test_a_recipe_says_all_that_decides_the_result() -> None:
    assert resolve_recipe("mae").method.options["mask_ratio"] == 0.75
    assert resolve_recipe("simmim", overrides={"method.mask_size": 64}).method.options == {
        "tokenizer": None,
        "mask": "random",
        "mask_ratio": 0.6,
        "mask_size": 64,
        "min_block": None,
        "head": "linear",
        "target": "pixels",
        "target_size": None,
        "local_window": None,
        "bins": 8,
        "colours": None,
        "loss": "l1",
        "scope": "hidden",
    }


def test_a_square_size_is_one_number() -> None:
    assert resolve_recipe("mae", image_size=64).data.image_size == (64, 64)


def test_a_run_folder_stands_for_its_recipe(tmp_path: Path) -> None:
    recipe = resolve_recipe("mae", image_size=64)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert resolve_recipe(str(tmp_path)) == recipe


def test_a_broken_recipe_file_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"name": "x", "method": {"name": "mae"}}))
    with pytest.raises(UserError, match="is no recipe: encoder"):
        resolve_recipe(str(path))


class Pupil(Method):
    """A method with modules among its options, of which one must be named."""

    def __init__(self, encoder: Encoder, *, teacher: Teacher, second: Teacher | None = None) -> None:
        super().__init__()
        self.encoder, self.teacher, self.second = encoder, teacher, second

    def forward(self, images: torch.Tensor, *, mask: Mask | None = None) -> dict[str, torch.Tensor]:
        raise NotImplementedError


def test_teachers_are_named_in_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "pupil", Pupil)
    recipe = resolve_recipe("mae", image_size=(64, 96), encoder="vit_tiny_patch16_224")

    def build(**options: Any) -> Method:
        method = Choice(name="pupil", **options)
        return build_method(with_defaults(recipe.model_copy(update={"method": method})))

    built = build(teacher="random:resnet18", second="random:resnet18@32x1")
    assert built.teacher.grid == built.second.grid == built.encoder.feature_grid == (4, 6)
    assert built.second.image_size == (128, 192)
    assert (
        build(teacher=built.teacher).teacher is built.teacher and build(teacher=built.teacher).second is None
    )
    with pytest.raises(UserError, match=r"Pupil cannot do without method\.teacher"):
        build(second="random:resnet18")
    with pytest.raises(UserError, match="no teacher is called"):
        build(teacher="randm:resnet18")


def test_the_teachers_of_published_runs_are_refused_for_nothing_but_their_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fetched(Exception):
        """All that can be said against a name has been checked."""

    def fetch(name: str, *, pretrained: bool, **options: Any) -> Encoder:
        assert pretrained
        raise Fetched

    monkeypatch.setattr("unmask.targets.teachers.create.create_encoder", fetch)
    plans = [recipe() for recipe in (*RECIPES.values(), *TOKENIZER_RECIPES.values())]
    teachers = {plan.learner.options["teacher"] for plan in plans if "teacher" in plan.learner.options}
    assert len(teachers) >= 4
    for teacher in teachers:
        with pytest.raises(Fetched):
            create_teacher(teacher, grid=(14, 14))
