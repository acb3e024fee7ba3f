"""The command line around tokenizers."""

from pathlib import Path
from typing import Annotated

import typer

from unmask.options import (
    BatchSize,
    Cache,
    CacheSize,
    Compile,
    Data,
    Device,
    Epochs,
    ImagesAtATime,
    LearningRate,
    Overwrite,
    Precision,
    RandomSeed,
    Resume,
    RunFolder,
    Seed,
    Settings,
    Size,
    Steps,
    Workers,
    key_values,
)


def tokenizer(
    tokenizer_or_recipe: Annotated[
        str,
        typer.Argument(
            metavar="TOKENIZER_OR_RECIPE",
            help="Tokenizer (dvae, vqkd, peco), published run, or path of a recipe.json.",
        ),
    ],
    data: Data,
    out: RunFolder,
    settings: Settings = None,
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
    cache: Cache = None,
    cache_size: CacheSize = 20.0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a tokenizer on unlabelled images: what BEiT, PeCo, BEiT v2 and CAE predict."""
    from unmask.engine.first_stage import train_tokenizer
    from unmask.engine.machine import leave

    run = train_tokenizer(
        tokenizer_or_recipe,
        data=data,
        out=out,
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
        cache=cache,
        cache_size=cache_size,
        resume=resume,
        overwrite=overwrite,
        overrides=key_values(settings or []),
    )
    leave()
    if run.interrupted is not None:
        raise typer.Exit(run.interrupted)


def codes(
    tokenizer: Annotated[Path, typer.Argument(metavar="RUN_OR_TOKENIZER", help="Run folder, or its file.")],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG to write.")] = Path("codes.png"),
    count: Annotated[int, typer.Option("--codes", min=1, help="Codes on a page.")] = 32,
    page: Annotated[int, typer.Option(min=1, help="1 shows the codes that are used most.")] = 1,
    patches: Annotated[int, typer.Option(min=1, help="Pieces of images for each code.")] = 8,
    batch_size: ImagesAtATime = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: RandomSeed = 0,
) -> None:
    """See which pieces of images have the same code."""
    from unmask.codes.atlas import codes

    drawn = codes(
        tokenizer,
        data=data,
        out=out,
        count=count,
        page=page,
        patches=patches,
        batch_size=batch_size,
        device=device,
        workers=workers,
        seed=seed,
    )
    typer.echo(drawn)
