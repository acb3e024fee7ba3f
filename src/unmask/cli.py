"""The command line: every command is the Python function of the same name.

Nothing heavy is imported before a command runs, so that `unmask --help` answers at once.
"""

import os
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unmask.errors import UserError

app = typer.Typer(
    help="Pre-train a vision backbone on your own unlabelled images, see what it learned, take it home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
evaluate_app = typer.Typer(
    no_args_is_help=True, help="How useful frozen features are: k-nearest neighbours, linear probe."
)
app.add_typer(evaluate_app, name="evaluate")

LEARNED, MACHINE, FOLDER = "What is learned", "Machine (cannot change what is learned)", "Run folder"


def image_size(text: str) -> tuple[int, int]:
    """Height and width from "224" or "192x256"."""
    match = re.fullmatch(r"(\d+)(?:[xX×](\d+))?", text.strip())
    if match is None or int(match[1]) == 0 or match[2] == "0":
        raise typer.BadParameter(f"{text!r} is no image size: give pixels such as 224, or HEIGHTxWIDTH such as 192x256")
    return int(match[1]), int(match[2] or match[1])


def key_values(settings: list[str]) -> dict[str, str]:
    """The KEY=VALUE arguments."""
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"{setting!r} is no setting: settings are KEY=VALUE, for instance method.mask_ratio=0.6")
        pairs[key] = value
    return pairs


Data = Annotated[Path, typer.Option(metavar="PATH", help="Folder (any depth), zip or tar of images.")]
Labelled = Annotated[
    Path,
    typer.Option(
        metavar="PATH", help="Holds train/ and validation/ (or val/), a folder a class; or class folders, which are split."
    ),
]
Size = Annotated[Any, typer.Option(metavar="N|HxW", parser=image_size, help="Pixels.", rich_help_panel=LEARNED)]
Subject = Annotated[
    str, typer.Argument(metavar="RUN_OR_TIMM_NAME", help="Run folder, timm name, random:NAME, or pixels.")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.", rich_help_panel=MACHINE)]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes that decode images; 0 for none.", rich_help_panel=MACHINE)
]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result here too.")]
Pool = Annotated[Literal["mean", "cls"], typer.Option(help="Mean over the patches, or the class token.")]
Layer = Annotated[int | None, typer.Option(help="Take the output of this block instead of the last one's.")]
Baselines = Annotated[
    bool, typer.Option(help="Compare with random weights, raw pixels and the largest class.")
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    """Options before the command; `main` looks for --debug itself."""
    if version:
        from unmask import __version__

        typer.echo(f"unmask {__version__}")
        raise typer.Exit


@app.command()
def pretrain(
    method_or_recipe: Annotated[
        str,
        typer.Argument(
            metavar="METHOD_OR_RECIPE", help="Method (mae, simmim), published run, or path of a recipe.json."
        ),
    ],
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder.", rich_help_panel=FOLDER)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings: method.*, encoder.*, data.*, optim.*, schedule.*, checkpoint.*"
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="timm's name of the encoder.", rich_help_panel=LEARNED)
    ] = None,
    image_size: Size = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the run.", rich_help_panel=LEARNED)] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the run, in optimiser steps.", rich_help_panel=LEARNED)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step, over all devices.", rich_help_panel=LEARNED)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=LEARNED)] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of initial weights, order, crops and masks.", rich_help_panel=LEARNED)
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Of the forward pass.", rich_help_panel=MACHINE)
    ] = "auto",
    workers: Workers = None,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="torch.compile the method.", rich_help_panel=MACHINE)
    ] = False,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing/--no-checkpointing",
            help="Recompute activations: less memory, more time.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in DIR.", rich_help_panel=FOLDER)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in DIR first.", rich_help_panel=FOLDER)
    ] = False,
) -> None:
    """Pre-train an encoder on unlabelled images."""
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
        resume=resume,
        overwrite=overwrite,
        overrides=key_values(settings or []),
    )
    if run.interrupted is not None:
        raise typer.Exit(run.interrupted)


