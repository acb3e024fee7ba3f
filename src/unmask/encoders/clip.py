"""CLIP's visual tower as a ViT of timm: names and sizes.

The layout is that of OpenAI's CLIP (Radford et al. 2021, arXiv 2103.00020), which OpenCLIP shares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unmask.encoders import Encoder, create_encoder

PREFIX = "visual."  # of the tower in a whole CLIP
PROJECTION = "proj"  # [D, E], multiplied from the right; no part of the tower in timm's sense
HEAD_WIDTH = 64  # in all of OpenAI's towers

_NAMES = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1": "patch_embed.proj",
    "ln_pre": "norm_pre",
    "ln_post": "norm",
}
_BLOCK_NAMES = {
    "ln_1": "norm1",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCKS = "transformer.resblocks."
# Of timm's names: width, blocks, heads.
_SIZES = {
    ("base", 16): (768, 12, 12),
    ("base", 32): (768, 12, 12),
    ("large", 14): (1024, 24, 16),
    ("huge", 14): (1280, 32, 16),
}


def clip_name(official: str) -> str:
    """The name in timm's ViT of a tensor of the tower, whose own name may begin with "visual."."""
    name = official.removeprefix(PREFIX)
    if name.startswith(_BLOCKS):
        index, _, rest = name.removeprefix(_BLOCKS).partition(".")
        for theirs, ours in _BLOCK_NAMES.items():
            if rest.startswith(theirs):
                return f"blocks.{index}.{ours}{rest.removeprefix(theirs)}"
    part, dot, rest = name.partition(".")
    return f"{_NAMES.get(part, part)}{dot}{rest}"


def is_clip(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a whole CLIP with a ViT, or of such a tower alone."""
    needed = {"class_embedding", "positional_embedding", "conv1.weight", "ln_post.weight"}
    return needed <= tower_of(weights).keys()


def tower_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The visual tower of a whole CLIP, in float32; of a tower alone all of it. By official names without the
    prefix."""
    inside = any(name.startswith(PREFIX) for name in weights)
    return {
        name.removeprefix(PREFIX): tensor.float()
        for name, tensor in weights.items()
        if name.startswith(PREFIX) or not inside
    }


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """What builds the tower, by `create_encoder(name, image_size=..., channels=..., **options)`.

    Attributes:
        options: those in which it differs from timm's model of that name.
    """

    name: str
    options: dict[str, Any]
    image_size: tuple[int, int]
    channels: int


def clip_shape(
    tower: Mapping[str, Tensor], *, heads: int | None = None, quick_gelu: bool = True
) -> ClipShape:
    """The sizes of a tower from its weights.

    Args:
        tower: of `tower_of`.
        heads: attention heads; None is one for every 64 channels.
        quick_gelu: its activation is x * sigmoid(1.702 x), as OpenAI's, and not the exact GELU.

    Raises:
        ValueError: a table of positions that is for no square image.
    """
    width, channels, patch, _ = tower["conv1.weight"].shape
    depth = len({name.split(".")[2] for name in tower if name.startswith(_BLOCKS)})
    places = tower["positional_embedding"].shape[0] - 1
    side = round(places**0.5)
    if side**2 != places:
        raise ValueError(f"its table of {places} positions is for no square image")
    size, known = min(_SIZES, key=lambda one: (one[1] != patch, abs(_SIZES[one][0] - width)))
    ratio = tower[f"{_BLOCKS}0.mlp.c_fc.weight"].shape[0] / width
    own = (patch, width, depth, heads or max(1, width // HEAD_WIDTH), ratio)
    usual = (known, *_SIZES[size, known], 4.0)
    options = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
    return ClipShape(
        name=f"vit_{size}_patch{known}_clip_{'quickgelu_' if quick_gelu else ''}224",
        options={key: mine for key, mine, its in zip(options, own, usual, strict=True) if mine != its},
        image_size=(side * patch, side * patch),
        channels=channels,
    )


def clip_encoder(
    weights: Mapping[str, Tensor], *, heads: int | None = None, quick_gelu: bool = True
) -> tuple[Encoder, nn.Linear | None]:
    """The tower with its weights, and its projection if there is one.

    Args:
        weights: of the tower or of a whole CLIP, by official names.
        heads: as in `clip_shape`.
        quick_gelu: likewise.

    Raises:
        ValueError: other parts than a tower like OpenAI's has.
    """
    tower = tower_of(weights)
    matrix = tower.pop(PROJECTION, None)
    try:
        shape = clip_shape(tower, heads=heads, quick_gelu=quick_gelu)
        encoder = create_encoder(
            shape.name, image_size=shape.image_size, channels=shape.channels, **shape.options
        )
        places = encoder.model.state_dict()
        renamed = {clip_name(name): tensor for name, tensor in tower.items()}
        encoder.model.load_state_dict(
            {name: tensor.reshape(places[name].shape) for name, tensor in renamed.items()}, strict=True
        )
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"it is no ViT like OpenAI's: {error}") from error
    return encoder.eval(), None if matrix is None else _linear(matrix)


def _linear(matrix: Tensor) -> nn.Linear:
    """A matrix [D, E] that is multiplied from the right, as a layer."""
    inputs, outputs = matrix.shape
    layer = nn.Linear(inputs, outputs, bias=False)
    layer.weight.data = matrix.T.contiguous()
    return layer
