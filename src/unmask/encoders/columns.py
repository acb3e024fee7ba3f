"""Reversible columns: levels updated one after the other, so that a column's input follows from its output.

Reversible Column Networks. Yuxuan Cai, Yizhuang Zhou, Qi Han, Jianjian Sun, Xiangwen Kong, Jun Li, Xiangyu
Zhang. ICLR 2023, arXiv 2212.11696.

With the levels p = 0, 1, ... of a column in the order in which it computes them, an entry e that all columns
share, and factors g per channel::

    new_p = g_p old_p + F_p(new_{p-1}, old_{p+1})        new_{-1} = e; the last level has no old_{p+1}
    old_p = (new_p - F_p(new_{p-1}, old_{p+1})) / g_p    from the last level to the first

The first column has nothing old: new_p = F_p(new_{p-1}). A column that runs from the top down is one whose
levels are counted from the top.

Three ways to keep less than every activation for the backward pass. All of them compute each level once more:

* "checkpoint": a column's inputs are kept (`torch.utils.checkpoint`). The gradients are those of plain
  autograd bit for bit.
* "invert": a column's outputs are kept, its inputs follow from them, as in the official code. That is as much
  memory as "checkpoint", since the outputs of one column are the inputs of the next; it is here to compare.
* "chain": only the outputs of the last column are kept, whatever the number of columns. Errors grow from
  column to column, by 1 / g each: for a few columns in float32.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

MemorySaver = Literal["checkpoint", "invert", "chain"]
States = tuple[Tensor, ...]

SMALLEST_FACTOR = 1e-3  # official code: what is divided by in the inversion
LONGEST_CHAIN = 6  # columns; more of them lose the first in rounding errors, with factors of 0.5 in float32


def require_saver(name: str) -> MemorySaver:
    """The name of a way to save memory, checked.

    Raises:
        ValueError: there is no such way.
    """
    if name not in get_args(MemorySaver):
        raise ValueError(f"memory_saver={name!r}: possible are {', '.join(get_args(MemorySaver))}")
    return cast(MemorySaver, name)


class Column(nn.Module):
    """Levels and their factors.

    Args:
        levels: called with the level before it in this column (or the entry), and with the next one of the
            column before (None where there is none); in the order in which they are computed.
        shapes: of the factors, to be multiplied with the states; none for a first column.
        factor: initial value of all factors.
    """

    def __init__(
        self,
        levels: Iterable[nn.Module],
        *,
        shapes: Iterable[tuple[int, ...]] = (),
        factor: float = 0.5,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.gammas = nn.ParameterList(torch.full(shape, factor) for shape in shapes)
        self.random = any(isinstance(part, DropPath) and part.drop_prob for part in self.modules())

    def factor(self, place: int) -> Tensor:
        """The factor of a level, at least `SMALLEST_FACTOR` in size; a gradient passes the bound."""
        gamma = self.gammas[place]
        bounded = torch.where(gamma < 0, -1.0, 1.0) * gamma.abs().clamp(min=SMALLEST_FACTOR)
        return gamma + (bounded - gamma).detach()

    def forward(
        self,
        entry: Tensor,
        *old: Tensor,
        count: int | None = None,
        before_each: Callable[[], None] | None = None,
    ) -> States:
        """The new levels.

        Args:
            entry: what the first level gets in place of one before it.
            old: levels of the column before, one more than `count` if there are so many; none for a first
                column.
            count: levels to compute; None is all.
            before_each: called before every level.
        """
        new: list[Tensor] = []
        for place in range(len(self.levels) if count is None else count):
            if before_each is not None:
                before_each()
            upper = old[place + 1] if place + 1 < len(old) else None
            change = self.levels[place](new[-1] if new else entry, upper)
            new.append(change + self.factor(place) * old[place] if old else change)
        return tuple(new)

    def inverse(self, entry: Tensor, *new: Tensor) -> States:
        """The levels of the column before, from all levels of this one."""
        self.require_inverse()
        old: list[Tensor] = []
        for place in reversed(range(len(self.levels))):
            change = self.levels[place](new[place - 1] if place else entry, old[0] if old else None)
            old.insert(0, (new[place] - change) / self.factor(place))
        return tuple(old)

    def require_inverse(self) -> None:
        """
        Raises:
            ValueError: this is a first column.
        """
        if not len(self.gammas):
            raise ValueError("a first column has no inverse: no column is before it")


def run_columns(
    columns: Sequence[Column],
    entry: Tensor,
    old: States = (),
    *,
    counts: Sequence[int] | None = None,
    saver: MemorySaver | None = None,
) -> Iterator[States]:
    """The levels after every column; with "chain" only after a first and after the last one.

    Args:
        entry: see `Column.forward`; the same for all columns.
        old: levels before the first of them.
        counts: how many levels of each column are wanted; None is all. Parts of a column cannot be inverted
            and are checkpointed.
        saver: how to keep fewer activations; None keeps all of them.
    """
    counts = [len(column.levels) for column in columns] if counts is None else counts
    whole = all(count == len(column.levels) for column, count in zip(columns, counts, strict=True))
    chained: list[Column] = []
    for column, count in zip(columns, counts, strict=True):
        if saver is None:
            old = column(entry, *old, count=count)
        elif saver == "checkpoint" or not old or not whole:
            old = checkpoint(column, entry, *old, count=count, use_reentrant=False)
        elif saver == "invert":
            old = _invert([column], entry, old)
        else:
            chained.append(column)
            continue
        yield old
    if chained:
        yield _invert(chained, entry, old)


def _invert(columns: list[Column], entry: Tensor, old: States) -> States:
    if len(columns) > LONGEST_CHAIN or (len(columns) > 1 and torch.is_autocast_enabled(entry.device.type)):
        warnings.warn(
            f"gradients of {len(columns)} columns inverted one after the other are inexact"
            + (" under mixed precision" if torch.is_autocast_enabled(entry.device.type) else "")
            + f": use memory_saver='checkpoint', or at most {LONGEST_CHAIN} columns in float32",
            stacklevel=2,
        )
    for column in columns:
        column.require_inverse()
    parameters = [parameter for column in columns for parameter in column.parameters()]
    return _Inverted.apply(columns, len(old), entry, *old, *parameters)


class _Draw(NamedTuple):
    """The state of the random generators before a level."""

    host: Tensor
    devices: list[int]
    states: list[Tensor]

    @classmethod
    def now(cls, tensor: Tensor) -> "_Draw":
        return cls(torch.get_rng_state(), *get_device_states(tensor))


@contextmanager
def _as_drawn(draw: _Draw | None, device: str) -> Iterator[None]:
    """Random numbers as they were drawn; afterwards as if none had been."""
    if draw is None:
        yield
        return
    with torch.random.fork_rng(devices=draw.devices, device_type=device if device != "cpu" else "cuda"):
        torch.set_rng_state(draw.host)
        set_device_states(draw.devices, draw.states, device_type=device)
        yield


class _Inverted(torch.autograd.Function):
    """Columns of which the backward pass knows the last outputs alone.

    Parameters are inputs, so that their gradients flow as any other: `torch.autograd.grad` and the hooks of
    data-parallel training see them.
    """

    @staticmethod
    def forward(ctx: Any, columns: list[Column], levels: int, entry: Tensor, *tensors: Tensor) -> States:
        states: States = tensors[:levels]
        device = entry.device.type
        ctx.columns = columns
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.dtypes, ctx.draws = [], []
        for column in columns:
            draws: list[_Draw | None] = []
            drawing = column.random and column.training
            watch = (lambda own=draws: own.append(_Draw.now(entry))) if drawing else None
            ctx.dtypes.append([state.dtype for state in states])
            states = column(entry, *states, before_each=watch)
            ctx.draws.append(draws or [None] * levels)
        ctx.save_for_backward(entry, *states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        entry, *states = ctx.saved_tensors
        of_states = list(gradients)
        of_entry = torch.zeros_like(entry)
        of_parameters: dict[nn.Parameter, Tensor] = {}
        for column, dtypes, draws in zip(
            reversed(ctx.columns), reversed(ctx.dtypes), reversed(ctx.draws), strict=True
        ):
            states, of_states = _step_back(
                column, entry, states, of_states, of_entry, of_parameters, (dtypes, draws, ctx.autocast)
            )
        found = [of_parameters.get(one) for column in ctx.columns for one in column.parameters()]
        return (None, None, of_entry, *of_states, *found)


def _step_back(
    column: Column,
    entry: Tensor,
    new: list[Tensor],
    of_new: list[Tensor],
    of_entry: Tensor,
    of_parameters: dict[nn.Parameter, Tensor],
    conditions: tuple[list[torch.dtype], list[_Draw | None], tuple[str, torch.dtype, bool]],
) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs of a column and their gradients, every level computed once.

    Args:
        of_new: gradients of its outputs.
        of_entry: added to.
        of_parameters: added to.
        conditions: dtypes of the inputs, draws of the levels, and the autocast of the forward pass.
    """
    dtypes, draws, (device, dtype, enabled) = conditions
    of_new, old, of_old = list(of_new), list(new), list(new)
    for place in reversed(range(len(new))):
        lower = (new[place - 1] if place else entry).detach().requires_grad_()
        upper = old[place + 1].detach().requires_grad_() if place + 1 < len(new) else None
        autocast = torch.autocast(device, dtype=dtype, enabled=enabled)
        with torch.enable_grad(), _as_drawn(draws[place], device), autocast:
            change = column.levels[place](lower, upper)
        gamma, wanted = column.gammas[place], column.factor(place).detach()
        old[place] = ((new[place] - change.detach()) / wanted).to(dtypes[place])
        if gamma.requires_grad:
            of_parameters[gamma] = (of_new[place] * old[place]).sum_to_size(gamma.shape)
        of_old[place] = wanted * of_new[place]
        learned = [one for one in column.levels[place].parameters() if one.requires_grad]
        sources = [lower, *([] if upper is None else [upper]), *learned]
        of_lower, *rest = torch.autograd.grad(
            change, sources, of_new[place].to(change.dtype), allow_unused=True, materialize_grads=True
        )
        if upper is not None:
            of_old[place + 1] = of_old[place + 1] + rest.pop(0)
        of_parameters.update(zip(learned, rest, strict=True))
        if place:
            of_new[place - 1] = of_new[place - 1] + of_lower
        else:
            of_entry += of_lower
    return old, of_old
