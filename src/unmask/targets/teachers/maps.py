"""Networks with feature maps as teachers: CNNs and hierarchical networks of timm."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unmask.masking import Grid
from unmask.targets.answers import Taught
from unmask.targets.frozen import Frozen, Standardise, fingerprint
from unmask.targets.teacher import Teacher, evenly

COARSE = 32  # a map of this stride is enlarged twice where the grid allows


class MapTeacher(Teacher):
    """One feature map of a timm model; what follows it is not computed.

    The size of its images follows from the grid: `stride / enlarged` pixels for each of the student's
    features. Of an EfficientNet-Lite0 the last map of small images, enlarged twice, tells as much as that of
    images of twice the side, at a quarter of the cost, and more than the map of half the stride
    (docs/teachers.md).

    Args:
        model: of timm, with `forward_intermediates`.
        grid: rows and columns of the student's features.
        stride: of the map; None is the coarsest.
        enlarged: places of the grid along the side of a place of the map, between which is interpolated; None
            is 2 for maps of stride 32 and more and grids of even sides, otherwise 1.
        mean: of pixels in [0, 1], a channel, that its images were normalised with.
        std: likewise.
        name: what to call it, in checkpoints.
        channels: of the student's images; 1 is repeated for more.
        trained_on: what its weights learned from, for people.
        advice: what else a person should know; sentences.

    Raises:
        ValueError: a stride that it does not have, or images that it cannot take.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        grid: Grid,
        stride: int | None = None,
        enlarged: int | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        name: str,
        channels: int = 3,
        trained_on: str = "",
        advice: str = "",
    ) -> None:
        super().__init__()
        maps = strides_of(model)
        stride = stride or max(maps)
        if stride not in maps:
            offered = ", ".join(f"@{one}" for one in sorted(maps))
            raise ValueError(f"{name} has no map of stride {stride}; behind its name can stand {offered}")
        even = grid[0] % 2 == grid[1] % 2 == 0
        enlarged = enlarged or (2 if stride >= COARSE and even else 1)
        if grid[0] % enlarged or grid[1] % enlarged:
            raise ValueError(
                f"a grid of {grid[0]} x {grid[1]} features is not {enlarged} times a smaller one"
            )
        self.index = maps[stride]
        self.enlarged = enlarged
        self.grid = grid
        self.image_size = (grid[0] // enlarged * stride, grid[1] // enlarged * stride)
        self.has_cls = False
        self.standardise = Standardise(mean, std, channels=channels)
        self.model = Frozen(model.to(memory_format=torch.channels_last))
        self.dim = self._probe(name, len(mean))
        tap = f"map of stride {stride}" + (f", enlarged {enlarged} times" if enlarged > 1 else "")
        self.description = {
            "name": name,
            "fingerprint": fingerprint(model),
            "mean": list(mean),
            "std": list(std),
            "tap": tap,
            "projection": None,
            "image_size": list(self.image_size),
            "grid": list(grid),
        }
        learned = f", trained on {trained_on}" if trained_on else ""
        self.introduction = (
            f"Teacher: {name}{learned}; {self.dim} features for each of {grid[0]} x {grid[1]} places of "
            f"{self.image_size[0]} x {self.image_size[1]} pixels, its {tap}."
        ) + (f" {advice}" if advice else "")

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B C H W"], *, importance: bool = False) -> Taught:
        if importance:
            raise ValueError("a network without a class token cannot say which patches matter")
        return Taught(patches=rearrange(self._map(self.standardise(images)), "b d h w -> b (h w) d").float())

    def states(self, images: Float[Tensor, "B C H W"], *, depths: int) -> tuple[Float[Tensor, "B _ _"], ...]:
        indices = evenly(len(self.model.network.feature_info), depths)
        maps = self._maps(self.standardise(images), indices)
        return tuple(rearrange(state, "b d h w -> b (h w) d") for state in maps)

    def _map(self, images: Tensor) -> Float[Tensor, "B D h w"]:
        (state,) = self._maps(images, [self.index])
        if self.enlarged == 1:
            return state
        return F.interpolate(state, scale_factor=self.enlarged, mode="bilinear")

    def _maps(self, images: Tensor, indices: list[int]) -> list[Float[Tensor, "B _ _ _"]]:
        options: dict[str, Any] = {"intermediates_only": True, "stop_early": True, "output_fmt": "NCHW"}
        # The layout that convolutions want: an EfficientNet takes two thirds of the time on a CPU.
        images = images.contiguous(memory_format=torch.channels_last)
        return self.model.network.forward_intermediates(images, indices=indices, **options)

    @torch.no_grad()
    def _probe(self, name: str, channels: int) -> int:
        """Width of the map, from one empty image: not every network takes every size."""
        sides = f"{self.image_size[0]} x {self.image_size[1]}"
        try:
            state = self._map(torch.zeros(1, channels, *self.image_size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f"{name} cannot take the images of {sides} pixels that a grid of {self.grid[0]} x "
                f"{self.grid[1]} features needs: {error}"
            ) from error
        if tuple(state.shape[2:]) != self.grid:
            raise ValueError(
                f"{name} turns images of {sides} pixels into a map of {state.shape[2]} x {state.shape[3]}, "
                f"and not into the student's grid of {self.grid[0]} x {self.grid[1]}"
            )
        return state.shape[1]


def strides_of(model: Any) -> dict[int, int]:
    """Stride -> index of the last feature map that has it.

    Raises:
        ValueError: a network without maps.
    """
    try:
        return {info["reduction"]: index for index, info in enumerate(model.feature_info)}
    except AttributeError as error:
        raise ValueError(f"a {type(model).__name__} has no feature maps that timm can hand over") from error
