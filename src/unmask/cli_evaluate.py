"""The command line of `unmask evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from unmask.cli_detect import detect
from unmask.cli_finetune import evaluate_finetune
from unmask.cli_segment import segment
from unmask.options import (
    AnySize,
    Baselines,
    Device,
    ImagesAtATime,
    Json,
    Labelled,
    Layer,
    Layers,
    Pool,
    Pools,
    RandomSeed,
    Rates,
    Subject,
    Workers,
)

evaluate_app = typer.Typer(
    no_args_is_help=True,
    help="How useful features are: frozen (k-nearest neighbours, linear probes), or fine-tuned.",
)
evaluate_app.command("finetune")(evaluate_finetune)
evaluate_app.command("segment")(segment)
evaluate_app.command("detect")(detect)


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
    image_size: AnySize = None,
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
    image_size: AnySize = None,
    batch_size: ImagesAtATime = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: RandomSeed = 0,
) -> None:
    """Train a linear classifier on frozen features (MAE's recipe: batch norm, LARS)."""
    common = {"pool": pool, "layer": layer, "baselines": baselines, "image_size": image_size, "seed": seed}
    common |= {"json": json, "batch_size": batch_size, "device": device, "workers": workers}
    _evaluate("linear", subject, data, **common, epochs=epochs, lr=lr, flip=flip)


@evaluate_app.command("sweep")
def evaluate_sweep(
    subject: Subject,
    data: Labelled,
    json: Json = None,
    layers: Layers = None,
    pools: Pools = None,
    rates: Rates = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the features.")] = 90,
    flip: Annotated[bool, typer.Option("--flip", help="Use the mirrored training images too.")] = False,
    baselines: Baselines = False,
    image_size: AnySize = None,
    batch_size: ImagesAtATime = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: RandomSeed = 0,
) -> None:
    """Find the layer, pooling and learning rate of the best linear classifier."""
    tried: dict[str, Any] = {"layers": layers, "pools": pools} | ({"rates": rates} if rates else {})
    common = {"baselines": baselines, "image_size": image_size, "seed": seed}
    common |= {"json": json, "batch_size": batch_size, "device": device, "workers": workers}
    _evaluate("sweep", subject, data, **common, **tried, epochs=epochs, flip=flip)


@evaluate_app.command("codes")
def evaluate_codes(
    tokenizer: Annotated[Path, typer.Argument(metavar="RUN_OR_TOKENIZER", help="Run folder, or its file.")],
    data: Labelled,
    json: Json = None,
    classifier: Annotated[
        str, typer.Option(metavar="NAME", help="Judges reconstructions: a network of timm's, or none.")
    ] = "efficientnet_lite0",
    batch_size: ImagesAtATime = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: RandomSeed = 0,
) -> None:
    """What a tokenizer's codes tell: linear classifiers on them, a fixed one on reconstructions."""
    from unmask.codes.evaluation import evaluate_codes
    from unmask.codes.table import summary

    judge = None if classifier == "none" else classifier
    common: dict[str, Any] = {"batch_size": batch_size, "device": device, "workers": workers, "seed": seed}
    Console().print(
        *summary(evaluate_codes(tokenizer, data=data, json=json, classifier=judge, **common)), sep="\n"
    )


def _evaluate(kind: str, subject: str, data: Path, **choices: Any) -> None:
    from unmask.evaluate import evaluate
    from unmask.evaluate.table import scores_table, sweep_table

    result = evaluate(kind, subject, data=data, **choices)
    console = Console()
    console.print(scores_table(subject, [result]))
    if kind == "sweep":
        console.print(sweep_table(result))
