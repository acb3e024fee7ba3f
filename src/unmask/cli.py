"""The command line: every command is the Python function of the same name.

Nothing heavy is imported before a command runs, so that `unmask --help` answers at once.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from unmask import __version__
from unmask.errors import UserError
from unmask.options import (
    Baselines,
    BatchSize,
    Checkpointing,
    Compile,
    Data,
    Device,
    EncoderName,
    Epochs,
    ImagesAtATime,
    Json,
    Labelled,
    Layer,
    LearningRate,
    MethodOrRecipe,
    Overwrite,
    Pool,
    Precision,
    RandomSeed,
    Resume,
    Run,
    RunFolder,
    Seed,
    Settings,
    Size,
    Steps,
    Subject,
    Workers,
)

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


def key_values(settings: list[str]) -> dict[str, str]:
    """The KEY=VALUE arguments."""
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(
                f"{setting!r} is no setting: settings are KEY=VALUE, for instance method.mask_ratio=0.6"
            )
        pairs[key] = value
    return pairs


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


@app.command()
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
    resume: Resume = False,
    overwrite: Overwrite = False,
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
    k: Annotated[int, typer.Option(min=1, help="Neighbours that vote.")] = 20,
    temperature: Annotated[float, typer.Option(help="Of the votes; small: the nearest count most.")] = 0.07,
    pool: Pool = "mean",
    layer: Layer = None,
    baselines: Baselines = False,
    image_size: Size = None,
    batch_size: ImagesAtATime = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: RandomSeed = 0,
) -> None:
    """Classify by the nearest training images (cosine similarity)."""
    common = {"pool": pool, "layer": layer, "baselines": baselines, "image_size": image_size, "seed": seed}
    common |= {"json": json, "batch_size": batch_size, "device": device, "workers": workers}
    _evaluate("knn", subject, data, **common, k=k, temperature=temperature)


@evaluate_app.command("linear")
def evaluate_linear(
    subject: Subject,
    data: Labelled,
    json: Json = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the features.")] = 90,
    lr: Annotated[
        float | None, typer.Option(help="Of the probe; if not given, chosen on held-out training images.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Use the mirrored training images too.")] = False,
    pool: Pool = "mean",
    layer: Layer = None,
    baselines: Baselines = False,
    image_size: Size = None,
    batch_size: ImagesAtATime = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: RandomSeed = 0,
) -> None:
    """Train a linear classifier on frozen features (MAE's recipe: batch norm, LARS)."""
    common = {"pool": pool, "layer": layer, "baselines": baselines, "image_size": image_size, "seed": seed}
    common |= {"json": json, "batch_size": batch_size, "device": device, "workers": workers}
    _evaluate("linear", subject, data, **common, epochs=epochs, lr=lr, flip=flip)


def _evaluate(kind: str, subject: str, data: Path, **choices: Any) -> None:
    from unmask.evaluate import evaluate
    from unmask.evaluate.table import scores_table

    Console().print(scores_table(subject, [evaluate(kind, subject, data=data, **choices)]))


@app.command()
def reconstruct(
    run: Run,
    pictures: Annotated[list[Path], typer.Argument(help="Any pictures.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="PNG to write.")] = None,
    mask_ratio: Annotated[float | None, typer.Option(help="Share to hide; the run's if not given.")] = None,
    seed: RandomSeed = 0,
) -> None:
    """Hide parts of pictures and see what a run makes of them."""
    from unmask.visualize import reconstruct

    typer.echo(reconstruct(run, pictures, out=out, mask_ratio=mask_ratio, seed=seed))


@app.command()
def report(run: Run) -> None:
    """Write a run's report.html anew."""
    from unmask.report import write_report

    typer.echo(write_report(run))


@app.command()
def export(
    run: Run,
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
    found = list(listing(what, pattern))
    if not found:
        raise UserError(f"none of the {what} has {pattern!r} in its name; `unmask list {what}` shows all")
    for name, summary in found:
        console.print(
            f"[bold]{name}[/]  {escape(summary)}" if summary else name, highlight=False, soft_wrap=True
        )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Method, published run, recipe.json, or encoder.")],
    images: Annotated[
        int | None, typer.Option(min=1, help="Of a method: its defaults for a data set of this many.")
    ] = None,
) -> None:
    """Everything that a name stands for: the paper and the complete recipe."""
    from unmask.listing import describe

    title, text, json = describe(name, images=images)
    console = Console()
    console.print(f"[bold]{escape(title)}[/]\n", highlight=False)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if json:
        console.print_json(json)


@app.command()
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


def fail(message: str, *, debug: bool) -> NoReturn:
    """Say what is wrong, and exit with code 2."""
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
