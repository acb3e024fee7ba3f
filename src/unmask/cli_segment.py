"""The command line of `unmask evaluate segment`."""

from pathlib import Path
from typing import Annotated

import typer

from unmask.engine.launch import speaks
from unmask.options import (
    BatchSize,
    Checkpointing,
    Compile,
    Device,
    Epochs,
    LearningRate,
    Overwrite,
    Precision,
    RandomStart,
    Resume,
    RunFolder,
    Seed,
    Settings,
    Size,
    Steps,
    Subject,
    Workers,
    key_values,
    learned,
)

Scenes = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Holds images/ and annotations/ (or masks/), each with training/ and validation/ or without "
        "parts; with --annotations, the pictures.",
    ),
]
Annotations = Annotated[Path | None, typer.Option(metavar="FILE", help="COCO's JSON, instead of masks.")]
ValData = Annotated[Path | None, typer.Option(metavar="DIR", help="Pictures to validate on, if elsewhere.")]
ValAnnotations = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Their JSON; else a fifth of the pictures validates.")
]


def segment(
    subject: Subject,
    data: Scenes,
    out: RunFolder,
    settings: Settings = None,
    annotations: Annotations = None,
    val_data: ValData = None,
    val_annotations: ValAnnotations = None,
    recipe: Annotated[
        str | None, learned(metavar="NAME", help="default, or a published one, such as mae_vit_base_ade20k.")
    ] = None,
    random: RandomStart = False,
    image_size: Size = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    seed: Seed = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    compile: Compile = None,
    checkpointing: Checkpointing = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder to give every pixel a class (UPerNet), and measure mIoU."""
    from unmask.engine.machine import leave
    from unmask.evaluate.segment import segment
    from unmask.evaluate.segment.task import METRICS

    run = segment(
        subject,
        data=data,
        out=out,
        annotations=annotations,
        val_data=val_data,
        val_annotations=val_annotations,
        recipe=recipe,
        random=random,
        image_size=image_size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        compile=compile,
        checkpointing=checkpointing,
        resume=resume,
        overwrite=overwrite,
        overrides=key_values(settings or []),
    )
    leave()
    if run.interrupted is not None:
        raise typer.Exit(run.interrupted)
    if speaks():
        typer.echo(run.folder / METRICS)
