"""The command line of `unmask check`."""

from typing import Annotated

import typer
from rich.console import Console

from unmask.options import (
    BatchSize,
    CheckedRecipe,
    Checkpointing,
    Compile,
    Data,
    Device,
    EncoderName,
    Epochs,
    Json,
    Precision,
    Sample,
    Seed,
    Settings,
    Size,
    Steps,
    Workers,
    key_values,
)


def check(
    data: Data,
    method_or_recipe: CheckedRecipe = "mae",
    settings: Settings = None,
    json: Json = None,
    sample: Sample = 2000,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Measure the loader against the model.")
    ] = True,
    encoder: EncoderName = None,
    image_size: Size = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    compile: Compile = None,
    checkpointing: Checkpointing = False,
) -> None:
    """Look at data and speed before a run: bad, double, small pictures; images a second; hours."""
    from unmask.check import check, page

    given = list(settings or [])
    if "=" in method_or_recipe:  # the first of the settings, of the default method
        given, method_or_recipe = [method_or_recipe, *given], "mae"
    result = check(
        data,
        method_or_recipe,
        sample=sample or None,
        speed=speed,
        encoder=encoder,
        image_size=image_size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        compile=compile,
        checkpointing=checkpointing,
        overrides=key_values(given),
        json=json,
    )
    Console().print(page(result))
