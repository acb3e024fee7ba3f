"""Networks that others trained, used as they are."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Frozen(nn.Module):
    """A network that is never trained, saved or averaged, because it can be had again where it came from.

    Its weights are none of the weights of the module that holds it: they are in no state_dict, no optimiser
    and no gradient bucket. It moves along between devices, stays in evaluation mode, and copies share it.
    Gradients may pass through it to its inputs.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network.eval().requires_grad_(False),)  # in a tuple, where PyTorch does not look

    @property
    def network(self) -> Any:
        """The network itself."""
        return self._held[0]

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.network(*inputs, **options)

    def _apply(self, fn: Any, recurse: bool = True) -> "Frozen":
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return Frozen(self.network)


class Standardise(nn.Module):
    """Pixels in [0, 1] as a network wants them: (x - mean) / std for every channel, in float32.

    Args:
        mean: a channel of the network's images.
        std: likewise.
        channels: of the images that come; grey ones are repeated for a network of several channels.

    Raises:
        ValueError: images that the network cannot take.
    """

    mean: Float[Tensor, "1 C 1 1"]
    std: Float[Tensor, "1 C 1 1"]

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, channels: int) -> None:
        super().__init__()
        if channels not in (1, len(mean)):
            raise ValueError(
                f"it was trained on images of {len(mean)} channels and cannot see images of {channels}"
            )
        for name, values in (("mean", mean), ("std", std)):
            statistic = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)

    def forward(self, pixels: Float[Tensor, "B _ H W"]) -> Float[Tensor, "B C H W"]:
        return (pixels.float() - self.mean) / self.std


def fingerprint(network: nn.Module) -> str:
    """Sixteen hexadecimal digits that differ between different weights.

    Tables of positions do not count: they are interpolated to the size of the images, which rounds
    differently on different machines.
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if "pos_embed" not in name:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
