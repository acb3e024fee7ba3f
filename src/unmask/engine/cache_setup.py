"""The caches that a run asks for: checked, named, and given room; nothing is written yet."""

import hashlib
import json
from typing import Any

import torch
from accelerate import Accelerator

from unmask import __version__
from unmask.data import Source
from unmask.data.views import View, scaled
from unmask.engine.cache import Answer, AnswerCache, Caches, Layout
from unmask.engine.machine import Machine, Precision
from unmask.engine.space import disk_use, free_space
from unmask.errors import UserError
from unmask.learner import Learner
from unmask.recipes.base import Plan
from unmask.targets import Question

GB = 1e9
FORMAT = 1  # of what is kept; another one is another folder


def build_caches(
    machine: Machine,
    recipe: Plan,
    source: Source,
    learner: Learner,
    accelerator: Accelerator,
    precision: Precision,
) -> Caches | None:
    """For what a learner asks, on its device; None if nothing is to be kept. Writes nothing.

    Raises:
        UserError: there is nothing that can be kept.
    """
    if machine.cache is None:
        return None
    if not machine.cache_size > 0:
        raise UserError(f"--cache-size {machine.cache_size}: a positive number of GB")
    if machine.cache.exists() and not machine.cache.is_dir():
        raise UserError(f"--cache {machine.cache} is a file; give the name of a folder")
    if recipe.data.crops is None:
        raise UserError(
            "--cache keeps what is said of crops that come again, but every epoch draws new ones: give "
            "data.crops, such as data.crops=4, or leave --cache out"
        )
    questions = learner.questions
    if not questions:
        raise UserError(f"--cache: {recipe.title} asks no teacher and no tokenizer; leave it out")
    room, caches = machine.cache_size * GB - disk_use(machine.cache), {}
    for name, question in questions.items():
        layout = Layout.of(_sample_answer(recipe, learner.views[name], question, accelerator))
        key = _key(recipe, source, name, learner.views[name], question)
        key |= {"device": accelerator.device.type, "precision": precision}
        key = json.loads(json.dumps(key, sort_keys=True, default=str))
        folder = machine.cache / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        own, free = disk_use(folder), free_space(machine.cache)
        caches[name] = AnswerCache(
            folder,
            key,
            question,
            layout,
            places=recipe.data.crops * len(source),
            room=own + min(room, free / 2),
            accelerator=accelerator,
        )
        room -= caches[name].size - own
    return Caches(caches)


def _key(recipe: Plan, source: Source, name: str, view: View, question: Question) -> dict[str, Any]:
    """What decides answers; of what decides pixels enough that different data do not share a folder."""
    return {
        "format": FORMAT,
        "unmask": __version__,
        "torch": torch.__version__,
        "network": dict(question.network),
        "view": {"name": name, **vars(view)},
        "data": {"name": str(source), "images": len(source)},
        # More crops go on where fewer were kept: the first ones are the same.
        "crops": {"seed": recipe.seed, **recipe.data.model_dump(mode="json", exclude={"crops", "max_bad"})},
    }


@torch.no_grad()
def _sample_answer(recipe: Plan, view: View, question: Question, accelerator: Accelerator) -> Answer:
    """What is said of a black image, to know its shape."""
    sides = (scaled(side, view.scale) for side in recipe.data.image_size)
    with accelerator.autocast():
        return question.ask(torch.zeros(1, recipe.data.channels, *sides, device=accelerator.device))
