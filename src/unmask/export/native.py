"""timm's transformers as transformers' own models: what their options and tensors are called there.

The names are those in the files of the published models of each kind (google/vit-base-patch16-224 and
microsoft's beit-base-patch16-224, swin-tiny-patch4-window7-224, swinv2-tiny-patch4-window8-256), which every
version of transformers has to read, whatever its modules are called inside.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Mlp
from timm.models import beit, vision_transformer
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from unmask.encoders import Encoder
from unmask.export.saved import tensors_of


@dataclass(frozen=True)
class NativeModel:
    """A model of transformers.

    Attributes:
        kind: its `model_type`.
        name: its class.
        options: of its configuration.
        tensors: its weights, by their names in files.
    """

    kind: str
    name: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]


# The only blocks that transformers' models are made of, with a plain MLP inside.
_BLOCKS: dict[type, Any] = {VisionTransformer: vision_transformer.Block, Beit: beit.Block}

# What is called alike in all four; "INSIDE" is the attention proper, which is not.
_RENAMES = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^norm\.", "layernorm."),
    (r"^rel_pos_bias\.", "encoder.relative_position_bias."),
    (r"^blocks\.", "encoder.layer."),
    (r"^layers\.(\d+)\.blocks\.", r"encoder.layers.\1.blocks."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.gamma_([12])$", r".lambda_\1"),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.q_bias$", ".attention.INSIDE.query.bias"),
    (r"\.attn\.v_bias$", ".attention.INSIDE.value.bias"),
    (r"\.attn\.cpb_mlp\.", ".attention.INSIDE.continuous_position_bias_mlp."),
    (r"\.attn\.logit_scale$", ".attention.INSIDE.logit_scale"),
)
_BIAS_TABLE = r"\.attn\.relative_position_bias_table$"
# Constants that both sides compute: indices of relative positions, and the key's bias, which is zero.
_CONSTANT = re.compile(r"(relative_position_index|relative_coords_table|attn\.k_bias|attn_mask)$")


def native_model(encoder: Encoder) -> NativeModel | None:
    """The same network as transformers has it; None for an architecture of which it has no model.

    Options that its model lacks (LayerScale in a ViT, a norm in front) may be lost: the features tell.
    """
    model: Any = encoder.model
    if type(model) in _BLOCKS:
        block = model.blocks[0]
        if type(block) is not _BLOCKS[type(model)] or type(block.mlp) is not Mlp:
            return None
    if type(model) is VisionTransformer and encoder.prefix == 1 and encoder.has_cls:
        options = {**_transformer(encoder), "pooler_act": "linear", "pooler_output_size": encoder.dim}
        tensors = dict(_renamed(model, inside="attention"))
        # Its pooler is a layer on the class token; the identity makes it hand over the token itself.
        tensors["pooler.dense.weight"] = torch.eye(encoder.dim)
        tensors["pooler.dense.bias"] = torch.zeros(encoder.dim)
        return NativeModel("vit", "ViTModel", options, tensors)
    if type(model) is Beit and encoder.grid[0] == encoder.grid[1]:  # it mixes up the sides of a rectangle
        bias_table = ".attention.attention.relative_position_bias.relative_position_bias_table"
        tensors = dict(_renamed(model, inside="attention", bias_table=bias_table))
        return NativeModel("beit", "BeitModel", _beit(encoder), tensors)
    if type(model) is SwinTransformer and len(set(_windows(model))) == 1:  # each has a table of that size
        bias_table = ".attention.self.relative_position_bias_table"
        tensors = dict(_renamed(model, inside="self", bias_table=bias_table))
        return NativeModel("swin", "SwinModel", _swin(encoder), tensors)
    if type(model) is SwinTransformerV2:
        tensors = dict(_renamed(model, inside="self"))
        sizes = encoder.architecture.get("pretrained_window_sizes", (0,) * encoder.depth)
        options = {**_swin(encoder), "pretrained_window_sizes": list(sizes)}
        return NativeModel("swinv2", "Swinv2Model", options, tensors)
    return None


def _renamed(model: Any, *, inside: str, bias_table: str = "") -> Iterator[tuple[str, Tensor]]:
    """All weights by their new names.

    Args:
        inside: what the attention proper is called.
        bias_table: where a block has its own table of relative positions.
    """
    for name, tensor in tensors_of(model).items():
        if _CONSTANT.search(name):
            continue
        name = re.sub(_BIAS_TABLE, bias_table, name)
        # timm merges patches at the start of a stage, transformers at the end of the one before.
        name = re.sub(
            r"^layers\.(\d+)\.downsample\.",
            lambda found: f"encoder.layers.{int(found[1]) - 1}.downsample.",
            name,
        )
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement.replace("INSIDE", inside), name)
        merged = re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", name)
        if merged is None:
            yield name, tensor
            continue
        for part, own in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            yield f"{merged[1]}.attention.{inside}.{part}.{merged[2]}", own.clone()


def _common(encoder: Encoder) -> dict[str, Any]:
    height, width = encoder.image_size
    model: Any = encoder.model
    return {
        "image_size": height if height == width else [height, width],
        "patch_size": encoder.patch_size,
        "num_channels": encoder.channels,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model.norm.eps,
    }


def _transformer(encoder: Encoder) -> dict[str, Any]:
    model: Any = encoder.model
    block = model.blocks[0]
    return {
        **_common(encoder),
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
    }


def _beit(encoder: Encoder) -> dict[str, Any]:
    model: Any = encoder.model
    block = model.blocks[0]
    return {
        **_transformer(encoder),
        "use_mask_token": False,
        "use_absolute_position_embeddings": model.pos_embed is not None,
        "use_relative_position_bias": block.attn.relative_position_bias_table is not None,
        "use_shared_relative_position_bias": model.rel_pos_bias is not None,
        "layer_scale_init_value": 0.0 if block.gamma_1 is None else 0.1,  # whether there is one
        "drop_path_rate": 0.0,
        "use_mean_pooling": False,  # else the norm sees only the mean
    }


def _windows(model: Any) -> list[int]:
    """Sides of the window in each stage, which is smaller where the stage is."""
    return [side for stage in model.layers for side in stage.blocks[0].window_size]


def _swin(encoder: Encoder) -> dict[str, Any]:
    model: Any = encoder.model
    blocks = [stage.blocks[0] for stage in model.layers]
    return {
        **_common(encoder),
        "embed_dim": encoder.token_dim,
        "depths": [len(stage.blocks) for stage in model.layers],
        "num_heads": [block.attn.num_heads for block in blocks],
        "window_size": max(_windows(model)),  # a stage that is smaller is one window
        "mlp_ratio": blocks[0].mlp.fc1.out_features / blocks[0].mlp.fc1.in_features,
        "use_absolute_embeddings": False,
        "drop_path_rate": 0.0,
    }
