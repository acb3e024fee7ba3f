"""Commands around trained weights and masks; like those of `cli`, each is the Python function of its name."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from unmask.options import (
    AnySize,
    Data,
    Device,
    ImagesAtATime,
    Layer,
    Pictures,
    Pool,
    RandomSeed,
    Settings,
    Subject,
    Workers,
    key_values,
    place,
)


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="PyTorch file (.pth, .pt, .bin), safetensors.")
    ],
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to make; runs/NAME_OF_THE_FILE if not given.")
    ] = None,
) -> None:
    """Turn official weights, or an encoder of timm, into a folder for the other commands."""
    from unmask.convert import convert
    from unmask.convert.table import summary

    Console().print(*summary(convert(file, out=out, overrides=key_values(settings or []))), sep="\n")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of two runs or more.")],
    pictures: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Any picture; once for each of several.")
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Page (.html) or picture (.png) to write.")
    ] = Path("compare.html"),
    mask_ratio: Annotated[
        float | None, typer.Option(help="Share to hide; what the first run hides if not given.")
    ] = None,
    seed: RandomSeed = 0,
) -> None:
    """Put runs side by side: the same pictures under the same masks, curves, a table."""
    from unmask.compare import compare
    from unmask.compare.evaluations import summary as evaluations
    from unmask.compare.table import summary

    found = compare(runs, pictures=pictures or [], out=out, mask_ratio=mask_ratio, seed=seed)
    tables = evaluations(found.rows) if found.labelled else [summary(found.rows)]
    Console().print(*tables)
    typer.echo(found.path)


def masks(
    method_or_recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD_OR_RECIPE", help="Whose masks to look at; all strategies if not given."
        ),
    ] = None,
    settings: Settings = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw them: masks.png, masks-distance.png.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="PNG to draw them to instead.")] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Any picture, to hide parts of.")
    ] = None,
    image_size: AnySize = None,
    count: Annotated[int, typer.Option("--masks", min=1, help="Masks for every number.")] = 50,
    seed: RandomSeed = 0,
) -> None:
    """See what masks hide, and how far hidden pixels are from visible ones."""
    from unmask.masks import masks
    from unmask.masks.table import summary

    target = out or (Path("masks.png") if plot or picture else None)
    found = masks(
        method_or_recipe,
        out=target,
        picture=picture,
        image_size=image_size,
        count=count,
        seed=seed,
        overrides=key_values(settings or []),
    )
    Console().print(*summary(found), sep="\n")


def colours(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table to write, a .npy file.")] = Path(
        "colours.npy"
    ),
    count: Annotated[int, typer.Option(min=2, help="Clusters.")] = 512,
    pictures: Annotated[int, typer.Option(min=1, help="To look at, evenly spread over the data.")] = 2000,
    channels: Annotated[int, typer.Option(min=1, help="Of the images.")] = 3,
    seed: RandomSeed = 0,
) -> None:
    """Cluster the colours of images: a table for method.target=clusters."""
    from unmask.colours import colours

    typer.echo(colours(data, out=out, count=count, pictures=pictures, channels=channels, seed=seed))


def embed(
    subject: Subject,
    data: Data,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .parquet or .npz file to write.")],
    pool: Pool = "mean",
    layer: Layer = None,
    patches: Annotated[bool, typer.Option("--patches", help="The features of every patch too.")] = False,
    image_size: AnySize = None,
    batch_size: ImagesAtATime = 64,
    device: Device = "auto",
    workers: Workers = None,
    seed: RandomSeed = 0,
) -> None:
    """Write the features of every image into one file."""
    from unmask.embed import embed

    common = {"image_size": image_size, "batch_size": batch_size, "device": device, "workers": workers}
    written = embed(subject, data=data, out=out, pool=pool, layer=layer, patches=patches, seed=seed, **common)
    typer.echo(f"{written.path}: {written.images:,} images, {written.width} features each")
    if written.skipped:
        typer.echo(f"{len(written.skipped):,} could not be read and are left out:", err=True)
        for name, reason in written.skipped.items():
            typer.echo(f"  {name}: {reason}", err=True)


def attention(
    subject: Subject,
    pictures: Pictures,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="Place that looks, 0,0 to 1,1: across, down. Repeatable. [0.5,0.5]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="PNG to write.")] = None,
    image_size: AnySize = None,
    seed: RandomSeed = 0,
) -> None:
    """See where chosen patches of pictures look, in the last block of an encoder."""
    from unmask.attention import CENTRE, attention

    places = [place(text) for text in at] if at else [CENTRE]
    typer.echo(attention(subject, pictures, at=places, out=out, image_size=image_size, seed=seed))


def shrink(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the smaller pictures.")],
    side: Annotated[int, typer.Option(min=1, help="Pixels of the shorter side.")] = 512,
    quality: Annotated[int, typer.Option(min=1, max=95, help="Of JPEG and WebP.")] = 92,
    workers: Workers = None,
) -> None:
    """Make large photos small once, so that runs need not decode them whole."""
    from unmask.shrink import shrink

    done = shrink(data, out=out, side=side, quality=quality, workers=workers)
    sizes = f"{done.before / 1e6:,.1f} MB -> {done.after / 1e6:,.1f} MB"
    typer.echo(f"{done.path}: {done.smaller:,} of {done.images:,} pictures are smaller, {sizes}")
    for name, reason in done.skipped.items():
        typer.echo(f"left out, cannot be read: {name}: {reason}", err=True)
