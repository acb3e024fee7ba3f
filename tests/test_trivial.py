"""Guesses that need no learning, computed by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_method
from unmask.masking import Mask
from unmask.methods import Method
from unmask.trivial import COPYING, grey, mean_colour, nearest_pixel, trivial_losses

GRID = (8, 8)


def pictures(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def left_half(batch: int = 3) -> Mask:
    """The left four columns of patches are hidden."""
    hidden = (torch.arange(8) < 4).repeat(8)[None].expand(batch, -1)
    return Mask.of(hidden, GRID, 32)


def test_mean_colour_is_that_of_the_visible_pixels_of_each_image() -> None:
    images, mask = pictures(), left_half()
    guess = mean_colour(images, mask.pixels(8))
    torch.testing.assert_close(guess[:, :, 0, 0], images[:, :, :, 32:].mean((2, 3)))
    assert torch.equal(guess, guess[:, :, :1, :1].expand_as(guess))


def test_nearest_pixel_copies_across_a_straight_edge_and_keeps_what_is_seen() -> None:
    images, mask = pictures(), left_half()
    guess = nearest_pixel(images, mask.pixels(8))
    assert torch.equal(guess[..., 32:], images[..., 32:])
    assert torch.equal(guess[..., :32], images[..., 32:33].expand(-1, -1, -1, 32))


def test_nearest_pixel_is_the_nearest_by_search() -> None:
    images = pictures(2)
    hidden = torch.rand(2, 64, generator=torch.Generator().manual_seed(1)) < 0.7
    covered = Mask.ragged(hidden, GRID).pixels(8)
    guess = nearest_pixel(images, covered)
    for image, filled, where in zip(images, guess, covered[:, 0], strict=True):
        seen = (~where).nonzero().float()
        for row, column in ((0, 0), (17, 40), (63, 5), (31, 32)):
            distances = (seen - torch.tensor([row, column]).float()).norm(dim=1)
            nearest = seen[distances <= distances.min() + 1e-6].long()
            colours = [image[:, r, c] for r, c in nearest.tolist()]
            assert any(torch.equal(filled[:, row, column], colour) for colour in colours)


@pytest.mark.parametrize(("name", "encoder"), [("mae", "vit"), ("simmim", "vit"), ("simmim", "swin")])
def test_the_loss_of_a_perfect_guess_is_zero_and_of_the_own_guess_the_own_loss(
    name: str, encoder: str
) -> None:
    torch.manual_seed(0)
    method, images = tiny_method(name, encoder).eval(), pictures()
    mask = method.draw(images)
    assert method.loss_of(images, images, mask) == 0
    if name == "simmim":  # its target is the picture itself
        with torch.no_grad():
            own = method.reconstruct(images, mask)
            assert own is not None
            loss = method.loss_of(own, images, mask)
            torch.testing.assert_close(loss, method(images, mask=mask)["loss"])


def test_losses_of_mae_by_hand() -> None:
    torch.manual_seed(0)
    method, images = tiny_method("mae", "vit"), pictures()
    mask = method.draw(images)
    # Of patches normalised to variance 1, grey predicts the mean.
    elements = 3 * 8 * 8
    losses = trivial_losses(method, images, mask)
    assert losses["predicting one grey"] == pytest.approx((elements - 1) / elements, rel=1e-4)
    method.pixels = replace(method.pixels, normalised=False)
    hidden = mask.pixels(8).expand_as(images)
    plain = trivial_losses(method, images, mask)
    assert plain["predicting one grey"] == pytest.approx(float(images[hidden].square().mean()), rel=1e-4)
    copied = nearest_pixel(images, mask.pixels(8))
    assert plain[COPYING] == pytest.approx(float((images - copied)[hidden].square().mean()), rel=1e-4)


def test_methods_without_pixels_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    method, images = tiny_method("mae", "vit"), pictures()
    assert method.chance_loss is None
    monkeypatch.setattr(type(method), "loss_of", Method.loss_of)
    assert trivial_losses(method, images, method.draw(images)) == {}


def test_grey_is_the_mean_of_normalised_data() -> None:
    assert not grey(pictures(), left_half().pixels(8)).any()
