"""Small tokenizers, and what they need."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unmask.targets import Taught, Teacher
from unmask.tokenizers import TOKENIZERS, Tokenizer


class TinyTeacher(Teacher):
    """Random features of patches, of images half as large as the tokenizer's."""

    has_cls = False

    def __init__(self, grid: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.grid, self.dim, self.image_size = grid, 12, (4 * grid[0], 4 * grid[1])
        self.description = {"name": "tiny"}
        self.patches = nn.Conv2d(channels, self.dim, 4, stride=4).requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor, *, importance: bool = False) -> Taught:
        return Taught(patches=self.states(images, depths=1)[0].float())

    def states(self, images: Tensor, *, depths: int) -> tuple[Tensor, ...]:
        fine = self.patches(images).tanh()
        found = (fine, F.avg_pool2d(fine, 2))[:depths]
        return tuple(rearrange(state, "b d h w -> b (h w) d") for state in found)


OPTIONS: dict[str, dict[str, Any]] = {
    "dvae": {"vocabulary": 24, "width": 16, "decoder_dim": 16, "blocks": 1},
    "vqkd": {
        "vocabulary": 24, "code_dim": 8, "patch_size": 8, "dim": 32, "depth": 1, "heads": 2,
        "decoder_depth": 1,
    },
    "peco": {"vocabulary": 24, "code_dim": 8, "width": 16, "factors": (1, 1, 2), "blocks": 1, "depths": 2},
    "peco adversary": {
        "vocabulary": 24, "code_dim": 8, "width": 16, "factors": (1, 1, 2), "blocks": 1,
        "adversarial_weight": 0.8, "adversarial_start": 0.0, "adversarial_width": 8,
    },
}  # fmt: skip


def tiny_tokenizer(name: str, *, image_size: tuple[int, int] = (32, 32), channels: int = 3) -> Tokenizer:
    """
    Args:
        name: of the tokenizer; of a variant followed by what is special.
    """
    options = dict(OPTIONS[name])
    if not name.startswith("dvae"):
        options["teacher"] = TinyTeacher((image_size[0] // 8, image_size[1] // 8), channels)
    kind = TOKENIZERS[name.split()[0]]
    return kind(image_size=image_size, channels=channels, **options)


def pictures(batch: int = 4, size: tuple[int, int] = (32, 32), channels: int = 3) -> Tensor:
    """Smooth colours in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, channels, 4, 4, generator=generator)
    return F.interpolate(coarse, size=size, mode="bilinear")


def views_of(tokenizer: Tokenizer, images: Tensor) -> dict[str, Tensor]:
    """The views that a loader would build."""
    assert not any(view.normalised for view in tokenizer.views.values())
    return {
        name: F.interpolate(images, scale_factor=view.scale, mode="bilinear")
        for name, view in tokenizer.views.items()
    }
