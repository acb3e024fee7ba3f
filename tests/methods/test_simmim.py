"""What is true of SimMIM alone."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tests.tiny import ENCODERS, colour_table, tiny_encoder, tiny_method, tiny_tokenizer, views_of
from unmask import cli, heads
from unmask.data import normalise
from unmask.masking import BlockMask, Mask, SquareMask
from unmask.methods import BEiT, SimMIM
from unmask.patches import normalise_locally
from unmask.runs import load_method, read_log


def simmim(encoder: str = "swin", *, size: tuple[int, int] = (64, 64), **options: Any) -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(tiny_encoder(encoder, image_size=size), **({"mask_size": 16} | options))


def photos(batch: int = 3, size: tuple[int, int] = (64, 64)) -> Tensor:
    """Bytes, normalised by ImageNet's statistics."""
    return normalise(torch.randint(256, (batch, 3, *size), dtype=torch.uint8))


def predicted(method: SimMIM, images: Tensor, mask: Mask) -> Tensor:
    return method.head(method.encoder(images, mask, method.token).patches)


def test_mask_token_is_drawn_as_the_official_code_does() -> None:
    torch.manual_seed(0)
    drawn = {
        name: torch.cat([SimMIM(tiny_encoder(name), mask_size=16).token.flatten() for _ in range(40)])
        for name in ("swin", "beit_shared")
    }
    assert abs(drawn["swin"].std() - 0.02) < 0.003 and drawn["swin"].abs().max() > 0.02
    assert abs(drawn["beit_shared"].std() - 0.0108) < 0.001 and drawn["beit_shared"].abs().max() <= 0.02


def test_loss_is_the_mean_error_of_hidden_pixels() -> None:
    method = simmim()
    images = torch.randn(3, 3, 64, 64)
    mask = method.draw(images)
    hidden = mask.pixels(4).expand_as(images)
    error = (method.reconstruct(images, mask) - images).abs()[hidden].mean()
    torch.testing.assert_close(method(images, mask=mask)["loss"], error)


@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
@pytest.mark.parametrize("scope", ["hidden", "all"])
def test_norms_over_hidden_and_over_all_pixels(loss: str, scope: str) -> None:
    method, images = simmim(loss=loss, scope=scope), torch.randn(3, 3, 64, 64)
    mask = method.draw(images)
    compare = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[loss]
    scored = mask.pixels(4).expand_as(images) if scope == "hidden" else torch.ones_like(images).bool()
    expected = compare(predicted(method, images, mask)[scored], images[scored])
    torch.testing.assert_close(method(images, mask=mask)["loss"], expected)


@pytest.mark.parametrize("side", [64, 32, 16, 8, 4, 2])
@pytest.mark.parametrize("unit", [8, 32])
def test_targets_of_every_resolution(side: int, unit: int) -> None:
    """Every hidden pixel has the error of its cell, whose target is the mean of its hidden pixels; cells have
    up to 32 pixels, units 8 or 32.
    """
    method, images = simmim(target_size=side, mask_size=unit), torch.randn(2, 3, 64, 64)
    mask, cell = method.draw(images), 64 // side
    prediction = predicted(method, images, mask)
    assert prediction.shape == (2, 3, side, side)
    hidden = mask.pixels(4)
    total = 0.0
    for row, column in np.ndindex(side, side):
        place = ..., slice(row * cell, (row + 1) * cell), slice(column * cell, (column + 1) * cell)
        count = hidden[place].sum((2, 3))
        colour = (images[place] * hidden[place]).sum((2, 3)) / count.clamp(min=1)
        total += ((prediction[..., row, column] - colour).abs().mean(1, keepdim=True) * count).sum()
    torch.testing.assert_close(method(images, mask=mask)["loss"], total / hidden.sum())


