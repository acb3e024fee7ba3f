"""What a run leaves behind while it goes on: checkpoints, its result, pictures."""

from unmask import __version__
from unmask.engine.checkpoint import State, save_checkpoint
from unmask.engine.guard import require_finite
from unmask.engine.pictures import save_strip
from unmask.engine.setup import Job


def save(job: Job, state: State) -> None:
    """A checkpoint, and the result as it stands; nothing if the weights are not finite.

    Raises:
        UserError: they are not.
    """
    require_finite(job.result, state.step)
    folder, keep = job.folder / "checkpoints", job.recipe.checkpoint.keep
    save_checkpoint(job.accelerator, job.ema, state, folder, keep=keep, best=state.best)
    _hand_over(job, state, job.kind.weights)


def save_best(job: Job, state: State) -> None:
    """The weights that scored best so far, beside the newest ones; their checkpoint is kept by `save`."""
    assert job.kind.best is not None, "only a kind that keeps them has a best step"
    _hand_over(job, state, job.kind.best)


def _hand_over(job: Job, state: State, file: str) -> None:
    if job.accelerator.is_main_process:
        made_by = {"unmask": __version__, "recipe": job.recipe.name, "step": state.step}
        job.kind.hand_over(job, job.result, file, made_by=made_by)


def save_pictures(job: Job, state: State) -> None:
    """A reconstruction strip."""
    if job.accelerator.is_main_process:
        save_strip(job, state.step)
    job.accelerator.wait_for_everyone()
