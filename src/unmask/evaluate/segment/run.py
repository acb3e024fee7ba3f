"""Train a segmenter on an encoder, from the names of both to the run's folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from unmask.data.views import imagenet_statistics
from unmask.encoders import Encoder
from unmask.encoders.base import ImageSize
from unmask.encoders.itpn import Pyramid
from unmask.engine.labelled import saved_task_recipe, train_task
from unmask.engine.launch import speaks
from unmask.engine.machine import Machine, choose_device
from unmask.engine.run import Run
from unmask.errors import UserError
from unmask.evaluate.backbone import backbone_of, find_parts
from unmask.evaluate.segment.layouts import find_mask_files
from unmask.evaluate.segment.polygons import find_polygons
from unmask.evaluate.segment.recipes import RECIPES, SegmentRecipe
from unmask.evaluate.segment.scenes import Scenes, require_classes, require_right_names, survey
from unmask.evaluate.segment.segmenter import Reading, Segmenter, Training
from unmask.evaluate.segment.task import SegmentTask
from unmask.evaluate.subject import Subject
from unmask.load import is_path
from unmask.necks import Backbone, natural_neck
from unmask.recipes.tasks import with_settings
from unmask.runs import location


def segment(
    run_or_name: str | Path | Encoder,
    *,
    data: str | Path,
    out: str | Path,
    annotations: str | Path | None = None,
    val_data: str | Path | None = None,
    val_annotations: str | Path | None = None,
    recipe: str | None = None,
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
    """Train UPerNet on an encoder, and the encoder with it, to give every pixel a class.

    The run's folder holds, beside what every run writes, `metrics.json` (mIoU, pixel accuracy, and of every
    class), `classes.csv`, `images/segmentation.png`, and the segmenter, for `unmask.load_segmenter`.

    Args:
        run_or_name: a run folder, a saved encoder, a timm name, "random:NAME", or an encoder.
        data: a folder with `images` and `annotations` (or `masks`), each with `training` and `validation` or
            without parts; with `annotations`, the folder of the pictures.
        out: the run's folder.
        annotations: COCO's JSON of the pictures to train on.
        val_data: folder of the pictures to validate on; None is `data`.
        val_annotations: their JSON; None lets a fifth of the pictures validate.
        recipe: one of `RECIPES`; None is "default", or that of the run to go on with.
        random: start from the weights that the run itself started from: the baseline.
        image_size: height and width of a crop; None is what the encoder was trained with.
        epochs: length of the run in passes over the data; or
        steps: in optimiser steps.
        batch_size: crops a step.
        lr: peak learning rate, of the head.
        seed: of weights, order and crops.
        device: and `precision`, `workers`, `compile`, `checkpointing`: see `unmask.pretrain`.
        resume: go on with the run in `out`.
        overwrite: delete it first.
        overrides: dotted settings, such as "network.neck" or "optim.layer_decay".

    Raises:
        UserError: anything that a person can correct.
    """
    folder = Path(out).expanduser()
    saved = saved_task_recipe(SegmentRecipe, folder, resume=resume, overwrite=overwrite, asked=recipe)
    chosen = with_settings(
        saved or named_recipe(recipe or "default"),
        image_size=image_size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        overrides={**({"network.random": True} if random else {}), **(overrides or {})},
    )
    chosen = _placed(chosen, run_or_name, saved)
    _require_several(chosen, choose_device(device))
    begun = run_or_name if isinstance(run_or_name, Encoder) else chosen.start
    subject, pyramid = find_parts(begun, image_size=chosen.data.image_size, seed=chosen.seed)
    chosen = _fitted(chosen, subject, pyramid)
    training, validation = _find(chosen, data, annotations, val_data, val_annotations, folder)
    network = build_network(subject, pyramid, chosen, training.classes, device=choose_device(device))
    network.segmenter.backbone.encoder.checkpointing = checkpointing
    _look_at_all(training, validation, subject, listed=annotations is None, progress=progress)
    machine = Machine(
        device=device, precision=precision, workers=workers, compile=compile, checkpointing=checkpointing
    )
    task = SegmentTask(network, training, validation, chosen)
    return train_task(
        task,
        chosen,
        folder,
        machine,
        saved=saved,
        overwrite=overwrite,
        data=location(annotations or data),
        progress=progress,
    )


def named_recipe(name: str) -> SegmentRecipe:
    """
    Raises:
        UserError: there is none of that name.
    """
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r} of segmentation; possible are {', '.join(RECIPES)}")
    return RECIPES[name]()


def build_network(
    subject: Subject,
    pyramid: Pyramid | None,
    recipe: SegmentRecipe,
    classes: tuple[str, ...],
    *,
    device: str = "cpu",
) -> Training:
    """The network with the weights that a run starts from, on what `find_parts` found."""
    options = recipe.network
    backbone = backbone_of(
        subject,
        pyramid,
        neck=options.neck,
        width=options.neck_width,
        drop_path_rate=options.drop_path_rate,
        random=options.random,
        seed=recipe.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        segmenter = Segmenter(
            backbone,
            classes=classes,
            reading=_reading(subject, recipe, backbone),
            width=options.width,
            dropout=options.dropout,
            norm=options.norm,
        )
        network = Training(segmenter, auxiliary_width=options.auxiliary_width, norm=options.norm)
    if device == "cuda" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network


def _placed(
    recipe: SegmentRecipe, run_or_name: str | Path | Encoder, saved: SegmentRecipe | None
) -> SegmentRecipe:
    """The recipe with its start, and with paths that are right from any folder."""
    if isinstance(run_or_name, Encoder):
        start = run_or_name.architecture["model_name"]
    else:
        start = location(run_or_name) if is_path(run_or_name) else str(run_or_name)
    data, before = recipe.data, None if saved is None else saved.data.classes
    if data.classes not in (None, before):
        data = data.model_copy(update={"classes": location(data.classes)})
    return recipe.model_copy(update={"start": start, "data": data})


def _fitted(recipe: SegmentRecipe, subject: Subject, pyramid: Pyramid | None) -> SegmentRecipe:
    """The recipe with what follows from the encoder filled in, so that the run's folder says it."""
    assert subject.encoder is not None
    neck = recipe.network.neck
    if neck == "auto":
        natural = natural_neck(subject.encoder, pyramid)
        # Of plain ViTs four states, as in the papers of MAE and BEiT.
        neck = "deconvolution" if natural == "simple" else natural
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"image_size": subject.image_size}),
            "network": recipe.network.model_copy(update={"neck": neck}),
        }
    )