def test_low_targets_of_rectangles_and_of_plain_patches() -> None:
    wide, images = simmim(size=(64, 96), target_size=(16, 24)), torch.randn(2, 3, 64, 96)
    assert predicted(wide, images, wide.draw(images)).shape == (2, 3, 16, 24)
    assert wide.reconstruct(images, wide.draw(images)).shape == images.shape
    patches, images = simmim("vit", target_size=8, mask_size=8), photos()  # one colour a patch
    mask = patches.draw(images)
    error = (predicted(patches, images, mask) - F.avg_pool2d(images, 8)).abs().mean(1).flatten(1)
    torch.testing.assert_close(patches(images, mask=mask)["loss"], error[mask.hidden].mean())


def test_local_normalisation_comes_before_averaging() -> None:
    method, images = simmim(local_window=15, target_size=16), torch.randn(2, 3, 64, 64)
    mask = method.draw(images)
    expected = F.avg_pool2d(normalise_locally(images, 15), 4)
    torch.testing.assert_close(method.target(images, mask), expected)


@pytest.mark.parametrize("side", [64, 8])
def test_bins_are_cross_entropies_of_hidden_pixels(side: int) -> None:
    method, images = simmim(target="bins", bins=8, target_size=side), photos()
    mask, cell = method.draw(images), 64 // side
    levels = (images * method.colours.std + method.colours.mean) * 255
    means = F.avg_pool2d(levels, cell)
    target = ((means + 0.5) / 32).floor().long().clamp(0, 7)
    logits = predicted(method, images, mask).view(3, 8, 3, side, side)
    each = F.cross_entropy(logits, target, reduction="none")
    hidden = F.interpolate(mask.pixels(4).float(), size=(side, side)).bool().expand_as(each)
    torch.testing.assert_close(method(images, mask=mask)["loss"], each[hidden].mean())
    assert method.chance_loss == math.log(8) and method.loss_of(images, images, mask) is None


def test_clusters_are_cross_entropies_of_hidden_pixels() -> None:
    method = simmim(target="clusters", colours=colour_table(3), target_size=32)
    images = photos()
    mask = method.draw(images)
    table = torch.from_numpy(np.load(colour_table(3))).float()
    colours = F.avg_pool2d(images, 2) * method.colours.std + method.colours.mean
    nearest = (colours[:, None] - table[None, :, :, None, None]).square().sum(2).argmin(1)
    each = F.cross_entropy(predicted(method, images, mask), nearest, reduction="none")
    hidden = F.interpolate(mask.pixels(4).float(), size=(32, 32)).bool()[:, 0]
    torch.testing.assert_close(method(images, mask=mask)["loss"], each[hidden].mean())
    assert method.chance_loss == pytest.approx(math.log(6))
    picture = method.reconstruct(images, mask) * method.colours.std + method.colours.mean
    assert (torch.cdist(picture.movedim(1, -1), table).min(-1).values < 1e-5).all()  # colours of the table


def test_statistics_of_the_images_decide_the_bins() -> None:
    """The same bytes fall into the same bins, whatever they are normalised with."""
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    targets = []
    for mean, std in (((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), (None, None)):
        method = simmim(target="bins", mean=mean, std=std)
        images = normalise(pixels, mean, std)
        targets.append(method.target(images, method.draw(images)))
    assert torch.equal(targets[0], pixels.long() // 32) and torch.equal(*targets)


@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "l2"}, {"target_size": 8}, {"scope": "all"}, {"target_size": 2, "mask_size": 8}],
    ids=str,
)
def test_the_loss_of_what_was_predicted_is_the_loss(options: dict[str, Any]) -> None:
    method, images = simmim(**options), torch.randn(3, 3, 64, 64)
    mask = method.draw(images)
    picture = method.reconstruct(images, mask)
    torch.testing.assert_close(method.loss_of(picture, images, mask), method(images, mask=mask)["loss"])


def test_the_loss_of_simple_guesses() -> None:
    images = torch.randn(3, 3, 64, 64)
    for options in ({}, {"local_window": 15}, {"target_size": 4}):
        method = simmim(**options)
        mask = method.draw(images)
        assert method.loss_of(images, images, mask) == 0
        assert method.loss_of(torch.zeros_like(images), images, mask) > 0
        assert method.chance_loss is None
    guess = simmim().loss_of(torch.zeros_like(images), images, mask)
    assert guess == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)


