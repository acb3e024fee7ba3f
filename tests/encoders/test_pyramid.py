"""What every encoder has for dense tasks."""

import pytest
import torch
from einops import rearrange

from tests.tiny import ENCODERS, tiny_encoder
from unmask.encoders.vit import quarters

SIZE = (64, 96)
every_encoder = pytest.mark.parametrize("name", ENCODERS)


@every_encoder
def test_strides_and_widths_are_as_announced(name: str) -> None:
    encoder = tiny_encoder(name, image_size=SIZE, channels=2).eval()
    maps = encoder.pyramid(torch.randn(3, 2, *SIZE))
    expected = [
        (3, dim, SIZE[0] // stride, SIZE[1] // stride)
        for dim, stride in zip(encoder.pyramid_dims, encoder.pyramid_strides, strict=True)
    ]
    assert [tuple(one.shape) for one in maps] == expected
    assert list(encoder.pyramid_strides) == sorted(encoder.pyramid_strides)


@every_encoder
def test_the_last_map_is_what_features_show(name: str) -> None:
    encoder, images = tiny_encoder(name, image_size=SIZE).eval(), torch.randn(2, 3, *SIZE)
    last = rearrange(encoder.pyramid(images)[-1], "b d h w -> b (h w) d")
    torch.testing.assert_close(last, encoder(images).patches, rtol=0, atol=0)


@every_encoder
def test_every_weight_learns(name: str) -> None:
    """All of them, also those on which the last map alone does not depend."""
    encoder = tiny_encoder(name, image_size=SIZE)
    for parameter in encoder.parameters():  # SwinV2's blocks, say, start as the identity
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    sum((one * torch.randn_like(one)).sum() for one in encoder.pyramid(torch.randn(2, 3, *SIZE))).backward()
    learned = {key: one.grad for key, one in encoder.named_parameters() if one.requires_grad}
    assert [key for key, gradient in learned.items() if gradient is None or not gradient.any()] == []


@pytest.mark.parametrize(
    ("depth", "blocks"), [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (2, (0, 0, 1, 1)), (1, (0, 0, 0, 0))]
)
def test_a_plain_vit_shows_every_quarter(depth: int, blocks: tuple[int, ...]) -> None:
    assert quarters(depth) == blocks


def test_maps_of_a_plain_vit_are_states_after_the_final_norm() -> None:
    encoder, images = tiny_encoder("vit_registers").eval(), torch.randn(1, 3, 64, 64)
    first, second, _, _ = encoder.pyramid(images)
    state = encoder(images, take=(0,)).taps[0]
    expected = rearrange(encoder.model.norm(state[:, 4:]), "b (h w) d -> b d h w", h=8)
    assert torch.equal(first, expected) and torch.equal(second, expected)  # of two blocks, a half is one


@pytest.mark.parametrize("name", ["vit", "beit_shared", "swin", "hivit", "revcolv2"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    encoder, images = tiny_encoder(name).train(), torch.randn(2, 3, 64, 64)
    found = []
    for checkpointing in (False, True):
        encoder.zero_grad()
        encoder.checkpointing = checkpointing
        sum(one.square().mean() for one in encoder.pyramid(images)).backward()
        found.append([one.grad.clone() for one in encoder.parameters() if one.grad is not None])
    torch.testing.assert_close(*found)
