"""Official weights into our modules, every one of them accounted for."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from unmask.convert.names import DERIVED

# timm keeps the zero bias of BEiT's keys, which has no place in the official files.
ZEROS = ("k_bias",)


def load_official(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    rename: Callable[[str], str],
    *,
    kept: tuple[str, ...] = (),
) -> dict[str, str]:
    """Load weights under our names.

    What follows from the sizes of a model (position tables, index maps) is not taken over but compared with
    our own.

    Args:
        rename: official name -> ours.
        kept: starts of our names, of parts that no official file has and that stay as they are ("teacher.").

    Returns:
        Official name -> ours of all that was loaded.

    Raises:
        ValueError: a weight that has no place, a place that has no weight, another shape, or another table
            than ours; the message names them.
    """
    own = module.state_dict()
    fixed = {name: buffer for name, buffer in module.named_buffers() if name not in own or _derived(name)}
    names = {official: rename(official) for official in weights}
    derived = {official for official, ours in names.items() if ours in fixed or _derived(ours)}
    loaded = {official: ours for official, ours in names.items() if official not in derived}
    places = set(loaded.values())
    twice = [official for official, ours in loaded.items() if list(loaded.values()).count(ours) > 1]
    problems = {
        "have no place": [official for official, ours in loaded.items() if ours not in own],
        "share a place": twice,
        "are missing": [
            name
            for name in own
            if name not in places and not _derived(name, *ZEROS) and not name.startswith(kept)
        ],
        "have another shape": [
            f"{official} {tuple(weights[official].shape)} instead of {tuple(own[ours].shape)}"
            for official, ours in loaded.items()
            if ours in own and not _fits(weights[official], own[ours])
        ],
        "are other tables than follow from the sizes": [
            official
            for official in derived
            if names[official] in fixed and not _equal(weights[official], fixed[names[official]])
        ],
    }
    found = "; ".join(f"{_listed(names)} {problem}" for problem, names in problems.items() if names)
    if found:
        raise ValueError(f"of its tensors {found}")
    state = {ours: weights[official].reshape(own[ours].shape) for official, ours in loaded.items()}
    module.load_state_dict({**own, **state}, strict=True)
    return loaded


def _derived(name: str, *others: str) -> bool:
    return name.endswith((*DERIVED, *others))


def _fits(tensor: Tensor, place: Tensor) -> bool:
    """The same shape, but for axes of one element: a linear layer may be a convolution of one pixel."""
    return [size for size in tensor.shape if size > 1] == [size for size in place.shape if size > 1]


def _equal(tensor: Tensor, own: Tensor) -> bool:
    return tensor.shape == own.shape and torch.allclose(tensor.float(), own.float(), rtol=0, atol=1e-4)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
