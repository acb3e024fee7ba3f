"""An adversary that tells pictures from photographs, patch by patch."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

MOST = 1e4  # by which the adversary's gradient is scaled (official VQGAN code)


class Adversary(nn.Module):
    """PatchGAN (Isola et al. 2017) with the hinge loss, trained by the same optimiser in the same step as
    what it criticises: each of the two terms below moves one of them only.

    Our choice are norms over groups in the place of batches, so that every picture is judged by itself, and
    that no second optimiser is needed.

    Args:
        channels: of the images.
        width: of the first layer; it doubles twice.
        layers: halvings of the resolution.
    """

    def __init__(self, channels: int, *, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        path: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        now = width
        for layer in range(1, layers + 1):
            out = width * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            path += [
                nn.Conv2d(now, out, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(1, out),
                nn.LeakyReLU(0.2),
            ]
            now = out
        self.path = nn.Sequential(*path, nn.Conv2d(now, 1, 4, padding=1))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        """How much every part looks like that of a photograph."""
        return self.path(images).float()

    def own_loss(
        self, images: Float[Tensor, "B C H W"], pictures: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        """What the adversary minimises; nothing of it reaches the pictures."""
        genuine, made = self(images), self(pictures.detach())
        return (F.relu(1 - genuine).mean() + F.relu(1 + made).mean()) / 2

    def verdict(self, pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
        """What the pictures minimise; nothing of it reaches the adversary."""
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return -functional_call(self, frozen, (pictures,)).mean()


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight)
        return pictures.clone(), pictures.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        first, second = gradients
        scale = first.norm() / second.norm().clamp(min=torch.finfo(second.dtype).tiny)
        return first + weight * scale.clamp(max=MOST) * second, None


def balanced(
    pictures: Float[Tensor, "B C H W"], weight: Float[Tensor, ""]
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
    """The same pictures twice. What comes back to the second is scaled to `weight` times the length of what
    comes back to the first.

    VQGAN's adaptive weight, taken at the pictures and not at the weights of the last layer, which needs no
    backward pass of its own.
    """
    return _Balance.apply(pictures, weight)
