"""The architecture of an encoder from the shapes of its weights."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmask.patches import sincos_table
from unmask.recipes.base import Choice

Weights = Mapping[str, Tensor]

# timm's names of the usual sizes. What a file has otherwise is written out as options.
_VITS = {
    f"vit_{size}_patch{patch}_224": {
        "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads
    }
    for size, patch, width, depth, heads in (
        ("base", 16, 768, 12, 12),
        ("large", 16, 1024, 24, 16),
        ("huge", 14, 1280, 32, 16),
        ("small", 16, 384, 12, 6),
        ("tiny", 16, 192, 12, 3),
    )
}  # fmt: skip
_BEITS = {
    name: {**_VITS[name.replace("beit", "vit")], "init_values": scale}
    for name, scale in (("beit_base_patch16_224", 0.1), ("beit_large_patch16_224", 1e-5))
}
_SWIN_SIZES = {
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def _swins(names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"patch_size": 4, "embed_dim": width, "depths": list(depths), "num_heads": list(heads)}
        for size, name in names.items()
        for width, depths, heads in [_SWIN_SIZES[size]]
    }


_SWIN1S = _swins({size: f"swin_{size}_patch4_window7_224" for size in _SWIN_SIZES})
_SWIN2S = _swins(
    {
        "base": "swinv2_base_window12_192",
        "tiny": "swinv2_tiny_window8_256",
        "small": "swinv2_small_window8_256",
        "large": "swinv2_large_window12_192",
    }
)
_ALIKE = {"mlp_ratio": 4.0, "qkv_bias": True}  # in all of these
_HEADS = {sizes["embed_dim"]: sizes["num_heads"] for sizes in _VITS.values()}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An encoder as far as its weights tell.

    Attributes:
        encoder: timm's name and the options in which it differs.
        family: what to call it.
        image_size: height and width in pixels.
        guessed: setting -> why, of what the weights do not tell.
    """

    encoder: Choice
    family: str
    image_size: tuple[int, int]
    channels: int
    guessed: Mapping[str, str] = field(default_factory=dict)


def shape_of(weights: Weights) -> Shape | None:
    """The encoder of weights in timm's or the official names; None if it is none that is known."""
    if "patch_embed.proj.weight" not in weights or weights["patch_embed.proj.weight"].dim() != 4:
        return None
    if "layers.0.blocks.0.attn.logit_scale" in weights:
        return _swin(weights, version=2)
    if "layers.0.blocks.0.attn.relative_position_bias_table" in weights:
        return _swin(weights, version=1)
    if {"blocks.0.attn.q_bias", "cls_token"} <= weights.keys():
        return _beit(weights)
    if {"pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"} <= weights.keys():
        return _vit(weights)
    return None


