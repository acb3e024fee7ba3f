"""Small encoders of every family and small methods around them, for tests."""

import inspect
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from unmask.encoders import Encoder, create_encoder
from unmask.methods import METHODS, Method
from unmask.targets import EncoderTeacher, Teacher
from unmask.tokenizers import Tokenizer

TRANSFORMER = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 8}
HIERARCHICAL = {"embed_dim": 12, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
UNITS = {"embed_dim": 48, "depths": (1, 1, 2), "num_heads": 3}
COLUMNS = {"embed_dim": 24, "num_heads": 3, "patch_size": 8, "num_levels": 3, "down_columns": 1}

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
    "beit_placed": (
        "beit_base_patch16_224",
        {
            **TRANSFORMER,
            "use_rel_pos_bias": False,
            "use_abs_pos_emb": True,
            "position": "sincos",
            "init": "cae",
        },
    ),
    "swin": ("swin_tiny_patch4_window7_224", HIERARCHICAL),
    "swinv2": ("swinv2_tiny_window8_256", HIERARCHICAL),
    "hivit": ("hivit_tiny_patch16_224", UNITS),
    "hivit_bias": ("hivit_tiny_patch16_224", {**UNITS, "rel_pos": True, "init_values": 0.1}),
    "fast_itpn": ("fast_itpn_tiny_patch16_224", UNITS),
    "revcol": ("revcol_tiny", {"widths": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "num_columns": 2}),
    "revcolv2": ("revcolv2_base_patch16_224", COLUMNS),
    "revcolv2_up": ("revcolv2_base_patch16_224", {**COLUMNS, "decoder_order": "up"}),
}
TABLES = tempfile.TemporaryDirectory()
DROPPING = ("vit", "vit_registers", "vit_no_class_token", "rope_axial", "rope_mixed", "dinov3", "eva02")
DROPPING += ("beit_placed", "hivit", "hivit_bias", "fast_itpn", "revcolv2", "revcolv2_up")

DECODER = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "mae": DECODER,
    "simmim": {"mask_size": 16},
    "simmim bins": {"mask_size": 16, "target": "bins", "bins": 4},
    "simmim clusters": {"mask": "square", "mask_size": 32, "target": "clusters"},
    "simmim blocks": {"mask": "block", "mask_size": 8, "head": "mlp", "loss": "l2", "scope": "all"},
    "simmim codes": {"mask_size": 16, "target": "codes", "tokenizer": "tiny"},
    "beit": {},
    "peco": {},
    "beitv2": {},
    "beitv2 separate": {"shared_head": False, "head_depth": 1},
    "cae": {"regressor_depth": 2, "decoder_depth": 1},
    "cae narrow": {"regressor_depth": 1, "decoder_depth": 1, "decoder_dim": 32, "decoder_heads": 2},
    "itpn": {**DECODER, "pyramid_dim": 16, "pyramid_depth": 1},
    "itpn convolution": {**DECODER, "pyramid_dim": 16, "pyramid_depth": 1, "neck": "convolution"},
    "itpn_teacher": {"pyramid_dim": 16},
    "revcolv2": {},
    "revcolv2 teacher": {"teacher": "tiny"},
    "milan": DECODER,
    "cmae": {**DECODER, "mask_size": 16, "feature_depth": 1, "projection_dim": 24, "projection_hidden": 32},
    "milan random": {**DECODER, "sampling": "random"},
    "mask_distill": {"teacher": "tiny", "mask": "random"},
    "mask_distill codes": {"tokenizer": "tiny", "mask": "random"},
    "mask_distill filled in": {
        "teacher": "tiny",
        "mask": "random",
        "head": "vit",
        "decoder_dim": 32,
        "decoder_depth": 1,
        "loss": "cosine",
    },
    "mask_distill pixels": {
        "mask": "random",
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
    parameters = inspect.signature(METHODS[method_of(name)]).parameters
    for part, make in {"teacher": tiny_teacher, "tokenizer": tiny_tokenizer}.items():
        if part in options or (part in parameters and parameters[part].default is inspect.Parameter.empty):
            options[part] = make(built)
    return METHODS[method_of(name)](built, **options)


class TinyTokenizer(Tokenizer):
    """The mean colour of a square, as the nearest of a few colours that are the same in every test.

    Args:
        decodes: whether its codes stand for pixels.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        stride: int,
        channels: int = 3,
        vocabulary: int = 6,
        decodes: bool = True,
    ) -> None:
        super().__init__()
        self.image_size, self.stride, self.channels = image_size, stride, channels
        self.vocabulary, self.decodes = vocabulary, decodes
        generator = torch.Generator().manual_seed(0)
        # As near to grey as the means of squares of noise, so that these have different codes.
        spread = 0.2 / stride * torch.randn(vocabulary, channels, generator=generator)
        self.colours = nn.Parameter(0.5 + spread)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.squares(self.codes(images)) - images).square().mean()}

    @torch.no_grad()
    def codes(self, images: Tensor) -> Tensor:
        means = rearrange(F.avg_pool2d(images, self.stride), "b c h w -> b (h w) 1 c")
        return (means - self.colours).square().sum(-1).argmin(-1)

    def embed(self, codes: Tensor) -> Tensor:
        return self.colours[codes]

    def decode(self, codes: Tensor) -> Tensor | None:
        return self.squares(codes) if self.decodes else None

    def squares(self, codes: Tensor) -> Tensor:
        layout, side = "b (h w) c -> b c (h p) (w q)", self.stride
        return repeat(self.embed(codes), layout, h=self.grid[0], p=side, q=side)


def tiny_tokenizer(encoder: Encoder, *, cell: int | None = None, decodes: bool = True) -> TinyTokenizer:
    """A tokenizer that looks at images of half the encoder's size.

    Args:
        cell: pixels of the encoder's images along the side of what a code stands for; None is a patch, or of
            a hierarchical encoder half a feature.
    """
    height, width = encoder.image_size
    usual = encoder.patch_size if encoder.stride == encoder.patch_size else encoder.stride // 2
    return TinyTokenizer(
        image_size=(height // 2, width // 2),
        stride=(cell or usual) // 2,
        channels=encoder.channels,
        decodes=decodes,
    )


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
PAIRS = [("mae", name) for name in DROPPING if name != "revcolv2_up"]
PAIRS += [("simmim", name) for name in ENCODERS if not name.startswith("revcolv2")]
PAIRS += [("simmim bins", "swin"), ("simmim clusters", "vit"), ("simmim blocks", "swinv2")]
PAIRS += [("simmim codes", "swin"), ("simmim codes", "beit_shared")]
PAIRS += [("beit", "beit_shared"), ("beit", "vit_registers"), ("peco", "beit_each_block")]
PAIRS += [("beitv2", "beit_shared"), ("beitv2", "vit_registers"), ("beitv2 separate", "beit_each_block")]
PAIRS += [("cae", "beit_placed"), ("cae narrow", "vit_registers")]
PAIRS += [("itpn", "hivit"), ("itpn", "hivit_bias"), ("itpn convolution", "fast_itpn")]
PAIRS += [("itpn_teacher", "hivit_bias")]
PAIRS += [("revcolv2", "revcolv2"), ("revcolv2 teacher", "revcolv2_up")]
PAIRS += [("milan", "vit"), ("milan", "vit_no_class_token"), ("milan random", "hivit")]
PAIRS += [("cmae", "vit"), ("cmae", "hivit")]
PAIRS += [("mask_distill", "vit"), ("mask_distill", "swin"), ("mask_distill pixels", "beit_shared")]
PAIRS += [("mask_distill filled in", "hivit"), ("mask_distill codes", "beit_each_block")]