def _reading(subject: Subject, recipe: SegmentRecipe, backbone: Backbone) -> Reading:
    side = recipe.data.short_side
    sides = {"crop": min(backbone.image_size), "as_it_is": None}
    mean, std = imagenet_statistics(subject.channels, subject.mean, subject.std)
    return Reading(
        short_side=sides[side] if isinstance(side, str) else side,
        stride=recipe.data.stride,
        mean=mean,
        std=std,
        bits=subject.bits,
    )


def _find(
    recipe: SegmentRecipe,
    data: str | Path,
    annotations: str | Path | None,
    val_data: str | Path | None,
    val_annotations: str | Path | None,
    out: Path,
) -> tuple[Scenes, Scenes]:
    """(training, validation)."""
    folder, reduced, names = _path(data), recipe.data.reduce_zero_label, _path(recipe.data.classes)
    assert folder is not None
    if annotations is None:
        if val_data is not None or val_annotations is not None:
            raise UserError("--val-data and --val-annotations go with --annotations, for COCO's files.")
        return find_mask_files(folder, classes=names, reduce_zero_label=reduced, out=out)
    if names is not None:
        raise UserError("data.classes is for masks in files; COCO's files name their categories.")
    return find_polygons(
        folder,
        Path(annotations).expanduser(),
        val_data=_path(val_data),
        val_annotations=_path(val_annotations),
        reduce_zero_label=reduced,
    )


def _look_at_all(
    training: Scenes, validation: Scenes, subject: Subject, *, listed: bool, progress: bool
) -> None:
    """Every mask, before anything is trained.

    Args:
        listed: names of classes follow the order of the indices.

    Raises:
        UserError: something that cannot be learned.
    """
    with Console(stderr=True, quiet=not (progress and speaks())).status("looking at all masks"):
        counts = [
            survey(scenes, part=part, channels=subject.channels, bits=subject.bits)
            for part, scenes in (("training", training), ("validation", validation))
        ]
    if listed:
        require_right_names((training, validation), counts)
    require_classes(training, counts[0])


def _require_several(recipe: SegmentRecipe, device: str) -> None:
    """
    Raises:
        UserError: batch norms that see a single crop; its map, pooled to one place, has no variance.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    # On GPUs they see the crops of all processes, as `build_network` makes them.
    together = 1 if device == "cuda" else processes
    if recipe.network.norm == "batch" and recipe.optim.batch_size // recipe.optim.accumulate // together < 2:
        raise UserError(
            "Batch norms need two crops or more that are computed together, and here it is one: use a "
            "smaller optim.accumulate, a larger --batch-size, or network.norm=layer."
        )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given).expanduser()