def count(names: Iterable[str], prefix: str) -> int:
    """Modules of a list: "blocks." has as many as there are numbers behind it."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names)
    return len({match[1] for match in found if match})


def _vit(weights: Weights) -> Shape:
    own, guessed = _transformer(weights)
    own["qkv_bias"] = "blocks.0.attn.qkv.bias" in weights
    prefix = int("cls_token" in weights)
    if not prefix:
        own["class_token"] = False
    positions = weights["pos_embed"]
    side = side_of(positions.shape[1] - prefix, "its position table")
    if _is_sincos(positions, side, prefix=prefix):
        own |= {"position": "sincos", "init": "mae"}
    image_size = (side * own["patch_size"],) * 2
    encoder = nearest(_VITS, own)
    return Shape(
        encoder=encoder, family="ViT", image_size=image_size, channels=_channels(weights), guessed=guessed
    )


def _beit(weights: Weights) -> Shape:
    own, guessed = _transformer(weights)
    own["init_values"] = (0.1 if own["embed_dim"] <= 768 else 1e-5) if "blocks.0.gamma_1" in weights else None
    shared, each = "rel_pos_bias.relative_position_bias_table", "blocks.0.attn.relative_position_bias_table"
    table = weights.get(shared, weights.get(each))
    if table is not None:
        own["num_heads"], guessed = table.shape[1], {}
        # Three rows are for the class token; of the others a square has (2 side - 1)^2.
        side = (side_of(table.shape[0] - 3, "its table of relative positions") + 1) // 2
    elif "pos_embed" in weights:
        side = side_of(weights["pos_embed"].shape[1] - 1, "its position table")
    else:
        raise ValueError("it has no positions of any kind, from which its image size would follow")
    own |= {
        "init": "beit",
        "use_abs_pos_emb": "pos_embed" in weights,
        "use_rel_pos_bias": each in weights,
        "use_shared_rel_pos_bias": shared in weights,
    }
    if table is None and _is_sincos(weights["pos_embed"], side, prefix=1):
        own |= {"position": "sincos", "init": "cae"}
    image_size = (side * own["patch_size"],) * 2
    encoder = nearest(_BEITS, own)
    return Shape(
        encoder=encoder, family="BEiT", image_size=image_size, channels=_channels(weights), guessed=guessed
    )


def _is_sincos(positions: Tensor, side: int, *, prefix: int) -> bool:
    """Whether a table of positions is a fixed one, of which there are two orders."""
    width = positions.shape[-1]
    tables = (
        sincos_table((side, side), width, prefix=prefix, first=first)
        for first in ("column", "row")
        if width % 4 == 0
    )
    return any(torch.allclose(positions.float(), table, rtol=0, atol=1e-5) for table in tables)


def _transformer(weights: Weights) -> tuple[dict[str, Any], dict[str, str]]:
    """Options that all ViTs have, and what had to be guessed of them."""
    width, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
    own: dict[str, Any] = {"patch_size": patch_size, "embed_dim": width}
    own["depth"] = count(weights, "blocks.")
    own["num_heads"] = _HEADS.get(width, max(1, width // 64))
    own["mlp_ratio"] = _tensor(weights, "blocks.0.mlp.fc1.weight").shape[0] / width
    return own, {} if width in _HEADS else {"encoder.num_heads": "usual are 64 channels a head"}


def _swin(weights: Weights, *, version: int) -> Shape:
    width, _, patch_size, _ = weights["patch_embed.proj.weight"].shape
    stages = count(weights, "layers.")
    first = [f"layers.{stage}.blocks.0." for stage in range(stages)]
    depths = [count(weights, f"layers.{stage}.blocks.") for stage in range(stages)]
    per_head = "logit_scale" if version == 2 else "relative_position_bias_table"
    axis = 0 if version == 2 else 1
    own: dict[str, Any] = {"patch_size": patch_size, "embed_dim": width, "depths": depths}
    own["num_heads"] = [_tensor(weights, f"{block}attn.{per_head}").shape[axis] for block in first]
    own["mlp_ratio"] = _tensor(weights, f"{first[0]}mlp.fc1.weight").shape[0] / width
    own["qkv_bias"] = any(f"{first[0]}attn.{name}" in weights for name in ("qkv.bias", "q_bias"))
    windows = [_window(weights, block) for block in first]
    known = [window for window in windows if window is not None]
    guessed = {}
    if known:
        own["window_size"] = max(known)
    else:
        own["window_size"] = 8
        guessed["encoder.window_size"] = "the name of a published file says it"
    if version == 2:
        trained = [
            _trained_window(weights, block, window) for block, window in zip(first, windows, strict=True)
        ]
        if any(trained):
            own["pretrained_window_sizes"] = trained
    side, certain = _swin_side(weights, own["window_size"], windows, stages)
    if not certain:
        guessed["data.image_size"] = "usual with windows of this size"
    return Shape(
        encoder=nearest(_SWIN2S if version == 2 else _SWIN1S, own),
        family="SwinV2" if version == 2 else "Swin",
        image_size=(side * patch_size,) * 2,
        channels=_channels(weights),
        guessed=guessed,
    )


def _window(weights: Weights, block: str) -> int | None:
    """Window of a stage; None if the weights of a SwinV2 leave out what follows from it."""
    table = weights.get(f"{block}attn.relative_position_bias_table")
    if table is not None:
        return (side_of(table.shape[0], "its table of relative positions") + 1) // 2
    coordinates = weights.get(f"{block}attn.relative_coords_table")
    return None if coordinates is None else (coordinates.shape[1] + 1) // 2


def _trained_window(weights: Weights, block: str, window: int | None) -> int:
    """Window that the coordinates of a SwinV2 are a share of, if it is not its own; otherwise 0."""
    coordinates = weights.get(f"{block}attn.relative_coords_table")
    if coordinates is None or window is None or window < 2:
        return 0
    # The last one is log2(1 + 8 (window - 1) / (trained - 1)) / log2(8).
    share = 8 ** float(coordinates[0, -1, -1, 0]) - 1
    trained = 1 + round(8 * (window - 1) / share) if share > 0 else window
    return 0 if trained == window else trained


def _swin_side(weights: Weights, window: int, windows: list[int | None], stages: int) -> tuple[int, bool]:
    """Patches along an image, and whether that is certain.

    A stage whose map is larger than the window shifts it, and the shift has a mask for every window; a stage
    whose map is smaller has the map as its window.
    """
    for stage in range(stages):
        shift = weights.get(f"layers.{stage}.blocks.1.attn_mask")
        if shift is not None:
            return math.isqrt(shift.shape[0]) * window * 2**stage, True
        own = windows[stage]
        if own is not None and own < window:
            return own * 2**stage, True
    return window * 2 ** (stages - 1), False


def side_of(number: int, what: str) -> int:
    side = math.isqrt(max(0, number))
    if side < 1 or side**2 != number:
        raise ValueError(f"{what} is for no square image ({number} places)")
    return side


def _tensor(weights: Weights, name: str) -> Tensor:
    if name not in weights:
        raise ValueError(f"there is no {name}")
    return weights[name]


def _channels(weights: Weights) -> int:
    return weights["patch_embed.proj.weight"].shape[1]


def nearest(sizes: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]) -> Choice:
    """The model with most options in common, and those that it differs in."""

    def alike(name: str) -> int:
        return sum(own.get(key) == value for key, value in sizes[name].items())

    name = max(sizes, key=alike)
    same = {**_ALIKE, **sizes[name]}
    return Choice(
        name=name, **{key: value for key, value in own.items() if key not in same or same[key] != value}
    )
