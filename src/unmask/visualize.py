"""Pictures of what a method sees and what it makes of it."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unmask.data.arrays import open_picture
from unmask.data.decode import DecodeError
from unmask.data.files import read_file
from unmask.data.views import evaluation_view, imagenet_statistics, normalise
from unmask.errors import UserError
from unmask.masking import Mask
from unmask.methods.base import Method
from unmask.recipes.base import Data
from unmask.runs import load_method, read_recipe

HIDDEN = (138, 138, 138)  # mid-grey: apart from white and from black pages alike
HIDDEN_EDGE = (148, 148, 148)  # between hidden patches, so that they can be counted
TITLE = (122, 122, 122, 255)  # contrast of at least 4 on white and on near-black
TITLES = ("original", "masked", "reconstruction")

MIN_SIDE = 160  # pixels; smaller images are enlarged by a whole factor
MAX_WIDTH = 1400  # pixels of a strip that puts samples side by side
GAP, BLOCK_GAP = 4, 24  # pixels between the pictures of a sample, and between samples side by side
ROWS = 4  # samples below each other before a second column is opened
MIN_EDGED_PATCH = 12  # pixels; edges between smaller patches would be clutter

Picture = UInt8[NDArray, "H W 3"]


def denormalise(
    images: Float[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[Tensor, "B C H W"]:
    """Pixels 0..255 from images normalised by `mean` and `std` (a value a channel, for pixels in [0, 1])."""
    shape = (1, len(mean), 1, 1)
    scale, offset = torch.tensor(std).view(shape), torch.tensor(mean).view(shape)
    pixels = images.detach().float().cpu() * scale + offset
    return pixels.nan_to_num(0.0).mul(255).round().clamp(0, 255).to(torch.uint8)


def shown_statistics(
    data: Data, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """What `denormalise` should use so that a picture can be seen: the normalisation of 8-bit images.

    Of deeper ones, which may fill a small part of their range, black and white are three standard deviations
    off the mean.
    """
    if data.depth == 8:
        return mean, std
    return (1 / 2,) * data.channels, (1 / 6,) * data.channels


def reconstruct(
    run: str | Path,
    pictures: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    seed: int = 0,
    mask_ratio: float | None = None,
) -> Path:
    """Hide parts of pictures and let a pre-trained method fill them in, drawn as a strip.

    The newest checkpoint of the run is used. Pictures may have any size: of each the largest centre with the
    proportions of the run's images is shown.

    Args:
        run: folder of the run.
        pictures: one or more.
        out: PNG to write; None is `reconstructions/<name of the first picture>.png` in the run folder.
        seed: of the mask.
        mask_ratio: share to hide; None is the run's.

    Returns:
        The PNG.

    Raises:
        UserError: no run, no checkpoint, a picture that cannot be read, a mask ratio that the method cannot
            use, a method that makes no pictures.
    """
    run = Path(run)
    paths = [Path(path) for path in ([pictures] if isinstance(pictures, str | Path) else pictures)]
    if not paths:
        raise UserError("no picture was given; name at least one, for instance photo.jpg")
    target = run / "reconstructions" / f"{paths[0].stem}.png" if out is None else Path(out)
    if target.suffix.lower() != ".png":
        raise UserError(f"{target}: reconstructions are written as PNG; give a name that ends in .png")
    recipe = read_recipe(run)
    changes = {} if mask_ratio is None else {"mask_ratio": mask_ratio}
    mean, std = imagenet_statistics(recipe.data.channels, recipe.data.mean, recipe.data.std)
    pixels = torch.stack([read_picture(path, recipe.data) for path in paths])
    method = load_method(run, recipe.model_copy(update={"method": recipe.method.model_copy(update=changes)}))
    images = normalise(pixels, mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask = method.draw(images)
    shown = shown_statistics(recipe.data, mean, std)
    strip = reconstruction_strip(method, images, mask, mean=shown[0], std=shown[1])
    if strip is None:
        raise UserError(
            f"the run in {run} has no reconstructions: {recipe.method.name} does not predict anything that "
            "can be shown as a picture"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        strip.save(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def read_picture(path: Path, data: Data) -> Shaped[Tensor, "C H W"]:
    """The centre of a picture as the run's encoder sees it."""
    try:
        image = open_picture(read_file(path), data.channels, data.depth)
        return evaluation_view(
            image,
            data.image_size,
            crop_fraction=1.0,
            interpolation=data.interpolation,
            channels=data.channels,
        )
    except (OSError, DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read as a picture: {reason}") from error


def reconstruction_strip(
    method: Method,
    images: Float[Tensor, "B C H W"],
    mask: Mask,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    titles: bool = True,
) -> Image.Image | None:
    """Original, masked picture and reconstruction of every image, on a transparent ground.

    The reconstruction shows the method's prediction at hidden pixels and the original elsewhere, as the
    figures of MAE and SimMIM do. Small images are enlarged by a whole factor, smoothly; the edges of patches
    stay sharp.

    Args:
        images: normalised by `mean` and `std`, on the method's device.
        titles: name the columns.

    Returns:
        An RGBA picture; up to four samples below each other, more of them in columns side by side. None if
        the method predicts nothing that can be shown.
    """
    prediction = _predict(method, images, mask)
    if prediction is None:
        return None
    originals = as_pictures(denormalise(images, mean, std))
    predicted = as_pictures(denormalise(prediction, mean, std))
    hidden = rearrange(mask.pixels(method.encoder.patch_size).cpu().numpy(), "b 1 h w -> b h w")
    rows = [
        _panels(original, filled, where, patch=method.encoder.patch_size)
        for original, filled, where in zip(originals, predicted, hidden, strict=True)
    ]
    return arrange(rows, titles=TITLES if titles else ())


def _predict(method: Method, images: Tensor, mask: Mask) -> Tensor | None:
    """The reconstruction in evaluation mode; the method is left in the mode that it was in."""
    training = method.training
    method.eval()
    try:
        with torch.no_grad():
            return method.reconstruct(images, mask)
    finally:
        method.train(training)


def as_pictures(pixels: UInt8[Tensor, "B C H W"]) -> list[Picture]:
    """RGB pictures of grey, RGB or RGBA images, whose transparent parts become white; of other channels the
    first three are shown, of two the first."""
    channels = pixels.shape[1]
    if channels == 2 or channels > 4:
        pixels = pixels[:, : 1 if channels == 2 else 3]
    array = rearrange(pixels, "b c h w -> b h w c").numpy()
    if channels == 4:
        alpha = array[..., 3:].astype(np.float32) / 255
        array = (array[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return list(np.broadcast_to(array, (*array.shape[:3], 3)))


def _panels(
    original: Picture, prediction: Picture, hidden: Bool[NDArray, "H W"], *, patch: int
) -> tuple[Picture, Picture, Picture]:
    """The three pictures of one sample, enlarged."""
    scale = max(1, ceil(MIN_SIDE / min(hidden.shape)))
    where = hidden.repeat(scale, 0).repeat(scale, 1)[..., None]
    # The prediction is enlarged with the original around it: what a method outputs at visible patches is no
    # part of its task and must not bleed into the hidden ones.
    filled = enlarge(np.where(hidden[..., None], prediction, original), scale)
    original = enlarge(original, scale)
    return (
        original,
        np.where(where, _hidden_ground(where.shape[:2], patch * scale), original),
        np.where(where, filled, original),
    )


def enlarge(picture: Picture, scale: int) -> Picture:
    if scale == 1:
        return picture
    height, width = picture.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width * scale, height * scale), Image.Resampling.BICUBIC))


