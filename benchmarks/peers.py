"""The training steps that are compared: ours, and the same objective in other libraries at the same sizes.

Each builder returns a `Contender`, or says why there is none (`Missing`): a library is not installed, or has
no such model.
"""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unmask.encoders.base import Encoder
from unmask.encoders.swin import SwinEncoder
from unmask.encoders.vit import ViTEncoder
from unmask.engine.machine import attention
from unmask.methods.base import Method
from unmask.methods.mae import MAE
from unmask.methods.simmim import SimMIM

Loss = Callable[[nn.Module, Tensor], Tensor]


class Missing(Exception):
    """A library that cannot take part, and why."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model and how its loss is computed from a batch.

    Attributes:
        around: what a step is computed in, beside autocast.
    """

    name: str
    model: nn.Module
    loss: Loss
    around: Callable[[], AbstractContextManager[None]] = nullcontext


def ours(method: Method, device: torch.device, precision: str) -> Contender:
    """Our method, in the attention kernel that the engine chooses."""
    return Contender(
        name="unmask",
        model=method,
        loss=lambda model, images: model(images)["loss"],
        around=lambda: attention(device, precision),
    )


def transformers(method: Method) -> Contender:
    """Hugging Face's ViTMAEForPreTraining, ViTForMaskedImageModeling or SwinForMaskedImageModeling."""
    _require("transformers")
    if isinstance(method, MAE):
        return _transformers_mae(method)
    if not isinstance(method, SimMIM):
        raise Missing(f"transformers has no {type(method).__name__}")
    encoder = method.encoder
    if isinstance(encoder, ViTEncoder):
        model, name = _transformers_vit(encoder), "ViTForMaskedImageModeling"
    elif isinstance(encoder, SwinEncoder):
        model, name = _transformers_swin(encoder), "SwinForMaskedImageModeling"
    else:
        raise Missing(f"transformers has no SimMIM with a {type(encoder.model).__name__}")

    def loss(model: nn.Module, images: Tensor) -> Tensor:
        # It leaves the drawing to its caller: the same sampler as ours.
        hidden = method.masking(len(images), encoder.grid, images.device).hidden
        return model(pixel_values=images, bool_masked_pos=hidden).loss

    return Contender(name=f"transformers {name}", model=model, loss=loss)


def lightly(method: Method) -> Contender:
    """Lightly's MAE: its masked timm ViT, its decoder, the loss of its example."""
    _require("lightly")
    if not isinstance(method, MAE) or not isinstance(method.encoder, ViTEncoder):
        raise Missing("lightly has MAE with a plain ViT only")
    return Contender(name="lightly MAE", model=_LightlyMAE(method), loss=lambda model, images: model(images))


PEERS: dict[str, Callable[[Method], Contender]] = {"transformers": transformers, "lightly": lightly}


def _require(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed (pip install {name})")


def _vit_sizes(encoder: Encoder) -> dict[str, Any]:
    """What a ViT of transformers is built from."""
    block = encoder.model.blocks[0]
    return {
        "image_size": list(encoder.image_size),
        "patch_size": encoder.patch_size,
        "num_channels": encoder.channels,
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
    }


def _transformers_mae(method: MAE) -> Contender:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    if not isinstance(method.encoder, ViTEncoder):
        raise Missing("transformers has MAE with a plain ViT only")
    block = method.decoder.blocks[0]
    config = ViTMAEConfig(
        **_vit_sizes(method.encoder),
        decoder_hidden_size=method.head.in_features,
        decoder_num_hidden_layers=len(method.decoder.blocks),
        decoder_num_attention_heads=block.attn.num_heads,
        decoder_intermediate_size=block.mlp.fc1.out_features,
        mask_ratio=method.masking.ratio,
        norm_pix_loss=method.pixels.normalised,
    )
    return Contender(
        name="transformers ViTMAEForPreTraining",
        model=ViTMAEForPreTraining(config),
        loss=lambda model, images: model(pixel_values=images).loss,
    )


def _transformers_vit(encoder: ViTEncoder) -> nn.Module:
    from transformers import ViTConfig, ViTForMaskedImageModeling

    sizes = _vit_sizes(encoder) | {"image_size": _side(encoder)}
    return ViTForMaskedImageModeling(ViTConfig(**sizes, encoder_stride=encoder.stride))


def _transformers_swin(encoder: SwinEncoder) -> nn.Module:
    from transformers import SwinConfig, SwinForMaskedImageModeling

    stages = encoder.model.layers
    config = SwinConfig(
        image_size=_side(encoder),
        patch_size=encoder.patch_size,
        num_channels=encoder.channels,
        embed_dim=encoder.token_dim,
        depths=[len(stage.blocks) for stage in stages],
        num_heads=[stage.blocks[0].attn.num_heads for stage in stages],
        window_size=stages[0].blocks[0].window_size[0],
        drop_path_rate=0.0,
        encoder_stride=encoder.stride,
    )
    return SwinForMaskedImageModeling(config)


def _side(encoder: Encoder) -> int:
    height, width = encoder.image_size
    if height != width:
        raise Missing("transformers' masked image modelling takes square images only")
    return height


class _LightlyMAE(nn.Module):
    def __init__(self, method: MAE) -> None:
        super().__init__()
        import timm
        from lightly.models import utils
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        self.utils, self.ratio, self.patch_size = utils, method.masking.ratio, method.encoder.patch_size
        self.norm_target = method.pixels.normalised
        encoder = timm.create_model(**method.encoder.architecture)
        self.backbone = MaskedVisionTransformerTIMM(vit=encoder)
        self.sequence_length = self.backbone.sequence_length
        self.decoder = MAEDecoderTIMM(
            num_patches=encoder.patch_embed.num_patches,
            patch_size=self.patch_size,
            in_chans=method.encoder.channels,
            embed_dim=method.encoder.dim,
            decoder_embed_dim=method.head.in_features,
            decoder_depth=len(method.decoder.blocks),
            decoder_num_heads=method.decoder.blocks[0].attn.num_heads,
            mlp_ratio=4.0,
        )

    def forward(self, images: Tensor) -> Tensor:
        keep, masked = self.utils.random_token_mask(
            size=(len(images), self.sequence_length), mask_ratio=self.ratio, device=images.device
        )
        encoded = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        tokens = self.utils.repeat_token(self.decoder.mask_token, (len(images), self.sequence_length))
        tokens = self.utils.set_at_index(tokens, keep, encoded.type_as(tokens))
        decoded = self.decoder.decode(tokens)
        prediction = self.decoder.predict(self.utils.get_at_index(decoded, masked))
        patches = self.utils.patchify(images, self.patch_size)
        if self.norm_target:
            patches = self.utils.normalize_mean_var(patches)
        # The class token is not a patch.
        target = self.utils.get_at_index(patches, masked - 1)
        return (prediction.float() - target).square().mean()
