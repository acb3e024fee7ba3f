"""The options of the command line: each is a type that says how it is read and explained."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unmask.errors import UserError

# Commands in `unmask --help`, options in that of a command.
START, TRAIN, SEE, USE = "Start", "Train", "See what was learned", "Use it"
LEARNED, MACHINE, FOLDER = "What is learned", "Machine (cannot change what is learned)", "Run folder"


def image_size(text: str) -> tuple[int, int]:
    """Height and width from "224" or "192x256"."""
    match = re.fullmatch(r"(\d+)(?:[xX×](\d+))?", text.strip())
    if match is None or int(match[1]) == 0 or (match[2] and int(match[2]) == 0):
        raise typer.BadParameter(
            f"{text!r} is no image size: give pixels such as 224, or HEIGHTxWIDTH such as 192x256"
        )
    return int(match[1]), int(match[2] or match[1])


def names(text: str) -> tuple[str, ...]:
    """Words from "mean,cls+mean"."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers from "3,-2"."""
    try:
        return tuple(int(word) for word in names(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of whole numbers such as 3,-2") from error


def numbers(text: str) -> tuple[float, ...]:
    """Numbers from "1.6,6.4"."""
    try:
        return tuple(float(word) for word in names(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1.6,6.4") from error


def place(text: str) -> tuple[float, float]:
    """Two numbers from "0.5,0.25": across, down."""
    found = numbers(text)
    if len(found) != 2:
        raise typer.BadParameter(f"{text!r} is no place: give two numbers from 0 to 1 such as 0.5,0.25")
    return found[0], found[1]


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


def learned(**text: Any) -> Any:
    return typer.Option(rich_help_panel=LEARNED, **text)


def machine(*names: str, **text: Any) -> Any:
    return typer.Option(*names, rich_help_panel=MACHINE, **text)


def folder(*names: str, **text: Any) -> Any:
    return typer.Option(*names, rich_help_panel=FOLDER, **text)


MethodOrRecipe = Annotated[
    str,
    typer.Argument(
        metavar="METHOD_OR_RECIPE",
        help="Method or published run (`unmask list methods`, `unmask list recipes`), or a recipe.json.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings, such as method.mask_ratio=0.6; `unmask show NAME` prints all of them.",
    ),
]
CheckedRecipe = Annotated[
    str, typer.Argument(metavar="[METHOD_OR_RECIPE]", help="What would be run, as for pretrain.")
]
Data = Annotated[
    Path,
    typer.Option(
        metavar="PATH", help="Folder (any depth), zip or tar of images; list of paths (.txt, .csv)."
    ),
]
Sample = Annotated[
    int, typer.Option(min=0, metavar="N", help="Pictures to look at, chosen at random; 0 for all.")
]
EncoderName = Annotated[str | None, learned(metavar="NAME", help="timm's name of the encoder.")]
Size = Annotated[Any, learned(metavar="N|HxW", parser=image_size, help="Pixels.")]
Epochs = Annotated[int | None, learned(min=1, help="Length of the run, in passes over the data.")]
Steps = Annotated[int | None, learned(min=1, help="Length of the run, in optimiser steps.")]
BatchSize = Annotated[int | None, learned(min=1, help="Images a step, over all devices.")]
LearningRate = Annotated[float | None, learned(metavar="X", help="Peak learning rate.")]
Seed = Annotated[int | None, learned(min=0, help="Of initial weights, order, crops and masks.")]

Device = Annotated[Literal["auto", "cpu", "cuda"], machine(help="Where to compute.")]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], machine(help="Of the forward pass.")]
Workers = Annotated[int | None, machine(min=0, help="Processes that decode images; 0 for none.")]
Compile = Annotated[bool | None, machine("--compile/--no-compile", help="torch.compile the method.")]
Checkpointing = Annotated[
    bool,
    machine("--checkpointing/--no-checkpointing", help="Recompute activations: less memory, more time."),
]
Cache = Annotated[
    Path | None,
    machine(metavar="DIR", help="Keep what a teacher or tokenizer says of fixed crops (data.crops=N)."),
]
CacheSize = Annotated[float, machine(metavar="GB", help="That the folder of --cache may come to hold.")]

RunFolder = Annotated[Path, folder(metavar="DIR", help="The run's folder.")]
Resume = Annotated[bool, folder("--resume", help="Go on with the run in DIR.")]
Overwrite = Annotated[bool, folder("--overwrite", help="Delete the run in DIR first.")]

AnySize = Annotated[
    Any, typer.Option(metavar="N|HxW", parser=image_size, help="Pixels; those of training if not given.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
Pictures = Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Any pictures.")]
Subject = Annotated[
    str, typer.Argument(metavar="RUN_OR_TIMM_NAME", help="Run folder, timm name, random:NAME, or pixels.")
]
Labelled = Annotated[
    Path,
    typer.Option(
        metavar="PATH",
        help="Holds train/ and validation/ (or val/), a folder a class; or class folders, which are split; "
        "or a table (.csv) with path and label.",
    ),
]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result here too.")]
Pool = Annotated[
    str,
    typer.Option(
        metavar="mean|max|std|cls",
        help="Of all patches, or cls, the class token; also several, joined by +: cls+mean.",
    ),
]
Pools = Annotated[
    Any, typer.Option(metavar="A,B,...", parser=names, help="Poolings to try, such as mean,cls+mean.")
]
Layers = Annotated[
    Any,
    typer.Option(metavar="I,J,...", parser=integers, help="Inner blocks to try, such as 3,-2; else all."),
]
Rates = Annotated[
    Any, typer.Option(metavar="X,Y,...", parser=numbers, help="Learning rates to try, such as 1.6,6.4.")
]
Layer = Annotated[int | None, typer.Option(help="Take the raw output of this block, not the last one's.")]
Baselines = Annotated[
    bool, typer.Option("--baselines", help="Compare with random weights, raw pixels and the largest class.")
]
ImagesAtATime = Annotated[int, machine(min=1, help="Images through the encoder at a time.")]
RandomSeed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
RandomStart = Annotated[
    bool,
    typer.Option(
        "--random",
        rich_help_panel=LEARNED,
        help="Start from the random weights that the run itself started from: the baseline.",
    ),
]
