"""The command line of `unmask evaluate finetune`."""

from pathlib import Path
from typing import Annotated

import typer

from unmask.engine.launch import speaks
from unmask.options import (
    BatchSize,
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
    folder,
    key_values,
    learned,
)

Labelled = Annotated[
    Path,
    folder(
        metavar="DIR",
        help="Holds train/, validation/ (or val/) and perhaps test/, a folder a class; or a table (.csv) "
        "with path, label and split.",
    ),
]
Recipe = Annotated[
    str | None, learned(metavar="NAME", help="A paper's recipe, not the one that would be chosen.")
]
Fraction = Annotated[
    float | None,
    learned(metavar="X", min=0.0, max=1.0, help="Train on this share of every class, 0.1 for a tenth."),
]


def evaluate_finetune(
    subject: Subject,
    data: Labelled,
    out: RunFolder,
    settings: Settings = None,
    recipe: Recipe = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    image_size: Size = None,
    fraction: Fraction = None,
    random: RandomStart = False,
    seed: Seed = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    compile: Compile = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the encoder with a classifier on labelled images."""
    from unmask.engine.machine import leave
    from unmask.evaluate.finetune import finetune
    from unmask.evaluate.finetune.results import summary

    run = finetune(
        subject,
        data=data,
        out=out,
        recipe=recipe,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        image_size=image_size,
        fraction=fraction,
        random=random,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        compile=compile,
        resume=resume,
        overwrite=overwrite,
        overrides=key_values(settings or []),
    )
    leave()
    if run.interrupted is not None:
        raise typer.Exit(run.interrupted)
    if speaks():
        typer.echo(summary(run.folder))
