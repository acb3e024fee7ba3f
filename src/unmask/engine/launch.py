"""Which of several processes this is, as torchrun and its like say in the environment; without torch."""

import os


def processes_here() -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def speaks() -> bool:
    """Whether this is the run's process that speaks for this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) <= 0
