"""The command line: every command is the Python function of the same name.

Nothing heavy is imported before a command runs, so that `unmask --help` answers at once.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from unmask import __version__
from unmask.cli_check import check
from unmask.cli_evaluate import evaluate_app
from unmask.cli_tokenizer import codes, tokenizer
from unmask.commands import attention, colours, compare, convert, embed, masks, shrink
from unmask.engine.launch import speaks
from unmask.errors import UserError
from unmask.options import (
    SEE,
    START,
    TRAIN,
    USE,
    BatchSize,
    Cache,
    CacheSize,
    Checkpointing,
    Compile,
    Data,
    Device,
    EncoderName,
    Epochs,
    LearningRate,
    MethodOrRecipe,
    Overwrite,
    Pictures,
    Precision,
    RandomSeed,
    Resume,
    Run,
    RunFolder,
    Seed,
    Settings,
    Size,
    Steps,
    Workers,
    key_values,
)

PATIENCE = 10.0  # seconds until a process takes a mistake for one that it met alone

app = typer.Typer(
    help="Pre-train a vision backbone on your own unlabelled images, see what it learned, take it home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unmask {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Options before the command; `main` looks for --debug itself."""


def pretrain(
    method_or_recipe: MethodOrRecipe,
    data: Data,
    out: RunFolder,
    settings: Settings = None,
    encoder: EncoderName = None,
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
    cache: Cache = None,
    cache_size: CacheSize = 20.0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Pre-train an encoder on unlabelled images."""
    from unmask.engine.machine import leave
    from unmask.engine.pretrain import pretrain

    run = pretrain(
        method_or_recipe,
        data=data,
        out=out,
        encoder=encoder,
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
        cache=cache,
        cache_size=cache_size,
        resume=resume,
        overwrite=overwrite,
        overrides=key_values(settings or []),
    )
    leave()
    if run.interrupted is not None:
        raise typer.Exit(run.interrupted)


def reconstruct(
    run: Run,
    pictures: Pictures,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="PNG to write.")] = None,
    mask_ratio: Annotated[float | None, typer.Option(help="Share to hide; the run's if not given.")] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Predicted features, of a method that predicts pixels too.")
    ] = False,
    seed: RandomSeed = 0,
) -> None:
    """Hide parts of pictures and see what a run makes of them."""
    from unmask.visualize import reconstruct

    typer.echo(reconstruct(run, pictures, out=out, mask_ratio=mask_ratio, seed=seed, features=features))


def report(run: Run) -> None:
    """Write the report.html of a run, or of a fine-tuned one, anew."""
    from unmask.runs import task_of

    if task_of(run) == "finetune":
        from unmask.evaluate.finetune.report import write_report
    else:
        from unmask.report import write_report

    typer.echo(write_report(run))


def export(
    run: Run,
    to: Annotated[str, typer.Option(metavar="timm|huggingface|onnx|safetensors", help="Format.")] = "timm",
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Folder, or the name of the file.")] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="The ONNX graph takes pixels in 0..1 and normalises them.")
    ] = False,
) -> None:
    """Hand over a run's encoder, for use without unmask."""
    from unmask.export import export

    typer.echo(export(run, to=to, out=out, normalise=normalise))


def list_names(
    what: Annotated[
        Literal["methods", "tokenizers", "encoders", "recipes"],
        typer.Argument(metavar="WHAT", help="What to list."),
    ],
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Only names with this in them.")] = "",
) -> None:
    """Names of methods, tokenizers, encoders or published runs."""
    from unmask.listing import listing

    console = Console()
    found = list(listing(what, pattern))
    if not found:
        raise UserError(f"none of the {what} has {pattern!r} in its name; `unmask list {what}` shows all")
    width = max(len(name) for name, _ in found)
    for name, summary in found:
        line = f"[bold]{name:<{width}}[/]  {escape(summary)}" if summary else name
        console.print(line, highlight=False, soft_wrap=True)
    if what != "encoders":
        Console(stderr=True).print(f"\n`unmask show NAME` tells all about one of these {what}.", style="dim")


def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Method, tokenizer, published run, encoder, recipe.json.")
    ],
    images: Annotated[
        int | None, typer.Option(min=1, help="Of a method: its defaults for a data set of this many.")
    ] = None,
    tokenizer: Annotated[
        bool, typer.Option("--tokenizer", help="The tokenizer, where a method has the same name (peco).")
    ] = False,
) -> None:
    """Everything that a name stands for: the paper and the complete recipe."""
    from unmask.listing import describe

    title, text, json = describe(name, images=images, tokenizer=tokenizer)
    console = Console()
    console.print(f"[bold]{escape(title)}[/]\n", highlight=False)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if json:
        console.print_json(json)


def demo(
    out: RunFolder = Path("runs/demo"),
    overwrite: Overwrite = False,
    device: Device = "auto",
    seed: RandomSeed = 0,
) -> None:
    """Pre-train on bundled pictures, evaluate, write a report: minutes on a CPU, no network."""
    from unmask.demo import demo

    code = demo(out=out, overwrite=overwrite, device=device, seed=seed)
    if code:
        raise typer.Exit(code)


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    START: (demo, list_names, show),
    TRAIN: (check, shrink, colours, masks, pretrain, tokenizer),
    SEE: (report, reconstruct, attention, codes, compare),
    USE: (embed, export, convert),
}
NAMES = {list_names: "list"}
for _panel, _commands in COMMANDS.items():
    for _command in _commands:
        app.command(NAMES.get(_command), rich_help_panel=_panel)(_command)
app.add_typer(evaluate_app, name="evaluate", rich_help_panel=SEE)


def fail(message: str, *, debug: bool) -> NoReturn:
    """Say what is wrong, once for all processes of a run, and exit with code 2."""
    if not speaks():
        # Most mistakes are met by all processes alike. When the one that speaks exits, the launcher ends this
        # one; when this one exited first, the other would be ended before it has said a word.
        time.sleep(PATIENCE)
    if debug:
        traceback.print_exc()
    Console(stderr=True).print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the machine itself, had no memory left for a tensor."""
    from accelerate.utils.memory import should_reduce_batch_size

    return should_reduce_batch_size(error)


def main() -> NoReturn:
    """Entry point; a person's mistake is one sentence and exit code 2."""
    # Where other programs use the processor too, threads that spin while they wait for each other make a step
    # several times slower; read by OpenMP when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1  # wherever it stands
    try:
        app(arguments)
    except UserError as error:
        fail(str(error), debug=debug)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        fail(
            f"out of memory: {str(error).splitlines()[0]} Use a smaller --batch-size (or "
            "optim.accumulate=2, which cuts the batch in two), a smaller --image-size, or --checkpointing.",
            debug=debug,
        )
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted.")
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
