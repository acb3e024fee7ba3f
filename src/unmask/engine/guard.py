"""Steps whose loss or gradient is no finite number: counted, their batch kept to be looked at."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Shaped
from safetensors.torch import save_file
from torch import Tensor

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
    """Counts the rejected steps in a row, and keeps the batches of some.

    Args:
        job: the run.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._in_a_row = 0

    def accept(self) -> None:
        """Note a step that was finite."""
        self._in_a_row = 0

    def reject(
        self, step: int, outcome: Outcome, views: Mapping[str, Shaped[Tensor, "B C H W"]]
    ) -> str | None:
        """Note a step that was not.

        Returns:
            The file with the step's batch, relative to the run's folder; None if enough are kept already.
        """
        self._in_a_row += 1
        kept = keep(self._job, step, outcome, views)
        return None if kept is None else str(kept.relative_to(self._job.folder))

    def require_few(self, step: int) -> None:
        """End a run that can only go on so.

        Raises:
            UserError: `step` was the last of `MOST_REJECTED` in a row.
        """
        if self._in_a_row == MOST_REJECTED:
            kept = sorted((self._job.folder / "failures").glob("*.png"))
            where = f" The first batches that failed are kept, as {kept[0]}." if kept else ""
            raise UserError(diverged(f"for {MOST_REJECTED} steps in a row, up to step {step:,}") + where)


def keep(
    job: Job,
    step: int,
    outcome: Outcome,
    views: Mapping[str, Shaped[Tensor, "B C H W"]],
) -> Path | None:
    """Write `failures/step_XXXXXXXX.safetensors`, and the pictures as PNG beside it.

    The file holds every view under its name, as it was read, and of a method `hidden` [B, N], the step's
    masks; its metadata say step, loss, gradient norm and the names of the files. Each process keeps its own
    part of the batch.

    Returns:
        The file; None if `MOST_KEPT` are there already.
    """
    folder, rank = job.folder / "failures", job.accelerator.process_index
    suffix = f"_rank{rank}" if rank else ""
    if len(list(folder.glob(f"step_????????{suffix}.safetensors"))) >= MOST_KEPT:
        return None
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:08d}{suffix}.safetensors"
    facts = {"step": step, "loss": outcome.losses["loss"], "grad_norm": outcome.norm}
    names = [str(job.source.name(index)) for index in _indices(job, step)]
    metadata = {name: str(value) for name, value in facts.items()} | {"files": json.dumps(names)}
    unfinished = beside(path)
    save_file({**views, **_hidden(job, step, views)}, unfinished, metadata=metadata)
    unfinished.replace(path)
    first = next(iter(views.values()))
    contact_sheet(first[:MOST_SHOWN]).save(path.with_suffix(".png"))
    return path


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


def diverged(when: str) -> str:
    """What to tell a person whose run computes no finite numbers."""
    return (
        f"the loss or its gradient was no finite number {when}; such steps are left out. Start anew with a "
        "smaller --lr, with optim.clip=1, or with --precision fp32."
    )
