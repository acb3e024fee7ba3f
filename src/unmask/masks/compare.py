"""Masks measured and drawn, for `unmask masks`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import UInt8
from numpy.typing import NDArray

from unmask.encoders.base import ImageSize, height_and_width
from unmask.errors import UserError
from unmask.masking import Mask, average_distance
from unmask.masks.strategies import STRATEGIES, Distance, Own, distances, draw
from unmask.recipes.base import Data
from unmask.recipes.build import build_method
from unmask.recipes.resolve import resolve_recipe
from unmask.recipes.stages import stand_ins
from unmask.visualize import read_picture

IMAGE_SIZE = 192, 192  # pixels; where SimMIM's study was made
SHOWN = 0.2, 0.4, 0.6, 0.75, 0.9  # ratios of the gallery
SAMPLES = 8  # masks of a method that are drawn


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What `masks` found.

    Attributes:
        image_size: height and width in pixels.
        masks: drawn for every number.
        distances: of every strategy and ratio.
        own: of the method or recipe; None if none was named.
        pictures: PNGs that were written.
    """

    image_size: tuple[int, int]
    masks: int
    distances: tuple[Distance, ...]
    own: Own | None
    pictures: tuple[Path, ...]


def masks(
    method_or_recipe: str | None = None,
    *,
    out: str | Path | None = None,
    picture: str | Path | None = None,
    image_size: ImageSize | None = None,
    count: int = 50,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Compared:
    """Compare the ways to hide parts of an image by their average distance (SimMIM's AvgDist), and draw them.

    Args:
        method_or_recipe: whose masks are measured and drawn too; None compares the strategies alone.
        out: PNG of the masks to write; the curves go beside it, as NAME-distance.png. None writes nothing.
        picture: to hide parts of; None draws masks alone.
        image_size: height and width in pixels; None is the recipe's, or 192 x 192.
        count: masks for every number.
        seed: of the masks.
        overrides: settings of the recipe: "method.mask_ratio", ...

    Raises:
        UserError: unknown name or setting, a mask that this size cannot have, a picture that cannot be read,
            a file that cannot be written.
    """
    if count < 1:
        raise UserError(f"--masks {count}: at least one is needed")
    target = None if out is None else Path(out).expanduser()
    if target is not None and target.suffix.lower() != ".png":
        raise UserError(f"--out {target}: masks are drawn as PNG; give a name that ends in .png")
    if method_or_recipe is None and overrides:
        raise UserError(f"{next(iter(overrides))} is a setting of a recipe: name a method or a recipe first")
    own = None
    size = IMAGE_SIZE if image_size is None else height_and_width(image_size)
    if method_or_recipe is not None:
        own, size = _own(method_or_recipe, image_size, count, seed, overrides)
    pixels = None if picture is None else _pixels(Path(picture), size)
    found = tuple(distances(size, masks=count, seed=seed))
    if not found and own is None:
        units = ", ".join(str(unit) for unit in sorted({strategy.unit for strategy in STRATEGIES}))
        raise UserError(
            f"images of {size[0]} x {size[1]} pixels are not tiled by the units of any strategy ({units})"
        )
    written: tuple[Path, ...] = ()
    if target is not None:
        chosen = () if own else tuple(distances(size, ratios=SHOWN, masks=count, seed=seed))
        written = _draw(target, chosen, found, own, pixels)
    return Compared(image_size=size, masks=count, distances=found, own=own, pictures=written)


def _own(
    name: str, image_size: ImageSize | None, count: int, seed: int, overrides: Mapping[str, Any] | None
) -> tuple[Own, tuple[int, int]]:
    """The masks of a method as a recipe has it."""
    recipe = resolve_recipe(name, image_size=image_size, overrides=overrides)
    with torch.random.fork_rng(devices=[]):
        method = build_method(recipe, parts=stand_ins(recipe))
    encoder = method.encoder
    drawn = draw(method.masking, encoder.grid, max(count, SAMPLES), seed)
    each = average_distance(drawn, encoder.patch_size)
    return (
        Own(
            name=recipe.name,
            examples=Mask.ragged(drawn.hidden[:SAMPLES], encoder.grid),
            patch_size=encoder.patch_size,
            hidden=float(drawn.hidden.float().mean()),
            each=tuple(each[:SAMPLES].tolist()),
            mean=float(each.mean()),
            deviation=float(each.std(correction=0)),
        ),
        encoder.image_size,
    )


def _pixels(picture: Path, size: tuple[int, int]) -> UInt8[NDArray, "H W 3"]:
    return rearrange(read_picture(picture, Data(image_size=size)), "c h w -> h w c").numpy()


def _draw(
    target: Path,
    chosen: Sequence[Distance],
    found: Sequence[Distance],
    own: Own | None,
    picture: UInt8[NDArray, "H W 3"] | None,
) -> tuple[Path, ...]:
    """The gallery of the chosen ones, or examples of a method's masks, and the curves."""
    from unmask.masks.pictures import curves, gallery, samples, save

    shown = gallery(chosen, picture) if own is None else samples(own, picture)
    beside = target.with_name(f"{target.stem}-distance.png")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return save(shown, target), save(curves(found, own), beside)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
