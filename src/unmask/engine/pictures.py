"""Reconstructions of the same images under the same masks, over a run."""

from functools import cache

import torch
from torch import Tensor

from unmask.data import EvaluationLoader, Subset
from unmask.engine.files import beside
from unmask.engine.setup import Job

IMAGES = 8


def save_strip(job: Job, step: int) -> None:
    """Write `images/step_XXXXXXXX.png`: what the learner makes of eight images, evenly spread over the
    data; nothing if it makes no pictures.

    The state of the random generators stays as it is: a run with other pictures, or none, trains alike.
    """
    count = min(IMAGES, len(job.source))
    chosen = Subset(job.source, [index * len(job.source) // count for index in range(count)])
    data, device = job.recipe.data, job.accelerator.device

    @cache
    def read(size: tuple[int, int]) -> Tensor:
        loader = EvaluationLoader(
            chosen,
            size,
            batch_size=count,
            channels=data.channels,
            bits=data.depth,
            crop_fraction=1.0,
            interpolation=data.interpolation,
            max_bad=1.0,
            pin_memory=False,
        )
        found = [pixels for pixels, _labels, _indices in loader]  # one batch, or none if nothing can be read
        return torch.cat(found).to(device) if found else torch.empty(0)

    if not len(read(data.image_size)):
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(job.recipe.seed)
        picture = job.kind.picture(job, job.result, read)
    if picture is None:
        return
    path = job.folder / "images" / f"step_{step:08d}.png"
    path.parent.mkdir(exist_ok=True)
    unfinished = beside(path)
    picture.save(unfinished)
    unfinished.replace(path)
