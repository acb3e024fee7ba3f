"""Attention of the last block: weights that give the block's own output, of every family that attends."""

import pytest
import torch
from einops import rearrange

from tests.tiny import tiny_encoder
from unmask.encoders.attention import last_attention
from unmask.targets.teachers.encoders import attention_of

FAMILIES = (
    "vit",
    "vit_registers",
    "rope_axial",
    "rope_mixed",
    "dinov3",
    "eva02",
    "beit_shared",
    "beit_each_block",
    "hivit",
    "hivit_bias",
    "fast_itpn",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_shares_and_the_encoder_stays_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    encoder, images = tiny_encoder(name, image_size=(64, 96)).eval(), torch.randn(2, 3, 64, 96)
    before, fused = encoder(images).patches, encoder.model.blocks[-1].attn.fused_attn
    weights = last_attention(encoder, images)
    places = encoder.grid[0] * encoder.grid[1]
    assert weights.shape == (2, places, places) and (weights > 0).all() and not weights.requires_grad
    sums = weights.sum(-1)
    assert (sums < 1).all() if encoder.prefix else torch.allclose(sums, torch.ones_like(sums))
    assert encoder.model.blocks[-1].attn.fused_attn == fused
    assert torch.equal(encoder(images).patches, before)


def test_a_vits_weights_are_those_computed_by_hand() -> None:
    torch.manual_seed(0)
    encoder, images = tiny_encoder("vit_registers").eval(), torch.randn(2, 3, 64, 64)
    tokens = encoder(images, take=(-2,)).taps[0]
    expected = attention_of(encoder.model.blocks[-1], tokens, queries=tokens.shape[1])
    kept = expected[:, encoder.prefix :, encoder.prefix :]
    torch.testing.assert_close(last_attention(encoder, images), kept)


def test_a_hivits_weights_make_its_output_with_relative_positions() -> None:
    """Weights of one head, times its values, are what the block's fused kernel gives."""
    torch.manual_seed(0)
    encoder, images = tiny_encoder("hivit_bias").eval(), torch.randn(1, 3, 64, 64)
    block = encoder.model.blocks[-1]
    attention = block.attn
    attention.heads = 1  # so that the mean of the heads is the head
    attention.relative_position_bias_table = torch.nn.Parameter(torch.randn(49, 1))
    weights = last_attention(encoder, images)
    x = block.norm1(encoder(images, take=(-2,)).taps[0])
    value = rearrange(attention.qkv(x), "b n (three d) -> three b n d", three=3)[2]
    torch.testing.assert_close(attention.proj(weights @ value), attention(x, encoder.model.positions))


def test_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="SwinTransformer has no attention between all patches"):
        last_attention(tiny_encoder("swin").eval(), torch.randn(1, 3, 64, 64))
