"""Encoders as teachers: ViTs of every family, CLIP's among them, and Swins."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import linear

from unmask.encoders.base import Encoder
from unmask.targets.answers import Taught
from unmask.targets.frozen import Frozen, Standardise, fingerprint
from unmask.targets.teacher import Teacher, evenly

Tap = Literal["norm", "resid", "proj"]
TAPS: dict[Tap, str] = {
    "norm": "all tokens after the final norm (CLIP: ln_post)",
    "resid": "what the last block hands on, before the final norm",
    "proj": "all tokens after the final norm and CLIP's projection",
}


class EncoderTeacher(Teacher):
    """The tokens of an encoder.

    Args:
        encoder: built for the images that the teacher is to see; its grid of features is the teacher's.
        mean: of pixels in [0, 1], a channel, that its images were normalised with.
        std: likewise.
        name: what to call it, in checkpoints.
        tap: which of its states are taught, see `TAPS`.
        projection: of the tap "proj".
        channels: of the student's images, None: as many as the encoder's; 1 is repeated for more.
        trained_on: what its weights learned from, for people.

    Raises:
        ValueError: parts that do not fit together.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        name: str,
        tap: Tap = "norm",
        projection: nn.Linear | None = None,
        channels: int | None = None,
        trained_on: str = "",
    ) -> None:
        super().__init__()
        if tap not in TAPS:
            raise ValueError(f"{name} has no features {tap!r}; possible are {', '.join(TAPS)}")
        if (tap == "proj") != (projection is not None):
            raise ValueError(f"the features 'proj' and a projection go together; {name} has one of them only")
        self.image_size = encoder.image_size
        self.grid = encoder.feature_grid
        self.dim = encoder.dim if projection is None else projection.out_features
        self.has_cls = encoder.has_cls
        self.tap: Tap = tap
        self.standardise = Standardise(mean, std, channels=channels or encoder.channels)
        self.encoder = Frozen(encoder)
        self.projection = Frozen(nn.Identity() if projection is None else projection)
        weights = nn.ModuleDict({"encoder": encoder, "projection": self.projection.network})
        self.description = {
            "name": name,
            "fingerprint": fingerprint(weights),
            "mean": list(mean),
            "std": list(std),
            "activation": activation_of(encoder.model),
            "tap": tap,
            "projection": None if projection is None else self.dim,
            "image_size": list(self.image_size),
            "grid": list(self.grid),
        }
        height, width = self.image_size
        learned = f", trained on {trained_on}" if trained_on else ""
        self.introduction = (
            f"Teacher: {name}{learned}; {self.dim} features for each of {self.grid[0]} x {self.grid[1]} "
            f"places of {height} x {width} pixels, {TAPS[tap]}."
        )

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B C H W"], *, importance: bool = False) -> Taught:
        encoder: Encoder = self.encoder.network
        take = [-1] if self.tap == "resid" else []
        before = [encoder.depth - 2] if importance else []
        if importance:
            require_attention(encoder)
        features = encoder(self.standardise(images), take=[*take, *before])
        patches, cls = features.patches, features.cls
        if self.tap == "resid":
            state = features.taps[0]
            patches, cls = state[:, encoder.prefix :], state[:, 0] if encoder.has_cls else None
        attention = None
        if importance:
            block = encoder.model.blocks[-1]
            attention = attention_of(block, features.taps[-1], queries=1)[:, 0, encoder.prefix :]
        return Taught(
            patches=self.projection(patches).float(),
            cls=None if cls is None else self.projection(cls).float(),
            importance=attention,
        )

    def states(self, images: Float[Tensor, "B C H W"], *, depths: int) -> tuple[Float[Tensor, "B _ _"], ...]:
        encoder: Encoder = self.encoder.network
        taps = encoder(self.standardise(images), take=evenly(encoder.depth, depths)).taps
        return tuple(state[:, encoder.prefix :] for state in taps)


def activation_of(model: nn.Module) -> str:
    """The class of the first activation inside a ViT's blocks; OpenAI's CLIP has another than all others."""
    names = ("act", "gelu")
    found = (module for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in names)
    return type(next(found, nn.Identity())).__name__


def require_attention(encoder: Encoder) -> None:
    """Refuse encoders whose class token's attention cannot be told.

    Raises:
        ValueError: it has none, or it is computed in another way.
    """
    model: Any = encoder.model
    if not isinstance(model, VisionTransformer) or not encoder.has_cls or encoder.depth < 2:
        raise ValueError(
            f"a {type(model).__name__} cannot say which patches matter: that takes a plain ViT of at least "
            "two blocks with a class token, such as those of CLIP, DINO and DINOv2"
        )
    if not isinstance(model.blocks[-1].attn, Attention):
        raise ValueError(f"the attention of {type(model.blocks[-1].attn).__name__} is not known here")


def attention_of(block: Any, tokens: Float[Tensor, "B P D"], *, queries: int) -> Float[Tensor, "B q P"]:
    """How much the first tokens look at all tokens in a block: the mean of its heads, float32.

    Only the rows that are asked for are computed.

    Args:
        block: of timm's plain ViT.
        tokens: what it gets.
        queries: q, how many of the tokens look.
    """
    attention = block.attn
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = weight.shape[0] // 3
    tokens = block.norm1(tokens)

    def project(x: Tensor, part: int) -> Tensor:
        rows = slice(part * width, (part + 1) * width)
        projected = linear(x, weight[rows], None if bias is None else bias[rows])
        return rearrange(projected, "b p (h d) -> b h p d", h=attention.num_heads)

    query, key = attention.q_norm(project(tokens[:, :queries], 0)), attention.k_norm(project(tokens, 1))
    scores = (query.float() * attention.scale) @ key.float().transpose(-1, -2)
    return scores.softmax(-1).mean(1)
