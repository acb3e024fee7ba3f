"""Files that could not be read: each process meets its own, the log and the checkpoints name them all."""

from accelerate import Accelerator
from accelerate.utils import gather_object

from unmask.engine.checkpoint import State
from unmask.engine.log import RunLog


def note_bad(
    accelerator: Accelerator, bad: dict[str, str], state: State, log: RunLog, *, together: bool
) -> None:
    """Add the files that could not be read lately to `state` and to the log.

    Args:
        bad: name -> reason of those that this process met; gets those of the others too.
        together: all processes call this now and tell each other what they met; else several note nothing.
    """
    if accelerator.num_processes > 1:
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
