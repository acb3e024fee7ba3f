"""Patches, target normalisation and position tables against their definitions."""

import pytest
import torch

from unmask.masking import Mask
from unmask.patches import (
    borrow_statistics,
    from_patches,
    normalise_locally,
    normalise_patches,
    sincos_table,
    to_patches,
    visible_statistics,
)


@pytest.mark.parametrize("order", ["p q c", "c p q"])
def test_patches_and_back(order: str) -> None:
    images = torch.randn(2, 4, 12, 20)
    patches = to_patches(images, 4, order)
    assert patches.shape == (2, 15, 64)
    assert torch.equal(from_patches(patches, (3, 5), 4, order), images)


def test_order_of_elements() -> None:
    images = torch.randn(1, 3, 8, 8)
    patches = to_patches(images, 4)
    assert (
        patches[0, 3, (2 * 4 + 1) * 3 + 2] == images[0, 2, 4 + 2, 4 + 1]
    )  # (row * size + column) * channels + channel
    shuffled = torch.nn.functional.pixel_shuffle(
        to_patches(images, 4, "c p q").view(1, 2, 2, 48).permute(0, 3, 1, 2), 4
    )
    assert torch.equal(shuffled, images)


def test_images_must_be_whole_patches() -> None:
    with pytest.raises(ValueError, match="10 x 12 pixels cannot be cut into patches of 4"):
        to_patches(torch.zeros(1, 3, 10, 12), 4)


def test_normalised_patches() -> None:
    patches = torch.randn(2, 5, 48) * 3 + 1
    normalised = normalise_patches(patches)
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(2, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalised.var(-1), torch.ones(2, 5), atol=1e-5, rtol=0)
    # An affine change of brightness and contrast is invisible.
    torch.testing.assert_close(normalise_patches(2 * patches + 5), normalised, atol=1e-5, rtol=0)
    assert (normalise_patches(torch.full((1, 1, 48), 0.7)).abs() < 1e-3).all()


def test_local_normalisation_is_the_window_statistic() -> None:
    images = torch.randn(1, 2, 12, 15)
    result = normalise_locally(images, 5)
    for row, column in ((6, 7), (0, 0), (11, 3)):
        window = images[0, 1, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        expected = (images[0, 1, row, column] - window.mean()) / (window.var() + 1e-6).sqrt()
        torch.testing.assert_close(result[0, 1, row, column], expected)


def test_local_normalisation_of_a_constant_image_is_zero() -> None:
    assert normalise_locally(torch.full((1, 3, 32, 32), 0.7), 15).abs().max() < 1e-4
    with pytest.raises(ValueError, match="odd number"):
        normalise_locally(torch.zeros(1, 3, 32, 32), 4)


def test_sincos_table() -> None:
    table = sincos_table((3, 5), 16, prefix=1)
    assert table.shape == (1, 16, 16)
    assert (table[0, 0] == 0).all()
    torch.testing.assert_close(table[0, 1:].square().sum(1), torch.full((15,), 8.0))  # width / 2
    patch = table[0, 1 + 2 * 5 + 3]  # row 2, column 3
    torch.testing.assert_close(patch[0], torch.tensor(3.0).sin())
    torch.testing.assert_close(patch[4], torch.tensor(3.0).cos())
    torch.testing.assert_close(patch[8], torch.tensor(2.0).sin())
    by_row = sincos_table((3, 5), 16, first="row")
    torch.testing.assert_close(by_row[0, :, :8], table[0, 1:, 8:])
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_table((3, 5), 18)


def test_borrowed_statistics_use_visible_patches_only() -> None:
    hidden = torch.zeros(1, 9, dtype=torch.bool)
    hidden[0, [0, 4]] = True
    mask, patches = Mask.of(hidden, (3, 3), 2), torch.randn(1, 9, 12)
    mean, deviation = borrow_statistics(patches, mask)
    torch.testing.assert_close(mean[0, 8], patches[0, 8].mean().view(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(deviation[0, 8], patches[0, 8].std().view(1), atol=1e-4, rtol=0)
    other = torch.where(hidden[..., None], patches + 100, patches)
    assert torch.equal(borrow_statistics(other, mask)[0], mean)
    # The centre is hidden: four neighbours at distance 1 and three corners at distance sqrt 2.
    weights = torch.tensor([0, 1, 0.5, 1, 0, 1, 0.5, 1, 0.5])
    expected = (weights * patches[0].mean(-1)).sum() / weights.sum()
    torch.testing.assert_close(mean[0, 4, 0], expected, atol=1e-4, rtol=0)


def test_visible_statistics_undo_local_normalisation_where_they_are_known() -> None:
    images = torch.nn.functional.interpolate(torch.randn(2, 3, 3, 3), size=(24, 24), mode="bilinear")
    nothing = torch.zeros(2, 1, 24, 24, dtype=torch.bool)
    mean, deviation = visible_statistics(images, nothing, 5)
    for row, column in ((12, 12), (0, 23)):
        window = images[1, 2, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        torch.testing.assert_close(mean[1, 2, row, column], window.mean())
        expected = (window.var(correction=0) + 1e-6).sqrt()
        torch.testing.assert_close(deviation[1, 2, row, column], expected)
    hidden = nothing.clone()
    hidden[..., 4:14, 4:14] = True
    changed = torch.where(hidden, images + 50, images)
    for before, after in zip(
        visible_statistics(images, hidden, 5), visible_statistics(changed, hidden, 5), strict=True
    ):
        assert torch.equal(before, after)
    mean, _ = visible_statistics(images, hidden, 3)
    seen = images[0, 1][~hidden[0, 0]]
    torch.testing.assert_close(mean[0, 1, 9, 9], seen.mean())  # nothing visible near
