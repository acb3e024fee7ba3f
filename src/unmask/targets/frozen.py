"""Networks that tell what must be predicted and are not part of what learns."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Frozen(nn.Module, Generic[Network]):
    """Holds a network that is used and never trained.

    It goes where the module that holds it goes (`to`, `cuda`), but belongs neither to its parameters nor to
    its checkpoints: what a recipe names is built anew from there. It stays in evaluation mode.

    Args:
        network: taken over: without gradients from now on.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        # In a tuple, since a module would be registered as a part.
        self._held = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> Network:
        return self._held[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Frozen[Network]":
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
