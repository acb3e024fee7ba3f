"""The command line of `unmask evaluate detect`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from unmask.engine.launch import speaks
from unmask.options import (
    LEARNED,
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
    Size,
    Steps,
    Subject,
    Workers,
    key_values,
    learned,
)

Photos = Annotated[Path, typer.Option(metavar="DIR", help="The training pictures.")]
Annotations = Annotated[Path, typer.Option(metavar="FILE", help="COCO's JSON of their boxes, and masks.")]
ValPhotos = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Pictures to judge by, if not in the same folder.")
]
ValAnnotations = Annotated[Path, typer.Option(metavar="FILE", help="COCO's JSON of these.")]
OwnSettings = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, such as heads.width=128 or data.jitter=large_scale."),
]
RecipeName = Annotated[
    str | None, learned(metavar="NAME", help="small, or a published one, such as vitdet_base; see the docs.")
]
Masks = Annotated[bool | None, learned(help="Learn masks too; if not given, where all objects have one.")]
Cascade = Annotated[
    bool,
    typer.Option("--cascade", rich_help_panel=LEARNED, help="Three stages of boxes (Cascade R-CNN)."),
]


def detect(
    subject: Subject,
    data: Photos,
    annotations: Annotations,
    val_annotations: ValAnnotations,
    out: RunFolder,
    settings: OwnSettings = None,
    val_data: ValPhotos = None,
    recipe: RecipeName = None,
    masks: Masks = None,
    cascade: Cascade = False,
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
    """Train a detector on the backbone: boxes, and masks if there are; scored by COCO's AP."""
    from unmask.engine.machine import leave
    from unmask.evaluate.detect.table import summary
    from unmask.evaluate.detect.training import detect

    run = detect(
        subject,
        data=data,
        annotations=annotations,
        val_data=val_data,
        val_annotations=val_annotations,
        out=out,
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
        overrides={**_named(masks, cascade), **key_values(settings or [])},
    )
    leave()
    if run.interrupted is not None:
        raise typer.Exit(run.interrupted)
    if speaks():
        Console().print(*summary(run.folder), sep="\n")


def _named(masks: bool | None, cascade: bool) -> dict[str, Any]:
    """The settings that have options of their own."""
    return ({} if masks is None else {"heads.masks": masks}) | ({"heads.kind": "cascade"} if cascade else {})
