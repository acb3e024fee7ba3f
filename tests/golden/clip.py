"""CLIP's visual tower from a fixture's `constructor`, as `official.py` does it for the others."""

import copy

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tests.golden.official import Case, Quantities, gradients, tensors, watch
from unmask.convert.clip import clip_visual_name
from unmask.convert.weights import load_official
from unmask.encoders.base import Encoder, Features
from unmask.encoders.clip import PROJECTION, clip_encoder
from unmask.load import resized
from unmask.targets import EncoderTeacher
from unmask.targets.teachers.encoders import attention_of


def every_token(features: Features) -> Tensor:
    assert features.cls is not None
    return torch.cat([features.cls[:, None], features.patches], 1)


def measure_clip(case: Case) -> Quantities:
    spec, weights = case["info"]["constructor"], tensors(case["params"])
    quick = spec["activation"] == "quick_gelu"
    encoder, projection = clip_encoder(weights, heads=spec["heads"], quick_gelu=quick)
    assert projection is not None and projection.out_features == spec["output_width"]
    model = encoder.model
    assert (encoder.dim, encoder.depth, encoder.patch_size) == tuple(
        spec[key] for key in ("width", "depth", "patch_size")
    )
    assert encoder.image_size == (spec["image_size"],) * 2 and model.norm.eps == spec["norm_eps"]
    inner = {name: tensor for name, tensor in weights.items() if name != PROJECTION}
    whole = nn.ModuleDict({"encoder": encoder})
    names = load_official(whole, inner, clip_visual_name)

    inputs = tensors(case["inputs"])
    images = inputs["images"]
    larger = enlarged(encoder, projection, inputs["images_interp"])
    result: Quantities = {}
    watch(model.norm_pre, result, "out/embeddings")
    features = encoder(images, take=(*range(encoder.depth),))
    tokens = every_token(features)
    projected = projection(tokens)
    loss = F.mse_loss(projected, inputs["target"])
    result |= gradients(loss, whole, names, weights, "grad")
    (gradient,) = torch.autograd.grad(loss, projection.weight)
    attention = attention_of(model.blocks[-1], features.taps[-2], queries=tokens.shape[1])
    return result | {
        f"grad/{PROJECTION}": gradient.T,
        "out/tokens_block0": features.taps[0],
        "out/tokens_pre_ln_post": features.taps[-1],
        "out/tokens_ln_post": tokens,
        "out/patch_tokens_ln_post": features.patches,
        "out/tokens_projected": projected.detach(),
        "out/loss": loss,
        "out/last_attention": attention,
        **as_teacher(encoder, projection, images),
        "out/interp_tokens_projected": larger,
    }


def as_teacher(encoder: Encoder, projection: nn.Linear, images: Tensor) -> Quantities:
    """What the teacher hands over; the images of the fixture are normalised already."""
    statistics = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "name": "clip_visual"}
    teacher = EncoderTeacher(encoder, tap="proj", projection=projection, **statistics)
    taught = teacher(images, importance=True)
    assert taught.cls is not None and taught.importance is not None
    # The share of the class token itself is what the others leave.
    itself = 1 - taught.importance.sum(1, keepdim=True)
    return {
        "out/image_embedding": taught.cls,
        "out/last_attention_cls": torch.cat([itself, taught.importance], 1),
    }


def enlarged(encoder: Encoder, projection: nn.Linear, images: Tensor) -> Tensor:
    """Larger images, the table of positions resized by a factor slightly too large, as officially."""
    table = encoder.model.pos_embed.detach()
    cls, places = table[:, :1], rearrange(table[:, 1:], "1 (h w) d -> 1 d h w", h=encoder.grid[0])
    larger = resized(copy.deepcopy(encoder), tuple(images.shape[2:]))
    factors = tuple((new + 0.1) / old for new, old in zip(larger.grid, places.shape[2:], strict=True))
    places = F.interpolate(places, scale_factor=factors, mode="bicubic")
    moved = torch.cat([cls, rearrange(places, "1 d h w -> 1 (h w) d")], 1)
    larger.model.pos_embed.data.copy_(moved)
    return projection(every_token(larger(images)))
