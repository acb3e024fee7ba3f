"""A tokenizer and a method that needs one, as a run takes them; registered for the time of a test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.data.views import View
from unmask.encoders.base import Encoder
from unmask.engine.first_stage import train_tokenizer
from unmask.engine.pretrain import pretrain
from unmask.engine.run import Run
from unmask.masking import Mask, RandomMask
from unmask.methods import METHODS
from unmask.methods.base import Method
from unmask.recipes import (
    DEFAULTS,
    SMALL,
    TOKENIZER_DEFAULTS,
    TOKENIZER_OF,
    TOKENIZER_SMALL,
    Recipe,
    TokenizerRecipe,
)
from unmask.recipes.base import Choice, Data, Optim, Schedule
from unmask.tokenizers import TOKENIZERS, Tokenizer


class NearestColour(Tokenizer):
    """The code of a place is the nearest of K colours, which are learned."""

    def __init__(
        self, *, image_size: tuple[int, int], channels: int, vocabulary: int = 16, stride: int = 8
    ) -> None:
        super().__init__()
        if image_size[0] % stride or image_size[1] % stride:
            raise ValueError(f"{image_size} cannot be cut into codes of {stride} pixels")
        self.image_size, self.channels = image_size, channels
        self.vocabulary, self.stride = vocabulary, stride
        self.colours = nn.Parameter(torch.rand(vocabulary, channels))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        picked = self.colours[self.codes(images)]
        return {"loss": F.mse_loss(picked, self._places(images))}

    def _places(self, images: Tensor) -> Tensor:
        return rearrange(F.avg_pool2d(images, self.stride), "b c h w -> b (h w) c")

    @torch.no_grad()
    def codes(self, images: Tensor) -> Tensor:
        return torch.cdist(self._places(images), self.colours).argmin(-1)

    def embed(self, codes: Tensor) -> Tensor:
        return self.colours[codes]

    def decode(self, codes: Tensor) -> Tensor:
        picture = rearrange(self.embed(codes), "b (h w) c -> b c h w", h=self.grid[0])
        return F.interpolate(picture, scale_factor=self.stride)


class Guess(Method):
    """Predicts the codes of hidden patches, by a linear head."""

    def __init__(self, encoder: Encoder, *, tokenizer: Tokenizer, mask_ratio: float = 0.5) -> None:
        super().__init__()
        if tokenizer.grid != encoder.grid:
            raise ValueError(f"codes of {tokenizer.grid} places do not lie over patches of {encoder.grid}")
        self.encoder, self.masking = encoder, RandomMask(ratio=mask_ratio)
        self.views: Mapping[str, View] = {"images": View(), "token_images": tokenizer.view(encoder)}
        self.tokenizer = tokenizer.requires_grad_(False)
        self.head = nn.Linear(encoder.dim, tokenizer.vocabulary)
        self.token = nn.Parameter(torch.zeros(1, 1, encoder.token_dim))

    def forward(self, images: Tensor, token_images: Tensor, *, mask: Mask | None = None) -> dict[str, Tensor]:
        mask = self.draw(images) if mask is None else mask
        seen = self.encoder(images, mask, self.token)
        logits = mask.masked(self.head(seen.patches))
        codes = mask.masked(self.tokenizer.codes(token_images)[..., None])[..., 0]
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())}


def tokenizer_recipe() -> TokenizerRecipe:
    return TokenizerRecipe(
        name="nearest",
        tokenizer=Choice(name="nearest"),
        data=Data(image_size=(32, 32), crop_scale=(0.5, 1.0)),
        optim=Optim(batch_size=8, lr=0.01),
        schedule=Schedule(epochs=1, steps=12, warmup_epochs=0),
    )


def guess_recipe(encoder: str = "vit_tiny_patch16_224") -> Recipe:
    return Recipe(
        name="guess",
        method=Choice(name="guess"),
        encoder=Choice(name=encoder, embed_dim=48, depth=2, num_heads=3, patch_size=8),
        data=Data(image_size=(32, 32), crop_scale=(0.5, 1.0)),
        optim=Optim(batch_size=8, lr=1e-3),
        schedule=Schedule(epochs=1, steps=12, warmup_epochs=0),
    )


def register(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(TOKENIZERS, "nearest", NearestColour)
    patch.setitem(METHODS, "guess", Guess)
    for table in (TOKENIZER_DEFAULTS, TOKENIZER_SMALL):
        patch.setitem(table, "nearest", tokenizer_recipe)
    for methods in (DEFAULTS, SMALL):
        patch.setitem(methods, "guess", guess_recipe)
    patch.setitem(TOKENIZER_OF, "guess", "nearest")


def tokenizer_run(data: Path, out: Path, **options: Any) -> Run:
    torch.set_num_threads(1)
    defaults: dict[str, Any] = {"workers": 0, "progress": False, "device": "cpu"}
    if not options.get("resume"):
        defaults |= {"steps": 12, "batch_size": 8}
    return train_tokenizer("nearest", data=data, out=out, **(defaults | options))


def guess_run(data: Path, out: Path, **options: Any) -> Run:
    torch.set_num_threads(1)
    defaults: dict[str, Any] = {"workers": 0, "progress": False, "device": "cpu", "steps": 6, "batch_size": 8}
    quiet = {"probe.every": 0, "checkpoint.pictures": 1000}
    return pretrain("guess", data=data, out=out, **(defaults | {"overrides": quiet} | options))
