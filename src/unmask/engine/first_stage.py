"""Tokenizers: trained for their own sake, or as the first of two stages for the method that needs one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.data import open_source
from unmask.encoders.base import ImageSize
from unmask.engine.machine import CACHE_SIZE, Machine
from unmask.engine.pretrain import Task, carry_out
from unmask.engine.run import FIRST_STAGE, Run, continued, require_apart, saved_recipe
from unmask.errors import UserError
from unmask.recipes.base import Choice, Plan, Recipe, TokenizerRecipe
from unmask.recipes.build import build_method, usable_tokenizer
from unmask.recipes.resolve import resolve_tokenizer
from unmask.recipes.stages import tokenizer_for
from unmask.runs import location


def train_tokenizer(
    tokenizer_or_recipe: str | TokenizerRecipe,
    *,
    data: Any,
    out: str | Path,
    image_size: ImageSize | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    compile: bool | None = None,
    cache: str | Path | None = None,
    cache_size: float = CACHE_SIZE,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Run:
    """Train a tokenizer on unlabelled images, into a run folder; the options are those of `pretrain`.

    The folder then holds `tokenizer.safetensors` and `tokenizer.json`, for `load_tokenizer` and for
    `method.tokenizer`.

    Args:
        tokenizer_or_recipe: "dvae", "vqkd" or "peco", a published run, the path of a recipe.json, or a
            recipe.
        overrides: dotted key -> value: "tokenizer.vocabulary", "optim.clip", ...

    Raises:
        UserError: anything that a person can correct.
    """
    folder = Path(out)
    saved = _tokenizer(saved_recipe(folder, resume=resume, overwrite=overwrite), folder)
    source = open_source(data)
    require_apart(folder, source)
    recipe = resolve_tokenizer(
        continued(saved, tokenizer_or_recipe),
        images=len(source),
        image_size=image_size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        overrides=overrides,
    )
    machine = Machine(
        device=device,
        precision=precision,
        workers=workers,
        compile=compile,
        checkpointing=False,
        cache=None if cache is None else Path(cache),
        cache_size=cache_size,
    )
    where = location(data if isinstance(data, str | Path) else source)
    task = Task(folder, source, where, machine, progress, clears=folder if overwrite else None)
    return carry_out(recipe, saved, task)


def train_first(
    recipe: Recipe, option: str, task: Task, *, epochs: int | None = None, steps: int | None = None
) -> tuple[Recipe, Run]:
    """Train the tokenizer that a method needs, in the folder `tokenizer` of the run's folder; one that is
    finished there is taken as it is, and one that was begun goes on.

    Args:
        option: of the method, that is to name the tokenizer.
        epochs: length of each of the two; None is the default's.
        steps: likewise.

    Returns:
        The recipe, which names it, and its run.

    Raises:
        UserError: the method cannot use it, or anything that a person can correct.
    """
    folder = task.folder / FIRST_STAGE
    anew = task.clears is not None
    saved = _tokenizer(saved_recipe(folder, resume=not anew, overwrite=anew), folder)
    first = saved or tokenizer_for(recipe, images=len(task.source), epochs=epochs, steps=steps)
    # Hours later would be late to learn that the two do not fit together.
    build_method(recipe, folder=task.folder, parts={option: usable_tokenizer(first)})
    machine = replace(task.machine, checkpointing=False, cache=None)
    run = carry_out(first, saved, replace(task, folder=folder, machine=machine, stage="Stage 1 of 2: "))
    options = {**recipe.method.options, option: FIRST_STAGE}
    return recipe.model_copy(update={"method": Choice(name=recipe.method.name, **options)}), run


def _tokenizer(saved: Plan | None, folder: Path) -> TokenizerRecipe | None:
    if saved is None or isinstance(saved, TokenizerRecipe):
        return saved
    raise UserError(
        f"--out {folder} holds an encoder's run, {saved.name}: go on with it by `unmask pretrain`"
    )
