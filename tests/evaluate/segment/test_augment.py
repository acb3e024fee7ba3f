"""Random crops of scenes: pixel and class stay together, and all chance is the generator's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unmask.data.colour import ColourChange
from unmask.evaluate.segment.augment import CropRecipe, random_sample, scaled_size
from unmask.evaluate.segment.scenes import Scene
from unmask.evaluate.segment.score import IGNORED

RECIPE = CropRecipe(size=(32, 40), short_side=40)
FILL = (9.0, 8.0, 7.0)


def scene(height: int = 48, width: int = 64) -> Scene:
    """Squares of one colour; the class is told by the colour."""
    blocks = np.random.default_rng(1).integers(0, 5, size=(height // 8, width // 8))
    mask = blocks.repeat(8, 0).repeat(8, 1).astype(np.uint8)
    return Scene((mask[..., None] * 50 + np.array([0, 1, 2])).astype(np.uint8), mask)


def drawn(
    seed: int, recipe: CropRecipe = RECIPE, own: Scene | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    return random_sample(own or scene(), recipe, FILL, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(12))
def test_every_pixel_keeps_its_class(seed: int) -> None:
    picture, mask = drawn(seed)
    assert picture.shape == (3, 32, 40) and picture.dtype == torch.uint8
    assert mask.shape == (32, 40) and mask.dtype == torch.uint8
    # Inside of squares and of the crop, where no neighbour is mixed in, the colour tells the class.
    picture, centre = picture[:, 2:-2, 2:-2], mask[2:-2, 2:-2]
    same = torch.nn.functional.unfold(mask[None, None].float(), 5).reshape(25, 28, 36)
    inside = (same == centre).all(0) & (centre != IGNORED)
    assert inside.any()
    assert (picture[0].float()[inside] - 50 * centre[inside].float()).abs().max() <= 1


def test_the_same_generator_gives_the_same_sample() -> None:
    recipe = replace(RECIPE, colour=ColourChange(brightness=0.2, hue=0.1))
    for seed in range(4):
        first, second = drawn(seed, recipe), drawn(seed, recipe)
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(drawn(0, recipe)[0], drawn(1, recipe)[0])


def test_half_of_the_samples_are_mirrored() -> None:
    # A scene as large as the crop, that never changes its size: nothing but the flip is left to chance.
    still = CropRecipe(size=(48, 64), short_side=None, scale=(1.0, 1.0), largest_class=1.0)
    original = torch.from_numpy(scene().mask)
    mirrored = 0
    for seed in range(200):
        _, mask = drawn(seed, still)
        flipped = torch.equal(mask, original.flip(-1))
        assert flipped or torch.equal(mask, original)
        mirrored += flipped
    assert 70 < mirrored < 130
    assert all(torch.equal(drawn(seed, replace(still, flip=False))[1], original) for seed in range(5))


def test_small_pictures_are_filled_up_and_the_filling_has_no_class() -> None:
    recipe = CropRecipe(size=(64, 80), short_side=None, scale=(0.5, 0.5), flip=False)
    picture, mask = drawn(0, recipe)
    assert (mask[24:] == IGNORED).all() and (mask[:, 32:] == IGNORED).all()
    assert not (mask[:24, :32] == IGNORED).any()
    assert (picture[:, 30, 40] == torch.tensor(FILL)).all()


def test_crops_of_one_class_are_drawn_again() -> None:
    """A scene with a small object: crops that show it are preferred."""
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[20:44, 20:44] = 1
    own = Scene(np.zeros((64, 64, 3), dtype=np.uint8), mask)
    recipe = CropRecipe(size=(24, 24), short_side=None, scale=(1.0, 1.0))

    def mixed(largest: float) -> int:
        samples = [drawn(seed, replace(recipe, largest_class=largest), own)[1] for seed in range(60)]
        return sum(0.25 <= float((one == 1).float().mean()) <= 0.75 for one in samples)

    assert mixed(0.75) > 55 > 40 > mixed(1.0)


def test_pixels_without_a_class_do_not_count_as_one() -> None:
    mask = np.full((16, 16), IGNORED, dtype=np.uint8)
    own = Scene(np.zeros((16, 16, 3), dtype=np.uint8), mask)
    assert (drawn(0, CropRecipe(size=(8, 8), short_side=None), own)[1] == IGNORED).all()


def test_crops_without_any_class_are_the_last_choice() -> None:
    """Three classes that no crop shows together, in a sea of pixels without one."""
    mask = np.full((96, 96), IGNORED, dtype=np.uint8)
    for number, (row, column) in enumerate(((4, 4), (4, 76), (76, 40))):
        mask[row : row + 16, column : column + 16] = number
    own = Scene(np.zeros((96, 96, 3), dtype=np.uint8), mask)
    recipe = CropRecipe(size=(32, 32), short_side=None, scale=(1.0, 1.0))
    empty = [bool((drawn(seed, recipe, own)[1] == IGNORED).all()) for seed in range(100)]
    assert sum(empty) < 5  # of crops drawn once it would be about six of ten


@pytest.mark.parametrize("bits", [np.uint16, np.float32])
def test_other_depths_and_channels(bits: type) -> None:
    own = Scene(np.random.default_rng(0).random((20, 20, 5)).astype(bits), np.zeros((20, 20), dtype=np.uint8))
    picture, _ = random_sample(
        own, CropRecipe(size=(16, 16), short_side=16), [0] * 5, np.random.default_rng(0)
    )
    assert picture.shape == (5, 16, 16) and picture.dtype == (
        torch.uint16 if bits is np.uint16 else torch.float32
    )


@pytest.mark.parametrize(
    ("size", "short", "factor", "expected"),
    [
        ((100, 200), 50, 1.0, (50, 100)),
        ((200, 100), 50, 2.0, (200, 100)),
        ((30, 70), None, 1.0, (30, 70)),
        ((10, 100), 20, 1.0, (8, 80)),  # four times the short side at most
        ((1, 1), 1, 0.1, (1, 1)),
    ],
)
def test_sizes(size: tuple[int, int], short: int | None, factor: float, expected: tuple[int, int]) -> None:
    assert scaled_size(*size, short, factor) == expected
