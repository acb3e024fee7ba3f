"""Pictures of attention: where the patch at a chosen place looks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unmask.data.views import imagenet_statistics, normalise
from unmask.drawing import MIN_SIDE, Picture, arrange, as_pictures, denormalise, enlarge
from unmask.encoders import Encoder
from unmask.encoders.attention import last_attention
from unmask.encoders.base import ImageSize
from unmask.errors import UserError
from unmask.evaluate.subject import find_subject
from unmask.recipes.base import Data
from unmask.visualize import read_picture, shown_statistics

COLOURS = "inferno"
CENTRE = (0.5, 0.5)
GROUND = 0.35  # of the grey picture below the colours
LIGHTEST = 4.0  # times an even share: the lightest colour is at least so much
Place = tuple[float, float]


def attention(
    run_or_name: str | Path | Encoder,
    pictures: str | Path | Sequence[str | Path],
    *,
    at: Sequence[Place] = (CENTRE,),
    out: str | Path | None = None,
    image_size: ImageSize | None = None,
    seed: int = 0,
) -> Path:
    """Draw how much every patch is looked at from chosen places, in the last block of an encoder.

    One row a picture: the picture with the places marked, then a map for each place, the mean of the heads
    (iTPN, Tian et al. 2023, compares such maps). In a map black is nothing and the lightest colour the most
    that any patch gets, but no less than four times an even share, so that attention to everything looks like
    what it is; the number says how many times an even share the most is.

    Args:
        run_or_name: a run, an exported encoder, a name of timm, or "random:NAME".
        pictures: one or more; of each the largest centre with the proportions of the encoder's images.
        at: places that look, from (0, 0), the upper left corner, to (1, 1): across, then down.
        out: PNG to write; None is `attention/<name of the first picture>.png` in the run folder, or in the
            current folder if there is no run.
        image_size: height and width in pixels; None is what the encoder was trained with.
        seed: of random weights.

    Returns:
        The PNG.

    Raises:
        UserError: nothing to load, a picture that cannot be read, a place outside of it, an encoder without
            attention between all patches.
    """
    paths = [Path(path) for path in ([pictures] if isinstance(pictures, str | Path) else pictures)]
    if not paths or not at:
        raise UserError("name at least one picture, and one place that looks")
    for place in at:
        if not all(0 <= value <= 1 for value in place):
            raise UserError(
                f"a place is two numbers from 0 to 1, across and down, such as 0.5,0.25; not {place[0]:g},"
                f"{place[1]:g}"
            )
    subject = find_subject(run_or_name, image_size=image_size, seed=seed)
    if subject.encoder is None:
        raise UserError("raw pixels do not look at each other; name an encoder")
    folder = Path() if subject.run is None else subject.run
    target = folder / "attention" / f"{paths[0].stem}.png" if out is None else Path(out)
    if target.suffix.lower() != ".png":
        raise UserError(f"{target}: maps are written as PNG; give a name that ends in .png")
    data = Data(image_size=subject.image_size, channels=subject.channels, bits=subject.bits)
    mean, std = imagenet_statistics(subject.channels, subject.mean, subject.std)
    images = normalise(torch.stack([read_picture(path, data) for path in paths]), mean, std)
    try:
        weights = last_attention(subject.encoder.eval(), images)
    except ValueError as error:
        raise UserError(str(error)) from error
    shown = as_pictures(denormalise(images, *shown_statistics(data, mean, std)))
    rows = [
        attention_panels(picture, own, grid=subject.encoder.grid, at=at)
        for picture, own in zip(shown, weights, strict=True)
    ]
    sheet = arrange(rows, titles=("picture", *("looks at" for _ in at)))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def attention_panels(
    picture: Picture, weights: Float[Tensor, "N N"], *, grid: tuple[int, int], at: Sequence[Place]
) -> list[Picture]:
    """The picture with the patches that look marked, and the map of each.

    Args:
        weights: rows are who looks.
        at: across and down, each from 0 to 1.
    """
    scale = max(1, -(-MIN_SIDE // min(picture.shape[:2])))
    large = enlarge(picture, scale)
    side = large.shape[0] // grid[0]
    patches = [
        (min(int(down * grid[0]), grid[0] - 1), min(int(across * grid[1]), grid[1] - 1))
        for across, down in at
    ]
    panels = [_marked(large, patches, side)]
    for row, column in patches:
        seen = weights[row * grid[1] + column].reshape(grid).numpy()
        panel = _marked(_heat(large, seen, side), [(row, column)], side)
        panels.append(_labelled(panel, f"up to {seen.max() * seen.size:.1f} x even"))
    return panels


def _heat(picture: Picture, seen: Float[NDArray, "h w"], side: int) -> Picture:
    """The picture in grey under the colours of what is seen; edges of patches stay sharp."""
    most = max(float(seen.max()), LIGHTEST / seen.size)
    colours = colormaps[COLOURS](seen / most)[..., :3].repeat(side, 0).repeat(side, 1)
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)[..., None] / 255
    mixed = GROUND * grey + (1 - GROUND) * colours
    return (mixed * 255).round().astype(np.uint8)


def _marked(picture: Picture, patches: Sequence[tuple[int, int]], side: int) -> Picture:
    """Patches in a frame that is seen on any ground."""
    canvas = Image.fromarray(np.ascontiguousarray(picture))
    draw = ImageDraw.Draw(canvas)
    for row, column in patches:
        left, top = column * side, row * side
        draw.rectangle((left, top, left + side - 1, top + side - 1), outline="black", width=3)
        draw.rectangle((left, top, left + side - 1, top + side - 1), outline="white", width=1)
    return np.asarray(canvas)


def _labelled(picture: Picture, text: str) -> Picture:
    canvas = Image.fromarray(np.ascontiguousarray(picture))
    place = 5, canvas.height - 20
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(canvas).text(place, text, fill="white", stroke_fill="black", stroke_width=2, font=font)
    return np.asarray(canvas)
