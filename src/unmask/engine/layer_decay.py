"""Learning rates that fall from the head of a network down to its stem."""

from collections.abc import Callable
from typing import Any

from torch import nn

from unmask.engine.optim import parameter_groups
from unmask.recipes.tasks import LayerDecayConvention, TaskOptim

REFERENCE_LAYERS = 13  # of a ViT-B: 12 blocks and the step from the last one to the head


def layer_scales(blocks: int, decay: float, convention: LayerDecayConvention) -> tuple[float, ...]:
    """What the learning rate is multiplied by at depths 0 (the stem), 1, ..., `blocks`, `blocks` + 1 (the
    head, always 1).

    With n blocks, at depth d::

        per_layer (BEiT, MAE, Swin):   decay ^ (n + 1 - d)
        equivalent_12_layers (iTPN):   decay ^ (13 / (n + 1) * (n + 1 - d))

    By the second one a network of any depth has the stem of one with twelve blocks: decay ^ 13.
    """
    if blocks < 1 or not 0 < decay <= 1:
        raise ValueError(f"{blocks=} must be at least 1, {decay=} in (0, 1]")
    if convention == "equivalent_12_layers":
        decay = decay ** (REFERENCE_LAYERS / (blocks + 1))
    return tuple(decay ** (blocks + 1 - depth) for depth in range(blocks + 2))


def layered_groups(
    module: nn.Module, optim: TaskOptim, *, blocks: int, depth_of: Callable[[str], int | None]
) -> list[dict[str, Any]]:
    """`parameter_groups`, each cut by depth and with the scale of its depth as `lr_scale`, deepest last.

    Args:
        blocks: of the network; a head has the depth `blocks` + 1.
        depth_of: the depth of a parameter by its name in `module`; None is the head's.

    Raises:
        ValueError: a depth that is none.
    """
    scales = layer_scales(blocks, optim.layer_decay, optim.layer_decay_convention)
    depths: dict[int, int] = {}
    for name, parameter in module.named_parameters():
        depth = depth_of(name)
        depths[id(parameter)] = blocks + 1 if depth is None else depth
        if not 0 <= depths[id(parameter)] <= blocks + 1:
            raise ValueError(f"{name} cannot lie at depth {depth} of {blocks} blocks")
    groups = []
    for group in parameter_groups(module, optim):
        for depth in sorted({depths[id(parameter)] for parameter in group["params"]}):
            own = [parameter for parameter in group["params"] if depths[id(parameter)] == depth]
            groups.append({**group, "params": own, "lr_scale": scales[depth]})
    return groups
