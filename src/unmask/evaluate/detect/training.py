"""From what a person asked for to a trained detector; what `unmask evaluate detect` runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from unmask import __version__
from unmask.data.decode import MODES
from unmask.data.views import imagenet_statistics
from unmask.encoders import Encoder
from unmask.encoders.base import ImageSize
from unmask.encoders.itpn import Pyramid
from unmask.engine.labelled import saved_task_recipe, train_task
from unmask.engine.launch import speaks
from unmask.engine.machine import Machine
from unmask.engine.run import Run
from unmask.errors import UserError
from unmask.evaluate.backbone import begun, find_parts
from unmask.evaluate.detect.coco import read_annotations
from unmask.evaluate.detect.detector import Detector
from unmask.evaluate.detect.masks import coco_masks
from unmask.evaluate.detect.recipe import DetectRecipe
from unmask.evaluate.detect.recipes import find_recipe
from unmask.evaluate.detect.saved import Card
from unmask.evaluate.detect.task import DetectionTask, Sets
from unmask.evaluate.subject import Subject
from unmask.recipes.tasks import with_settings
from unmask.runs import location


def detect(
    run_or_name: str | Path | Encoder,
    *,
    data: str | Path,
    annotations: str | Path,
    val_annotations: str | Path,
    out: str | Path,
    val_data: str | Path | None = None,
    recipe: str | DetectRecipe | None = None,
    random: bool = False,
    image_size: ImageSize | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    compile: bool | None = None,
    checkpointing: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Run:
    """Train a detector on a backbone, and judge it by COCO's average precision.

    The folder gets `metrics.json`, `classes.csv`, `predictions.json` (COCO's format of results),
    `detections.png` and the detector, `detector.safetensors` and `detector.json`, for `load_detector`.

    Args:
        run_or_name: a run folder, a folder or file with a saved encoder, a timm name (its published weights),
            "random:NAME" (random weights), or an encoder.
        data: folder of the training pictures.
        annotations: COCO's JSON of their boxes, and masks, which are learned too if all objects have one.
        val_data, val_annotations: likewise, to judge by; None is the folder of the training pictures.
        out: the folder to make.
        recipe: a name of `recipes.RECIPES`, or a recipe; None is "small", or that of the run to go on with.
        random: start from random weights, those that the run itself started from: what a backbone is worth is
            the difference.
        image_size: height and width of the canvas on which pictures are put.
        epochs, steps, batch_size, lr, seed: in the place of the recipe's.
        device, precision, workers, compile, checkpointing, resume, overwrite, progress: as of `pretrain`.
        overrides: dotted key -> value for all else: "heads.kind", "data.jitter", "optim.layer_decay", ...

    Raises:
        UserError: anything that a person can correct.
    """
    coco_masks()  # or a run would end in want of the package that scores it
    folder = Path(out)
    asked = find_recipe(recipe or "small") if not isinstance(recipe, DetectRecipe) else recipe
    own = None if recipe is None else asked.name
    saved = saved_task_recipe(DetectRecipe, folder, resume=resume, overwrite=overwrite, asked=own)
    chosen = with_settings(
        saved or asked,
        image_size=image_size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        overrides=overrides,
    )
    named = run_or_name.architecture["model_name"] if isinstance(run_or_name, Encoder) else str(run_or_name)
    start = {"subject": named, "random": random or chosen.start.random}
    chosen = chosen.model_copy(update={"start": chosen.start.model_copy(update=start)})
    sets = _sets(chosen, data, annotations, val_data or data, val_annotations)
    _say_what_is_odd(sets, progress, masks=chosen.heads.masks)
    if saved is None or saved.heads.masks is not None:  # older runs left it open
        heads = chosen.heads.model_copy(update={"masks": sets.masks})
        chosen = chosen.model_copy(update={"heads": heads})
    parts = find_parts(run_or_name, image_size=chosen.data.image_size, seed=chosen.seed)
    detector, card = _detector(*parts, chosen, sets)
    detector.backbone.encoder.checkpointing = checkpointing
    task = DetectionTask(detector, card, chosen, sets)
    machine = Machine(
        device=device, precision=precision, workers=workers, compile=compile, checkpointing=checkpointing
    )
    where = location(annotations)
    return train_task(
        task, chosen, folder, machine, saved=saved, overwrite=overwrite, data=where, progress=progress
    )


def _sets(
    recipe: DetectRecipe,
    data: str | Path,
    annotations: str | Path,
    val_data: str | Path,
    val_annotations: str | Path,
) -> Sets:
    """Both sets, with masks or without."""
    train = read_annotations(annotations, data)
    validation = read_annotations(val_annotations, val_data, like=train)
    for own in (train, validation):
        if not own.objects:
            raise UserError(f"{own.file} has no objects: there is nothing to find.")
    masks = train.masked and validation.masked if recipe.heads.masks is None else recipe.heads.masks
    if masks:
        train, validation = train.with_masks(), validation.with_masks()
    return Sets(train, validation, masks)


def _say_what_is_odd(sets: Sets, progress: bool, *, masks: bool | None) -> None:
    """What was left out or changed, and why there are no masks where most objects have one.

    Args:
        masks: what was asked for; None is left to the data.
    """
    console = Console(stderr=True, quiet=not (progress and speaks()))
    both = (sets.train, sets.validation)
    for own in both:
        if own.skipped:
            counts = ", ".join(f"{count:,} {what}" for what, count in own.skipped.items())
            console.print(f"{own.file.name}: {counts}", soft_wrap=True)
    if masks is None and not sets.masks and all(own.unmasked < own.objects for own in both):
        for own in both:
            if own.unmasked:
                console.print(
                    f"{own.file.name}: {own.unmasked:,} of {own.objects:,} objects have no mask, so boxes "
                    f"alone are learned; --masks learns masks too, and leaves those {own.unmasked:,} out",
                    soft_wrap=True,
                )


def _detector(
    subject: Subject, pyramid: Pyramid | None, recipe: DetectRecipe, sets: Sets
) -> tuple[Detector, Card]:
    """The network with its first weights, and what there is to say of it."""
    if subject.bits != 8 or subject.channels not in MODES:
        raise UserError(
            f"A detector reads grey, RGB or RGBA pictures of 8 bits, and {subject.name} was trained on "
            f"{subject.channels} channels of {subject.bits} bits."
        )
    start, classes = recipe.start, sets.train.names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        subject, pyramid = begun(
            subject,
            pyramid,
            drop_path_rate=start.drop_path_rate,
            random=start.random,
            seed=recipe.seed,
        )
        assert subject.encoder is not None
        try:
            detector = Detector(
                subject.encoder, recipe.heads, classes=len(classes), masks=sets.masks, pyramid=pyramid
            )
        except ValueError as error:
            raise UserError(f"{subject.name}: {error}") from error
    mean, std = imagenet_statistics(subject.channels, subject.mean, subject.std)
    return detector, Card(
        architecture=subject.encoder.architecture,
        pyramid=detector.backbone.architecture["pyramid"],
        heads=recipe.heads.model_dump(mode="json"),
        masks=sets.masks,
        names=classes,
        ids=sets.train.ids,
        image_size=subject.image_size,
        short_side=None if recipe.data.short_side is None else recipe.data.short_side[1],
        channels=subject.channels,
        mean=mean,
        std=std,
        made_by={
            "unmask": __version__,
            "recipe": recipe.name,
            "encoder": subject.name,
            "encoder_made_by": None if start.random else subject.made_by,
        },
    )
