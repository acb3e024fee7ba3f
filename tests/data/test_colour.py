"""Changes of colour: torchvision's arithmetic, chances as asked, shared by the views or for one."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.data.conftest import smooth
from unmask.data.colour import ColourChange
from unmask.data.loader import PretrainLoader
from unmask.data.sources import open_source
from unmask.data.views import Augment, View, make_views

PICTURE = Image.fromarray(smooth(90, 120))
CMAE = ColourChange(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, jitter=0.8, grey=0.2, blur=0.5)


def image(size: int = 32) -> torch.Tensor:
    return torch.from_numpy(smooth(size, size)).permute(2, 0, 1).contiguous()


def changed(change: ColourChange, seed: int, picture: torch.Tensor | None = None) -> torch.Tensor:
    return change.draw(np.random.default_rng(seed))(image() if picture is None else picture)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_is_torchvisions(name):
    change = ColourChange(**{name: 0.3})
    for seed in range(5):
        # One number is drawn, evenly over the range.
        drawn = np.random.default_rng(seed)
        drawn.random()
        factor = drawn.uniform(-0.3, 0.3) if name == "hue" else drawn.uniform(0.7, 1.3)
        expected = v2.ColorJitter(**{name: (factor, factor)})(image())
        difference = changed(change, seed).float() - expected.float()
        assert difference.abs().max() <= 1  # torchvision draws in float32


def test_jitter_comes_in_random_order():
    orders = set()
    for seed in range(300):
        drawn = ColourChange(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1).draw(
            np.random.default_rng(seed)
        )
        orders.add(tuple(step.func.__name__ for step in drawn.args[0]))
    assert len(orders) == 24


def test_chances_are_as_asked():
    greys = sum(torch.equal(*changed(ColourChange(grey=0.2), seed)[:2]) for seed in range(1000))
    jitters = sum(
        not torch.equal(changed(ColourChange(brightness=0.4, jitter=0.8), seed), image())
        for seed in range(1000)
    )
    blurs = sum(
        not torch.equal(changed(ColourChange(blur=0.5, sigma=(1, 2)), seed), image()) for seed in range(1000)
    )
    assert 160 < greys < 240 and 750 < jitters < 850 and 440 < blurs < 560


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_blur_is_for_all_images_and_keeps_their_mean(dtype, channels):
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (channels, 24, 40))).to(dtype)
    blurred = changed(ColourChange(blur=1.0, sigma=(1.5, 1.5)), 0, noise)
    assert blurred.dtype == dtype and blurred.shape == noise.shape
    assert abs(blurred.float().mean() - noise.float().mean()) < 2
    assert blurred.float().std() < 0.3 * noise.float().std()


def test_a_blur_fits_images_smaller_than_its_kernel():
    assert changed(ColourChange(blur=1.0, sigma=(2, 2)), 0, image()[:, :3, :5]).shape == (3, 3, 5)


def test_a_blur_spreads_a_point_by_its_sigma():
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1.0
    blurred = changed(ColourChange(blur=1.0, sigma=(1.7, 1.7)), 0, point)[0]
    place = torch.arange(41.0) - 20
    variance = (blurred.sum(0) * place.square()).sum() / blurred.sum()
    assert abs(variance.sqrt() - 1.7) < 0.05


def test_without_strength_nothing_changes_and_nothing_is_drawn():
    generator = np.random.default_rng(0)
    assert torch.equal(ColourChange().draw(generator)(image()), image())
    assert generator.random() == np.random.default_rng(0).random()


def test_views_share_the_jitter_of_the_sample():
    """Both views are the same picture at two sizes, whatever happened to its colours."""
    jitter = ColourChange(brightness=0.4, contrast=0.4, saturation=0.4)
    views = {"images": View(), "codes": View(scale=0.5)}
    moved = 0.0
    for seed in range(10):
        plain, coloured = (
            make_views(PICTURE, views, Augment((64, 64), colour=colour), np.random.default_rng(seed))
            for colour in (None, jitter)
        )
        pooled = torch.nn.functional.avg_pool2d(coloured["images"].float(), 2)
        assert (pooled - coloured["codes"].float()).abs().mean() < 3
        moved += (plain["images"].float() - coloured["images"].float()).abs().mean().item() / 10
    assert moved > 10


def test_a_views_own_change_leaves_the_others_alone():
    plain = {"images": View(), "target": View(shift=7)}
    own = {"images": View(), "target": View(shift=7, colour=CMAE)}
    different = 0
    for seed in range(20):
        before, after = (
            make_views(PICTURE, views, Augment((48, 48)), np.random.default_rng(seed))
            for views in (plain, own)
        )
        assert torch.equal(before["images"], after["images"])
        different += not torch.equal(before["target"], after["target"])
    assert different > 14  # 92 % change something


def test_zero_shift_and_no_change_make_the_views_equal():
    views = make_views(
        PICTURE,
        {"images": View(), "target": View(colour=ColourChange())},
        Augment((48, 48)),
        np.random.default_rng(1),
    )
    assert torch.equal(views["images"], views["target"])


def test_equal_canvases_are_resized_once(monkeypatch):
    from unmask.data import views as module

    sizes, resize = [], module.resize

    def counted(pixels, size, interpolation):
        sizes.append((size, interpolation))
        return resize(pixels, size, interpolation)

    monkeypatch.setattr(module, "resize", counted)
    views = {
        "images": View(), "teacher": View(normalised=False), "target": View(shift=5, colour=CMAE),
        "sharp": View(interpolation="lanczos"), "small": View(scale=0.5),
    }  # fmt: skip
    make_views(PICTURE, views, Augment((40, 40)), np.random.default_rng(0))
    assert sizes == [((45, 45), "bicubic"), ((45, 45), "lanczos"), ((22, 22), "bicubic")]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_batches_do_not_depend_on_workers_or_the_point_of_resume(photos, workers, start):
    def batches(count: int, workers: int, start: int) -> list[dict[str, torch.Tensor]]:
        jitter = ColourChange(brightness=0.4, contrast=0.4, saturation=0.4)
        loader = PretrainLoader(
            open_source(photos),
            {"images": View(), "target": View(shift=3, colour=CMAE)},
            Augment((16, 16), colour=jitter),
            batch_size=8,
            seed=1,
            workers=workers,
        )
        stream = loader.batches(start)
        return [next(stream) for _ in range(count)]

    whole = batches(5, 0, 0)
    again = batches(5 - start, workers, start)
    for first, second in zip(whole[start:], again, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (4, 8), (3, 16), (3, 32)])
def test_only_rgb_of_8_bits_has_colours_to_change(photos, channels, bits):
    with pytest.raises(ValueError, match=f"not of {channels} channels of {bits} bits"):
        Augment((16, 16), channels=channels, bits=bits, colour=CMAE)
    augment = Augment((16, 16), channels=channels, bits=bits)
    options = {"batch_size": 4, "seed": 0, "workers": 0}
    with pytest.raises(ValueError, match="the view target of the method: colours can be changed of RGB"):
        PretrainLoader(
            open_source(photos), {"images": View(), "target": View(colour=CMAE)}, augment, **options
        )
    PretrainLoader(open_source(photos), {"images": View(colour=ColourChange(blur=0.5))}, augment, **options)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"brightness": -0.1}, "brightness, contrast"),
        ({"hue": 0.6}, "hue lie in"),
        ({"grey": 1.5}, "probabilities"),
        ({"blur": 0.5, "sigma": (2.0, 1.0)}, "sigma"),
    ],
)
def test_impossible_changes_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ColourChange(**wrong)
