"""Fine-tuning on labelled images: `unmask evaluate finetune`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from unmask.data.parts import Parts, open_parts
from unmask.encoders import Encoder
from unmask.encoders.base import ImageSize
from unmask.engine.labelled import saved_task_recipe, train_task
from unmask.engine.launch import speaks
from unmask.engine.machine import Machine
from unmask.engine.run import Run, require_apart
from unmask.errors import UserError
from unmask.evaluate.finetune.choose import choose_recipe
from unmask.evaluate.finetune.classifier import NEW, build_classifier, classifier_architecture
from unmask.evaluate.finetune.published import PUBLISHED
from unmask.evaluate.finetune.recipe import FinetuneRecipe, Start
from unmask.evaluate.finetune.task import FinetuneTask
from unmask.evaluate.subject import Subject, find_subject, untrained
from unmask.load import is_path, resized
from unmask.recipes.base import Choice
from unmask.recipes.tasks import with_settings
from unmask.runs import location, read_json, task_of

__all__ = ["PUBLISHED", "FinetuneRecipe", "finetune"]

HEAD = "model.safetensors"
GIVEN = ("start.", "encoder.name", "data.channels", "data.bits")  # settings that follow from the start


def finetune(
    run_or_name: str | Path | Encoder,
    *,
    data: Any,
    out: str | Path,
    recipe: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: ImageSize | None = None,
    fraction: float | None = None,
    random: bool = False,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    compile: bool | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Run:
    """Train an encoder with a classifier on labelled images, into a folder.

    The recipe is that of the paper whose method trained the encoder, or, of fewer than 20,000 images, a short
    one of ours. The weights that are best on the validation images are kept; test images, if there are any,
    are judged once, by these. The folder then holds an ordinary timm model (`model.safetensors`,
    `config.json`), the encoder inside it, `metrics.json`, tables, pictures and `report.html`. A run that was
    stopped or killed goes on with `resume` as if never stopped (`train_task`).

    Args:
        run_or_name: a run folder, a folder or file with a saved encoder, a timm name (its published weights),
            "random:NAME", or an encoder. A fine-tuned run is fine-tuned further: its classifier is kept if
            the classes are the same.
        data: see `data.parts.open_parts`: `train`, `validation` (or `val`) and perhaps `test`, each with a
            folder for every class; or a table with path, label and split.
        out: the folder, new or empty unless `resume` or `overwrite`.
        recipe: of a paper, by its name in `PUBLISHED`, in the place of the one that would be chosen.
        lr: peak learning rate; None is the recipe's, scaled to the batch.
        image_size: height and width in pixels; None is what the encoder was trained with.
        fraction: of the training images, the same share of every class, the same ones for the same seed.
        random: start from the weights that the run's own training began with: the baseline under the same
            budget.
        device: this and the others up to `compile` are as for `pretrain`.
        seed: of the classifier's first weights, order, augmentation, `fraction` and `random`.
        overrides: dotted key -> value for all else: "optim.layer_decay", "task.mixup", "data.augment",
            "encoder.drop_path_rate", ...

    Raises:
        UserError: anything that a person can correct.
    """
    folder = Path(out)
    saved = saved_task_recipe(FinetuneRecipe, folder, resume=resume, overwrite=overwrite, asked=recipe)
    settings = {**(overrides or {}), **({} if fraction is None else {"data.fraction": fraction})}
    if wrong := [key for key in settings if key.startswith(GIVEN)]:
        raise UserError(f"{wrong[0]} follows from what is fine-tuned and cannot be set")
    parts = open_parts(data)
    require_apart(folder, parts.train)
    drawn_by = saved.seed if saved is not None and seed is None else seed or 0
    subject = find_subject(run_or_name, image_size=None, seed=drawn_by)
    random = random or (saved is not None and saved.start.random)
    start = Start(name=_place(run_or_name, subject), method=_method(subject), random=random)
    chosen: dict[str, Any] = {"image_size": image_size, "batch_size": batch_size, "lr": lr, "seed": seed}
    base = saved or _chosen(recipe, subject, parts, start, _fraction(settings))
    resolved = with_settings(base, epochs=epochs, steps=steps, overrides=settings, **chosen)
    resolved = resolved.model_copy(update={"start": start, "classes": tuple(parts.classes)})
    _require_pairs(resolved)
    _say([*parts.notes, *_left_out(resolved)], shown=progress)
    task = _task(resolved, subject, parts.with_fraction(resolved.data.fraction, seed=resolved.seed))
    machine = Machine(
        device=device, precision=precision, workers=workers, compile=compile, checkpointing=False
    )
    place = location(data)
    options: dict[str, Any] = {"saved": saved, "overwrite": overwrite, "progress": progress}
    return train_task(task, resolved, folder, machine, data=place, **options)


def _say(notes: list[str], *, shown: bool) -> None:
    console = Console(stderr=True, quiet=not (shown and speaks()))
    for note in notes:
        console.print(note, soft_wrap=True)


def _fraction(settings: Mapping[str, Any]) -> float:
    """Of the training images that are used, as `--fraction` or as a setting."""
    own = {key: value for key, value in settings.items() if key == "data.fraction"}
    return with_settings(FinetuneRecipe(name=""), overrides=own).data.fraction


def _chosen(
    recipe: str | None, subject: Subject, parts: Parts, start: Start, fraction: float
) -> FinetuneRecipe:
    """The recipe before a person's settings."""
    if subject.encoder is None:
        raise UserError("pixels cannot be fine-tuned: give a run, a timm name, or random:NAME")
    images = len(parts.with_fraction(fraction, seed=0).train)
    chosen = choose_recipe(
        recipe,
        method=start.method,
        encoder=subject.encoder,
        images=images,
        again=_is_fine_tuned(subject),
    )
    plain = {"channels": subject.channels, "bits": subject.bits, "mean": subject.mean, "std": subject.std}
    if (subject.channels, subject.bits) != (3, 8):
        plain["augment"] = None
    data = type(chosen.data).model_validate(
        chosen.data.model_dump() | plain | {"image_size": subject.image_size}
    )
    name = subject.encoder.architecture["model_name"]
    changes: dict[str, Any] = {"data": data, "encoder": Choice(name=name, **chosen.encoder.options)}
    return chosen.model_copy(update=changes)


