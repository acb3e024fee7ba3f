"""The comparison of masks: numbers that belong to the strategies, pictures that show them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.errors import UserError
from unmask.masking import RandomMask, average_distance
from unmask.masks import masks
from unmask.masks.pictures import GREY, HIDDEN, STYLES, VISIBLE, gallery
from unmask.masks.strategies import RATIOS, STRATEGIES, Distance, Strategy, distances

SMALL = ("encoder.embed_dim=12", "encoder.depths=[1,1,1,1]", "encoder.num_heads=[1,1,2,2]")
SETTINGS = dict(setting.split("=") for setting in SMALL)


def by_ratio(strategy: Strategy, ratios: Sequence[float] = RATIOS) -> dict[float, Distance]:
    return {one.ratio: one for one in distances((192, 192), strategies=[strategy], ratios=ratios, masks=8)}


def test_a_strategy_is_what_its_name_says() -> None:
    found = by_ratio(next(one for one in STRATEGIES if one.name == "random, 32 px (SimMIM)"))
    assert {ratio: round(one.hidden * 36) for ratio, one in found.items()} == {
        0.1: 4, 0.2: 8, 0.3: 11, 0.4: 15, 0.5: 18, 0.6: 22, 0.7: 26, 0.8: 29, 0.9: 33,
    }  # fmt: skip
    torch.manual_seed(0)
    expected = average_distance(RandomMask(ratio=0.6, rounding="up")(8, (6, 6)), 32)
    assert found[0.6].mean == pytest.approx(expected.mean().item())
    assert found[0.6].deviation == pytest.approx(expected.std(correction=0).item())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda one: one.name)
def test_more_hidden_is_further_away(strategy: Strategy) -> None:
    found = by_ratio(strategy, [0.2, 0.4, 0.7])
    assert found[0.2].hidden < found[0.4].hidden < found[0.7].hidden
    assert found[0.2].mean < found[0.4].mean < found[0.7].mean
    assert len({one.name for one in STRATEGIES}) == len(STRATEGIES)
    assert (strategy.kind, strategy.unit) in STYLES


def test_a_ratio_that_leaves_nothing_visible_is_left_out() -> None:
    assert max(by_ratio(Strategy(kind="random", unit=64), [0.8, 0.9])) == 0.8


def test_units_that_do_not_tile_the_image_are_left_out() -> None:
    units = {one.strategy.unit for one in distances((224, 96), masks=1, ratios=[0.4])}
    assert units == {4, 8, 16, 32}


def test_a_method_is_measured_as_a_recipe_has_it() -> None:
    found = masks("simmim", image_size=64, count=8, overrides={**SETTINGS, "method.mask_size": "16"})
    assert found.own is not None and found.image_size == (64, 64)
    assert found.own.hidden == 10 / 16  # ceil(0.6 * 16) squares
    torch.manual_seed(0)
    each = average_distance(RandomMask(ratio=0.6, unit=4, rounding="up")(8, (16, 16)), 4)
    assert found.own.mean == pytest.approx(each.mean().item())
    assert found.own.each == tuple(each[:8].tolist())


def test_the_gallery_shows_the_masks_that_were_measured() -> None:
    strategy = Strategy(kind="random", unit=32)
    found = list(distances((96, 64), strategies=[strategy], ratios=[0.5], masks=3))
    hidden = found[0].example.pixels(32)[0, 0].numpy()
    picture = np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8)
    for given, cover, ground in ((None, HIDDEN, np.full_like(picture, VISIBLE)), (picture, GREY, picture)):
        (axes,) = gallery(found, given).axes
        shown = np.asarray(axes.images[0].get_array())
        assert (shown[hidden] == cover).all() and (shown[~hidden] == ground[~hidden]).all()
        assert axes.get_xlabel() == f"50% · {found[0].mean:.1f} px"


@pytest.mark.parametrize("name", [None, "simmim"])
def test_pictures_are_written(name: str | None, tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / "photo.png")
    out = tmp_path / "deep" / "masks.png"
    overrides = SETTINGS if name else None
    found = masks(name, out=out, picture=tmp_path / "photo.png", image_size=64, count=2, overrides=overrides)
    assert found.pictures == (out, out.with_name("masks-distance.png"))
    for path in found.pictures:
        with Image.open(path) as image:
            assert image.width > 300 and len(np.unique(np.asarray(image.convert("L")))) > 20


def test_the_global_generator_is_not_disturbed() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(distances((64, 64), ratios=[0.5], masks=1))
    assert torch.equal(torch.rand(4), expected)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.png"):
        masks(out=tmp_path / "a.jpg", count=1)
    with pytest.raises(UserError, match="name a method or a recipe first"):
        masks(overrides={"method.mask_ratio": 0.5})
    with pytest.raises(UserError, match="at least one"):
        masks(count=0)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        masks(out=tmp_path / "a.png", picture=tmp_path / "none.jpg", count=1)
    with pytest.raises(UserError, match="no method or recipe is called"):
        masks("simmin")
    with pytest.raises(UserError, match="units of any strategy"):
        masks(image_size=(10, 10), count=1)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        masks(out=tmp_path / "file" / "a.png", image_size=64, count=1)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