def test_reconstruction_of_locally_normalised_targets_restores_colours() -> None:
    """A perfect prediction of a flat coloured image is that image."""
    for options in ({}, {"target_size": 16}):
        method = simmim("vit", mask_size=8, local_window=15, **options)
        torch.nn.init.zeros_(method.head.weight)
        torch.nn.init.zeros_(method.head.bias)
        images = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
        mask = method.draw(images)
        torch.testing.assert_close(method.reconstruct(images, mask), images)


@pytest.mark.parametrize(
    ("encoder", "unit"),
    [*(("swin", unit) for unit in (4, 8, 16, 32, 64)), *(("beit_shared", unit) for unit in (8, 16, 32))],
)
def test_random_units_of_any_size(encoder: str, unit: int) -> None:
    method = simmim(encoder, mask_size=unit, size=(128, 192))
    hidden = method.draw(torch.empty(5, 3, 128, 192)).pixels(method.encoder.patch_size).float()
    units = F.avg_pool2d(hidden, unit)
    assert set(units.flatten().tolist()) == {0.0, 1.0}
    assert (units.sum((1, 2, 3)) == math.ceil(round(0.6 * units[0].numel(), 6))).all()


def test_one_square_and_blocks() -> None:
    images = torch.empty(4, 3, 64, 64)
    square = simmim(mask="square", mask_size=32)
    assert isinstance(square.masking, SquareMask) and square.draw(images).count == 8 * 8
    block = simmim(mask="block", mask_size=8, mask_ratio=0.4, min_block=2)
    assert block.masking == BlockMask(ratio=0.4, unit=2, min_block=2)
    units = F.avg_pool2d(block.draw(images).pixels(4).float(), 8)
    assert set(units.flatten().tolist()) == {0.0, 1.0} and (units.sum((1, 2, 3)) == 26).all()  # of 64
    assert simmim(mask="block").masking.min_block is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "square", "mask_ratio": 0.5}, "method.mask_ratio needs method.mask=random or"),
        ({"mask": "square", "mask_size": 64}, "a patch to spare"),
        ({"mask": "block", "mask_size": 24}, "do not tile"),
        ({"min_block": 3}, "method.min_block needs method.mask=block"),
        ({"mask": "block", "min_block": 0}, "min_block >= 1"),
        ({"bins": 256}, "method.bins needs method.target=bins"),
        ({"target": "bins", "bins": 1}, "bins=1"),
        ({"target": "bins", "bins": 256}, "768 classes for each of 1,024 places are 786,432"),
        ({"target": "bins", "loss": "l2"}, "method.loss needs method.target=pixels"),
        ({"target": "clusters", "local_window": 15}, "method.local_window needs method.target=pixels"),
        ({"target": "clusters"}, "unmask colours --data"),
        ({"target": "clusters", "colours": Path("none.npy")}, "there is no table of colours none.npy"),
        ({"colours": Path("none.npy")}, "method.colours needs method.target=clusters"),
        ({"target_size": 48}, r"can be \[64,64\], \[32,32\], .*\[2,2\]"),
        ({"target_size": (32, 64)}, "a target of 32 x 64 does not go"),
        ({"target_size": 1}, "a target of 1 x 1"),
        ({"head": "swin_base", "target_size": 2}, "use head=linear"),
        ({"mean": (0.5,)}, "3 channels"),
    ],
)
def test_combinations_without_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        simmim(**options)


