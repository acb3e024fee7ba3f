"""Files that could not be read: each process meets its own, the log and the checkpoints name them all."""

from accelerate.utils import gather_object

from unmask.engine.checkpoint import State
from unmask.engine.log import RunLog
from unmask.engine.setup import Job


def note_bad(job: Job, state: State, log: RunLog, *, together: bool) -> None:
    """Add the files that could not be read lately to `state` and to the log.

    Args:
        together: all processes call this now and tell each other what they met; else several note nothing.
    """
    bad = job.loader.bad
    if job.accelerator.num_processes > 1:
        if not together:
            return
        news = {name: reason for name, reason in bad.items() if name not in state.bad}
        for others in gather_object([news]):
            bad.update(others)
    if len(bad) == len(state.bad):
        return
    for name, reason in bad.items():
        if name not in state.bad:
            state.bad[name] = reason
            log.event("bad_image", state.step, name=name, reason=reason)