def _task(recipe: FinetuneRecipe, subject: Subject, parts: Parts) -> FinetuneTask:
    """The classifier with its first weights, and its data."""
    if recipe.start.random:
        subject = untrained(subject, seed=recipe.seed)
    assert subject.encoder is not None
    encoder = subject.encoder
    if encoder.image_size != recipe.data.image_size:
        encoder = resized(encoder, recipe.data.image_size)
    architecture = classifier_architecture(
        encoder, classes=len(recipe.classes), pool=recipe.task.pool, options=recipe.encoder.options
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        known = {} if recipe.start.random else _known(subject, recipe.classes)
        model: nn.Module = build_classifier(encoder, architecture, head_std=recipe.task.head_std, known=known)
    about = {"run": _folder(subject), "made_by": subject.made_by}
    return FinetuneTask(recipe, model, architecture=architecture, encoder=encoder, parts=parts, about=about)


def _known(subject: Subject, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """Of a fine-tuned run the norm in front of its classifier, and this too if its classes are the same."""
    folder = _folder(subject)
    if folder is None or not _is_fine_tuned(subject):
        return {}
    tensors = {name: tensor for name, tensor in load_file(folder / HEAD).items() if name.startswith(NEW)}
    if tuple(read_json(folder / "config.json").get("label_names", ())) != classes:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    return tensors


def _folder(subject: Subject) -> Path | None:
    """Where the encoder lies, if it is a file."""
    path = Path(subject.name).expanduser()
    if not path.exists():
        return None
    return path if path.is_dir() else path.parent


def _is_fine_tuned(subject: Subject) -> bool:
    folder = _folder(subject)
    return folder is not None and task_of(folder) == "finetune"


def _place(run_or_name: str | Path | Encoder, subject: Subject) -> str:
    """What the recipe calls the start: a path that is right from any folder, or timm's name."""
    own = not isinstance(run_or_name, Encoder) and is_path(run_or_name)
    return location(run_or_name) if own else subject.name


def _method(subject: Subject) -> str | None:
    return (subject.made_by or {}).get("method")


def _left_out(recipe: FinetuneRecipe) -> list[str]:
    """What the pictures do not allow."""
    if recipe.data.has_colours:
        return []
    return [
        "RandAugment needs RGB pictures of 8 bits and is left out: these have "
        f"{recipe.data.channels} channels of {recipe.data.bits} bits."
    ]


def _require_pairs(recipe: FinetuneRecipe) -> None:
    """
    Raises:
        UserError: mixup and cutmix pair the images of a part of a batch, and one would be left over.
    """
    part = recipe.optim.batch_size // recipe.optim.accumulate // int(os.environ.get("WORLD_SIZE", 1))
    if recipe.task.mixes and part % 2:
        raise UserError(
            f"mixup and cutmix mix pairs, but {part} images are computed together: use an even --batch-size, "
            "or none of them (task.mix_probability=0)"
        )