def test_512_colours_need_a_coarse_target(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.random.default_rng(0).random((512, 3)))
    options = {"target": "clusters", "colours": tmp_path / "table.npy"}
    with torch.device("meta"):
        with pytest.raises(ValueError, match="524,288 of one feature"):
            simmim(**options)
        assert simmim(**options, target_size=16).head.out_features == 64 * 512


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    generator = np.random.default_rng(0)
    for index in range(8):
        pixels = generator.integers(0, 255, (5, 5, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


SETTINGS = [
    ["method.mask=square", "method.mask_size=16", "method.head=mlp", "method.loss=l2"],
    ["method.mask=block", "method.mask_size=8", "method.min_block=2", "method.mask_ratio=0.4"],
    ["method.loss=smooth_l1", "method.scope=all", "method.local_window=9", "method.head=swin_tiny"],
    ["method.target=bins", "method.bins=16", "method.head=swin_base"],
    ["method.target=clusters", "method.colours=TABLE", "method.target_size=[8,8]"],
]


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
def test_every_option_trains_from_the_command_line(
    settings: list[str], blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in heads.INVERSE_SWINS:
        monkeypatch.setitem(heads.INVERSE_SWINS, name, (32, (1, 1, 2, 1)))
    table = tmp_path / "colours.npy"
    np.save(table, np.random.default_rng(0).random((6, 3)))
    out = tmp_path / "run"
    command = ["pretrain", "simmim", "--data", blocks, "--out", out, "--steps", 2, "--batch-size", 4]
    command += ["--encoder", ENCODERS["vit"][0], "--image-size", 32, "--workers", 0, "--device", "cpu"]
    command += ["encoder.embed_dim=48", "encoder.depth=1", "encoder.num_heads=3", "encoder.patch_size=8"]
    command += ["method.mask_size=8", *(setting.replace("TABLE", str(table)) for setting in settings)]
    monkeypatch.setattr(sys, "argv", ["unmask", *map(str, command)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert [math.isfinite(line["loss"]) for line in read_log(out / "log.jsonl").steps] == [True, True]
    assert list((out / "images").glob("*.png"))
    if "TABLE" in "".join(settings):  # the run keeps the colours that it began with
        np.save(table, np.random.default_rng(1).random((6, 3)))
        kept = load_method(out).colours.centres
        torch.testing.assert_close(kept, torch.from_numpy(np.random.default_rng(0).random((6, 3))).float())


def test_codes_of_a_swin_are_scored_by_what_is_hidden_of_them() -> None:
    """Four codes a feature; of one that is half hidden half of its error counts."""
    method = tiny_method("simmim codes", "swin").eval()
    assert method.head(torch.zeros(1, 4, method.encoder.dim)).shape == (1, 6, 4, 4)
    codes, prediction = torch.randint(6, (1, 16)), torch.randn(1, 6, 4, 4)
    error = method.colours.error(prediction, codes)
    hidden = torch.zeros(1, 16, 16, dtype=torch.bool)
    hidden[:, :4, :4] = hidden[:, :2, 4:8] = True  # all of the first code, half of the second
    mask = Mask.of(hidden.flatten(1), (16, 16), 24)
    expected = (error[0, 0, 0, 0] * 16 + error[0, 0, 0, 1] * 8) / 24
    torch.testing.assert_close(method.average(error, mask), expected)


def test_simmim_on_codes_of_patches_is_beit_with_other_masks() -> None:
    encoder = tiny_encoder("beit_shared")
    tokenizer = tiny_tokenizer(encoder)
    beit = BEiT(encoder, tokenizer=tokenizer).eval()
    simmim = SimMIM(encoder, target="codes", tokenizer=tokenizer, mask_size=8).eval()
    simmim.load_state_dict(beit.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    mask, views = beit.draw(images), views_of(beit, images)
    losses = [method(**views, mask=mask)["loss"] for method in (beit, simmim)]
    torch.testing.assert_close(*losses)
    assert simmim.chance_loss == beit.chance_loss == pytest.approx(math.log(6))


def test_codes_need_a_tokenizer_and_it_decides_where_they_lie() -> None:
    encoder = tiny_encoder("beit_shared")
    tokenizer = tiny_tokenizer(encoder)
    with pytest.raises(ValueError, match="unmask tokenizer"):
        SimMIM(encoder, mask_size=8, target="codes")
    with pytest.raises(ValueError, match=r"method\.tokenizer needs method\.target=codes"):
        SimMIM(encoder, mask_size=8, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"method\.target_size needs"):
        SimMIM(encoder, mask_size=8, target="codes", tokenizer=tokenizer, target_size=32)
