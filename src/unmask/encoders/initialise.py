"""Initial weights as the papers' code draws them, where they differ from timm's."""

import math

import torch
from torch import nn
from torch.nn.init import normal_, trunc_normal_, xavier_uniform_, zeros_

from unmask.encoders.base import Encoder
from unmask.encoders.vit import BeitEncoder, ViTEncoder


def xavier_linear(module: nn.Module) -> None:
    """MAE: Xavier-uniform matrices, biases 0, norms 1 and 0; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        xavier_uniform_(module.weight)
        if module.bias is not None:
            zeros_(module.bias)


def normal_linear(module: nn.Module) -> None:
    """HiViT and iTPN: matrices normal(.02), biases 0; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            zeros_(module.bias)


def initialise_mae(encoder: ViTEncoder) -> None:
    """MAE (He et al. 2022, code): Xavier-uniform everywhere, the patch embedding seen as one matrix; tokens
    normal(.02).

    The patch embedding's bias keeps PyTorch's default.
    """
    model = encoder.model
    model.apply(xavier_linear)
    projection = model.patch_embed.proj.weight.data
    xavier_uniform_(projection.view(projection.shape[0], -1))
    for token in (model.cls_token, model.reg_token):
        if token is not None:
            normal_(token, std=0.02)


def initialise_beit(encoder: BeitEncoder) -> None:
    """BEiT and SimMIM's ViT (pre-training code): normal(.02) cut off at one standard deviation; the output
    matrices of block i divided by sqrt(2 i), i from 1 (Bao et al. 2022, section 2.5).
    """
    model = encoder.model
    model.apply(narrow_linear)
    narrow_normal_(model.cls_token)
    for number, block in enumerate(model.blocks, start=1):
        shrink_outputs(block, number)


def narrow_linear(module: nn.Module) -> None:
    """BEiT: matrices normal(.02) cut off at one standard deviation, biases 0; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        narrow_normal_(module.weight)
        if module.bias is not None:
            zeros_(module.bias)


def shrink_outputs(block: nn.Module, number: int) -> None:
    """BEiT: the output matrices of the block of this number, from 1, divided by sqrt(2 number)."""
    for matrix in (block.attn.proj.weight, block.mlp.fc2.weight):
        matrix.data.div_(math.sqrt(2 * number))


def narrow_normal_(parameter: nn.Parameter, std: float = 0.02) -> None:
    """Normal cut off at one standard deviation, in place: its own standard deviation is 0.54 * std."""
    trunc_normal_(parameter, std=std, a=-std, b=std)


def initialise_token(token: nn.Parameter, encoder: Encoder) -> None:
    """A token for what is hidden, drawn like the encoder's own, in place: in BEiT's style cut off at one
    standard deviation, else plain normal(.02), as SimMIM's Swin."""
    if isinstance(encoder, BeitEncoder):
        narrow_normal_(token)
    else:
        trunc_normal_(token, std=0.02)


def mask_token(encoder: Encoder) -> nn.Parameter:
    """What replaces the embedding of a hidden patch, [1, 1, E]."""
    token = nn.Parameter(torch.zeros(1, 1, encoder.token_dim))
    initialise_token(token, encoder)
    return token


def initialise(encoder: Encoder, scheme: str) -> None:
    """Draw the encoder's weights anew by "mae", "beit", or "cae": BEiT's, but for MAE's linear layers."""
    if scheme == "mae" and isinstance(encoder, ViTEncoder):
        initialise_mae(encoder)
    elif scheme == "beit" and isinstance(encoder, BeitEncoder):
        initialise_beit(encoder)
    elif scheme == "cae" and isinstance(encoder, BeitEncoder):
        initialise_beit(encoder)
        encoder.model.apply(xavier_linear)
    else:
        raise ValueError(
            f"encoder.init={scheme} does not go with a {type(encoder.model).__name__}: 'mae' is for plain "
            "ViTs, 'beit' and 'cae' for BEiT-style ones. Leave it out for timm's own initialisation."
        )
