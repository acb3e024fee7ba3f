"""Steps whose loss or gradient is no finite number: counted, their batch kept to be looked at."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Shaped
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from unmask.data.loader import epoch_order
from unmask.engine.draws import draws
from unmask.engine.files import beside
from unmask.engine.measure import Outcome
from unmask.engine.setup import Job
from unmask.errors import UserError
from unmask.sheets import contact_sheet

MOST_REJECTED = 20  # steps in a row without a finite loss and gradient, after which a run ends
MOST_KEPT = 3  # batches
MOST_SHOWN = 64  # pictures of a batch


class Guard:
    """Counts the rejected steps in a row.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._in_a_row = 0

    def accept(self) -> None:
        """Note a step that was finite."""
        self._in_a_row = 0

    def reject(self) -> None:
        """Note a step that was not."""
        self._in_a_row += 1

    def require_few(self, step: int) -> None:
        """End a run that can only go on so.

        Raises:
            UserError: `step` was the last of `MOST_REJECTED` in a row.
        """
        if self._in_a_row == MOST_REJECTED:
            # Of a step with a picture that comes first; what is learned from labels has none.
            kept = sorted((self._folder / "failures").glob("step_*"))
            where = f" The first batches that failed are kept, as {kept[0]}." if kept else ""
            raise UserError(diverged(f"for {MOST_REJECTED} steps in a row, up to step {step:,}") + where)


def keep(
    job: Job,
    step: int,
    outcome: Outcome,
    views: Mapping[str, Shaped[Tensor, "B C H W"]],
) -> str | None:
    """Write `failures/step_XXXXXXXX.safetensors`, and the pictures as PNG beside it.

    The file holds every view under its name, as it was read, and of a method `hidden` [B, N], the step's
    masks; its metadata say step, loss, gradient norm and the names of the files. Each process keeps its own
    part of the batch.

    Returns:
        The file, relative to the run's folder; None if `MOST_KEPT` are there already.
    """
    path = place_for(job.folder, step, job.accelerator.process_index)
    if path is None:
        return None
    facts = {"step": step, "loss": outcome.losses["loss"], "grad_norm": outcome.norm}
    names = [str(job.source.name(index)) for index in _indices(job, step)]
    metadata = {name: str(value) for name, value in facts.items()} | {"files": json.dumps(names)}
    unfinished = beside(path)
    save_file({**views, **_hidden(job, step, views)}, unfinished, metadata=metadata)
    unfinished.replace(path)
    first = next(iter(views.values()))
    contact_sheet(first[:MOST_SHOWN]).save(path.with_suffix(".png"))
    return str(path.relative_to(job.folder))


def place_for(run: Path, step: int, rank: int) -> Path | None:
    """The file for the batch that a process had at a step that was rejected; None if it has kept enough."""
    folder, suffix = run / "failures", f"_rank{rank}" if rank else ""
    if len(list(folder.glob(f"step_????????{suffix}.safetensors"))) >= MOST_KEPT:
        return None
    folder.mkdir(exist_ok=True)
    return folder / f"step_{step:08d}{suffix}.safetensors"


def _hidden(
    job: Job, step: int, views: Mapping[str, Shaped[Tensor, "B C H W"]]
) -> dict[str, Bool[Tensor, "B N"]]:
    """The masks of the step, drawn once more, as "hidden"; nothing where nothing is hidden."""
    parts = job.recipe.optim.accumulate
    masks = []
    for part in range(parts):
        images = {name: job.as_input(name, view.chunk(parts)[part]) for name, view in views.items()}
        masks += [mask.hidden.cpu() for mask in draws(job, images, step=step - 1, part=part).values()]
    return {"hidden": torch.cat(masks)} if masks else {}


def _indices(job: Job, step: int) -> list[int]:
    """Files that this process read for the step; an unreadable one was replaced by the next."""
    epoch, batch = divmod(step - 1, len(job.loader))
    order = epoch_order(len(job.source), job.recipe.seed, epoch)
    own = job.recipe.optim.batch_size // job.accelerator.num_processes
    start = batch * job.recipe.optim.batch_size + job.accelerator.process_index * own
    return [int(index) for index in order[start : start + own]]


def require_finite(module: nn.Module, step: int) -> None:
    """
    Raises:
        UserError: a weight is no finite number.
    """
    if not get_total_norm(module.parameters(), norm_type=math.inf).isfinite():
        raise UserError(diverged(f"and neither are the weights since, up to step {step:,}"))


def diverged(when: str) -> str:
    """What to tell a person whose run computes no finite numbers."""
    return (
        f"the loss or its gradient was no finite number {when}; such steps are left out. Start anew with a "
        "smaller --lr, with optim.clip=1, or with --precision fp32."
    )
