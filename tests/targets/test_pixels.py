"""Pixels at any resolution, and their losses."""

import pytest
import torch

from unmask.masking import Mask
from unmask.targets import Cells, Pixels


def checker(grid: tuple[int, int] = (4, 4)) -> Mask:
    """Left column and one patch of the second hidden."""
    hidden = torch.zeros(1, *grid, dtype=torch.bool)
    hidden[:, :, 0] = True
    hidden[:, 0, 1] = True
    return Mask.of(hidden.flatten(1), grid, grid[0] + 1)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_a_cell_has_the_mean_colour_of_its_pixels(size: int) -> None:
    images = torch.randn(2, 3, 16, 16)
    means = Cells(size, patch_size=4).colours(images)
    assert means.shape == (2, 3, 16 // size, 16 // size)
    torch.testing.assert_close(means[1, 2, 0, -1], images[1, 2, :size, -size:].mean())


def test_of_a_cell_that_is_partly_hidden_only_hidden_pixels_count() -> None:
    images, mask = torch.randn(1, 3, 16, 16), checker()
    means = Cells(8, patch_size=4).colours(images, mask)
    seen = mask.pixels(4)[0, 0, :8, :8].expand(3, 8, 8)  # three of four patches
    torch.testing.assert_close(means[0, :, 0, 0], images[0, :, :8, :8][seen].view(3, -1).mean(1))
    assert not means[..., 1].any()  # nothing hidden there
    altered = torch.where(mask.pixels(4), images, 9.0)
    torch.testing.assert_close(Cells(8, patch_size=4).colours(altered, mask), means)


def test_a_cell_counts_by_how_much_of_it_is_hidden() -> None:
    """3 hidden patches in the upper left cell, 2 in the lower left one."""
    error = torch.tensor([[5.0, 100.0], [10.0, 100.0]]).view(1, 1, 2, 2)
    mask = checker()
    torch.testing.assert_close(
        mask.mean(Cells(8, patch_size=4).per_patch(error)), torch.tensor((3 * 5.0 + 2 * 10.0) / 5)
    )


def test_patches_average_over_their_cells() -> None:
    error = torch.randn(2, 3, 8, 8)
    per_patch = Cells(2, patch_size=4).per_patch(error)
    assert per_patch.shape == (2, 16)
    torch.testing.assert_close(per_patch[1, 5], error[1, :, 2:4, 2:4].mean())


def test_enlarging_is_undone_by_averaging() -> None:
    colours = torch.randn(2, 3, 4, 6)
    for size in (1, 2, 8):
        cells = Cells(size, patch_size=4)
        assert cells.enlarge(colours).shape == (2, 3, 4 * size, 6 * size)
        torch.testing.assert_close(cells.colours(cells.enlarge(colours)), colours)


@pytest.mark.parametrize(("size", "patch_size"), [(0, 4), (3, 4), (6, 4)])
def test_cells_and_patches_must_nest(size: int, patch_size: int) -> None:
    with pytest.raises(ValueError, match="neither tile patches"):
        Cells(size, patch_size)


def test_losses() -> None:
    prediction, target = torch.tensor([0.0, 0.5, 3.0]), torch.tensor([0.0, 0.0, 1.0])
    expected = {"l1": [0.0, 0.5, 2.0], "l2": [0.0, 0.25, 4.0], "smooth_l1": [0.0, 0.125, 1.5]}
    for loss, values in expected.items():
        pixels = Pixels(3, loss=loss)
        error = pixels.error(prediction.view(1, 3, 1, 1), target.view(1, 3, 1, 1))
        assert error.flatten().tolist() == values
    assert pixels.outputs == 3 and pixels.chance_loss is None