def _hidden_ground(shape: tuple[int, ...], patch: int) -> Picture:
    """What is drawn over hidden patches: grey, with a fine lighter edge at the top and left of each."""
    ground = np.full((*shape, 3), HIDDEN, dtype=np.uint8)
    if patch >= MIN_EDGED_PATCH:
        ground[::patch] = HIDDEN_EDGE
        ground[:, ::patch] = HIDDEN_EDGE
    return ground


def arrange(rows: Sequence[Sequence[Picture]], *, titles: Sequence[str]) -> Image.Image:
    """Samples in columns, filled from top to bottom, with titles above each column."""
    height, width = rows[0][0].shape[:2]
    block = len(rows[0]) * (width + GAP) - GAP
    columns = min(ceil(len(rows) / ROWS), max(1, (MAX_WIDTH + BLOCK_GAP) // (block + BLOCK_GAP)))
    down = ceil(len(rows) / columns)
    columns = ceil(len(rows) / down)
    font = ImageFont.load_default(size=15 if width < 200 else 17)
    top = 26 if titles else 0
    size = columns * (block + BLOCK_GAP) - BLOCK_GAP, top + down * (height + GAP) - GAP
    canvas = Image.new("RGBA", size, (255, 255, 255, 0))
    draw = ImageDraw.Draw(canvas)
    for column in range(columns):
        left = column * (block + BLOCK_GAP)
        for index, title in enumerate(titles):
            draw.text((left + index * (width + GAP), 2), title, fill=TITLE, font=font)
        for line, pictures in enumerate(rows[column * down : (column + 1) * down]):
            for index, picture in enumerate(pictures):
                place = left + index * (width + GAP), top + line * (height + GAP)
                canvas.paste(Image.fromarray(np.ascontiguousarray(picture)), place)
    return canvas