@evaluate_app.command("knn")
def evaluate_knn(
    subject: Subject,
    data: Labelled,
    json: Json = None,
    pool: Pool = "mean",
    layer: Layer = None,
    k: Annotated[int, typer.Option(min=1, help="Neighbours that vote.")] = 20,
    image_size: Size = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.", rich_help_panel=MACHINE)] = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random weights.")] = 0,
    baselines: Baselines = False,
) -> None:
    """Classify by the nearest training images (cosine similarity, temperature 0.07)."""
    _evaluate("knn", subject, data=data, json=json, pool=pool, layer=layer, image_size=image_size, k=k,
              batch_size=batch_size, device=device, workers=workers, seed=seed, baselines=baselines)  # fmt: skip


@evaluate_app.command("linear")
def evaluate_linear(
    subject: Subject,
    data: Labelled,
    json: Json = None,
    pool: Pool = "mean",
    layer: Layer = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the features.")] = 90,
    flip: Annotated[bool, typer.Option("--flip", help="Use the mirrored training images too.")] = False,
    image_size: Size = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.", rich_help_panel=MACHINE)] = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the probe and of random weights.")] = 0,
    baselines: Baselines = False,
) -> None:
    """Train a linear classifier on frozen features (MAE's recipe: batch norm, LARS)."""
    _evaluate("linear", subject, data=data, json=json, pool=pool, layer=layer, image_size=image_size, flip=flip,
              epochs=epochs, batch_size=batch_size, device=device, workers=workers, seed=seed,
              baselines=baselines)  # fmt: skip


def _evaluate(kind: str, subject: str, **choices: Any) -> None:
    from unmask.evaluate import evaluate

    result = evaluate(kind, subject, **choices)
    table = Table(title=f"{kind}, {choices['data']}", title_justify="left")
    table.add_column("features")
    table.add_column("top-1", justify="right")
    table.add_column("standard error", justify="right")
    for name, figures in {subject: result, **result.get("baselines", {})}.items():
        error = figures.get("standard_error")
        table.add_row(name, f"{figures['top1']:.1%}", "" if error is None else f"{error:.1%}")
    Console().print(table)


@app.command()
def reconstruct(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    pictures: Annotated[list[Path], typer.Argument(help="Any pictures.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="PNG to write.")] = None,
    mask_ratio: Annotated[float | None, typer.Option(help="Share to hide; the run's if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the mask.")] = 0,
) -> None:
    """Hide parts of pictures and see what a run makes of them."""
    from unmask.visualize import reconstruct

    typer.echo(reconstruct(run, pictures, out=out, mask_ratio=mask_ratio, seed=seed))


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write a run's report.html anew."""
    from unmask.report import write_report

    typer.echo(write_report(run))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[str, typer.Option(metavar="timm|safetensors", help="Format.")] = "timm",
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Folder, or .safetensors file.")] = None,
) -> None:
    """Hand over a run's encoder, for use without unmask."""
    from unmask.export import export

    typer.echo(export(run, to=to, out=out))


@app.command("list")
def list_names(
    what: Annotated[Literal["methods", "encoders", "recipes"], typer.Argument(help="What to list.")],
    pattern: Annotated[str, typer.Argument(help="Only names with this in them.")] = "",
) -> None:
    """Names of methods, encoders or published runs."""
    from unmask.listing import listing

    console = Console()
    for name, summary in listing(what, pattern):
        console.print(f"[bold]{name}[/]  {escape(summary)}" if summary else name, highlight=False, soft_wrap=True)


@app.command()
def show(name: Annotated[str, typer.Argument(help="Method, published run, recipe.json, or encoder.")]) -> None:
    """Everything that a name stands for: the paper and the complete recipe."""
    from unmask.listing import describe

    title, text, json = describe(name)
    console = Console()
    console.print(f"[bold]{escape(title)}[/]\n", highlight=False)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if json:
        console.print_json(json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier demo in DIR first.")] = False,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
) -> None:
    """Pre-train on bundled pictures, evaluate, write a report: minutes on a CPU, no network."""
    from unmask.demo import demo

    code = demo(out=out, overwrite=overwrite, device=device, seed=seed)
    if code:
        raise typer.Exit(code)


def main() -> NoReturn:
    """Entry point; a person's mistake is one sentence and exit code 2."""
    # Where other programs use the processor too, threads that spin while they wait for each other make a step
    # several times slower; read by OpenMP when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = "--debug" in sys.argv[1:]
    try:
        app()
    except UserError as error:
        if debug:
            traceback.print_exc()
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted.")
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
