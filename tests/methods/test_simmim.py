"""What is true of SimMIM alone."""

import torch

from tests.tiny import tiny_encoder
from unmask.methods import SimMIM


def test_mask_token_is_drawn_as_the_official_code_does() -> None:
    torch.manual_seed(0)
    drawn = {
        name: torch.cat([SimMIM(tiny_encoder(name), mask_size=16).token.flatten() for _ in range(40)])
        for name in ("swin", "beit_shared")
    }
    assert abs(drawn["swin"].std() - 0.02) < 0.003 and drawn["swin"].abs().max() > 0.02
    assert abs(drawn["beit_shared"].std() - 0.0108) < 0.001 and drawn["beit_shared"].abs().max() <= 0.02


def test_loss_is_the_mean_error_of_hidden_pixels() -> None:
    method = SimMIM(tiny_encoder("swin"), mask_size=16)
    images = torch.randn(3, 3, 64, 64)
    mask = method.draw(images)
    hidden = mask.pixels(4).expand_as(images)
    error = (method.reconstruct(images, mask) - images).abs()[hidden].mean()
    torch.testing.assert_close(method(images, mask=mask)["loss"], error)


def test_reconstruction_of_locally_normalised_targets_restores_colours() -> None:
    """A perfect prediction of a flat coloured image is that image."""
    method = SimMIM(tiny_encoder("vit"), mask_size=8, local_window=15)
    torch.nn.init.zeros_(method.head.weight)
    torch.nn.init.zeros_(method.head.bias)
    images = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    mask = method.draw(images)
    torch.testing.assert_close(method.reconstruct(images, mask), images)
