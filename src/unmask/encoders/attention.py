"""Where the last block of a transformer looks."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.encoders.base import Encoder
from unmask.encoders.hivit_encoder import HiViTEncoder
from unmask.encoders.vit import BeitEncoder, EvaEncoder, ViTEncoder

ATTENDING = (ViTEncoder, EvaEncoder, BeitEncoder, HiViTEncoder)


@torch.no_grad()
def last_attention(encoder: Encoder, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N N"]:
    """How much patches look at each other in the last block: rows are who looks, the mean of the heads.

    Fused kernels keep their weights to themselves, so this one block computes its softmax in plain sight.
    What a patch gives to class token and registers is left out: a row sums up to at most 1.

    Args:
        encoder: in evaluation mode.

    Raises:
        ValueError: an encoder without attention between all patches.
    """
    model: Any = encoder.model
    if not isinstance(encoder, ATTENDING) or not encoder.depth:
        raise ValueError(
            f"a {type(model).__name__} has no attention between all patches; possible are plain ViTs, BEiT, "
            "EVA, HiViT and Fast-iTPN"
        )
    attention = model.blocks[-1].attn
    caught: list[Tensor] = []
    # timm's blocks, and ours, hand the weights to their dropout, which passes them on in evaluation.
    hook = attention.attn_drop.register_forward_hook(lambda _module, _inputs, weights: caught.append(weights))
    fused = attention.fused_attn
    attention.fused_attn = False
    try:
        encoder(images)
    finally:
        attention.fused_attn = fused
        hook.remove()
    return caught[0].float().mean(1)[:, encoder.prefix :, encoder.prefix :]
