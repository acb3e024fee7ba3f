"""Small encoders of every family and small methods around them, for tests."""

import inspect
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.encoders import Encoder, create_encoder
from unmask.methods import METHODS, Method
from unmask.targets import EncoderTeacher, Teacher

TRANSFORMER = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}
HIERARCHICAL = {"embed_dim": 12, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
UNITS = {"embed_dim": 48, "depths": (1, 1, 2), "num_heads": 3}

# name -> (timm name, options)
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {**TRANSFORMER, "position": "sincos", "init": "mae"}),
    "vit_registers": ("vit_tiny_patch16_224", {**TRANSFORMER, "reg_tokens": 3}),
    "vit_no_class_token": ("vit_tiny_patch16_224", {**TRANSFORMER, "class_token": False}),
    "rope_axial": ("vit_small_patch16_rope_224", TRANSFORMER),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", TRANSFORMER),
    "dinov3": ("vit_small_patch16_dinov3", TRANSFORMER),
    "eva02": ("eva02_tiny_patch14_224", TRANSFORMER),
    "beit_shared": (
        "beit_base_patch16_224",
        {**TRANSFORMER, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "init": "beit"},
    ),
    "beit_each_block": ("beit_base_patch16_224", TRANSFORMER),
    "swin": ("swin_tiny_patch4_window7_224", HIERARCHICAL),
    "swinv2": ("swinv2_tiny_window8_256", HIERARCHICAL),
    "hivit": ("hivit_tiny_patch16_224", UNITS),
    "hivit_bias": ("hivit_tiny_patch16_224", {**UNITS, "rel_pos": True, "init_values": 0.1}),
}
TABLES = tempfile.TemporaryDirectory()
DROPPING = ("vit", "vit_registers", "vit_no_class_token", "rope_axial", "rope_mixed", "dinov3", "eva02")
DROPPING += ("hivit", "hivit_bias")

DECODER = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "mae": DECODER,
    "simmim": {"mask_size": 16},
    "simmim bins": {"mask_size": 16, "target": "bins", "bins": 4},
    "simmim clusters": {"mask": "square", "mask_size": 32, "target": "clusters"},
    "simmim blocks": {"mask": "block", "mask_size": 8, "head": "mlp", "loss": "l2", "scope": "all"},
    "itpn": {**DECODER, "pyramid_dim": 16, "pyramid_depth": 1},
    "mask_distill": {"mask": "random"},
    "mask_distill filled in": {
        "mask": "random",
        "head": "vit",
        "decoder_dim": 32,
        "decoder_depth": 1,
        "loss": "cosine",
    },
    "mask_distill pixels": {
        "mask": "random",
        "teacher": None,
        "target_norm": "patch_std",
        "loss": "l2",
        "scope": "all",
    },
}


def tiny_encoder(name: str, *, image_size: tuple[int, int] = (64, 64), channels: int = 3) -> Encoder:
    timm_name, options = ENCODERS[name]
    return create_encoder(timm_name, image_size=image_size, channels=channels, **options)


def tiny_teacher(student: Encoder) -> Teacher:
    """A ViT with a class token, a feature for each of the student's, and random weights, always the same."""
    rows, columns = student.feature_grid
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = tiny_encoder("vit_registers", image_size=(rows * 8, columns * 8), channels=student.channels)
    statistics = {"mean": (0.5,) * student.channels, "std": (0.25,) * student.channels}
    return EncoderTeacher(own, name="tiny", **statistics)


def tiny_method(
    name: str, encoder: str, *, image_size: tuple[int, int] = (64, 64), channels: int = 3
) -> Method:
    """
    Args:
        name: of the method; of a variant followed by what is special.
    """
    options = dict(METHOD_OPTIONS[name])
    if options.get("target") == "clusters":
        options["colours"] = colour_table(channels)
    built = tiny_encoder(encoder, image_size=image_size, channels=channels)
    if "teacher" in inspect.signature(METHODS[method_of(name)]).parameters and "teacher" not in options:
        options["teacher"] = tiny_teacher(built)
    return METHODS[method_of(name)](built, **options)


def views_of(method: Method, images: Tensor) -> dict[str, Tensor]:
    """The views that a loader would build: the first is `images`; others have their sizes, and hold pixels in
    [0, 1] if they are not normalised.
    """
    first, *others = method.views
    result = {first: images}
    for name in others:
        view = method.views[name]
        sized = F.interpolate(images, scale_factor=view.scale, mode="bilinear") if view.scale != 1 else images
        result[name] = sized if view.normalised else sized.sigmoid()
    return result


def method_of(name: str) -> str:
    return name.split()[0]


@cache
def colour_table(channels: int) -> Path:
    """Six colours in a file that stays until the tests end."""
    path = Path(TABLES.name, f"{channels}.npy")
    np.save(path, np.random.default_rng(0).random((6, channels)))
    return path


# Every method with every family that it can work with, and variants that compute differently.
PAIRS = [("mae", name) for name in DROPPING] + [("simmim", name) for name in ENCODERS]
PAIRS += [("simmim bins", "swin"), ("simmim clusters", "vit"), ("simmim blocks", "swinv2")]
PAIRS += [("itpn", "hivit"), ("itpn", "hivit_bias")]
PAIRS += [("mask_distill", "vit"), ("mask_distill", "swin"), ("mask_distill pixels", "beit_shared")]
PAIRS += [("mask_distill filled in", "hivit")]
