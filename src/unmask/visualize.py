"""Pictures of what a method sees and what it makes of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unmask.data.arrays import open_picture
from unmask.data.decode import DecodeError
from unmask.data.files import read_file
from unmask.data.views import as_fractions, evaluation_view, imagenet_statistics, normalise, scaled
from unmask.drawing import MIN_SIDE, Picture, arrange, as_pictures, denormalise, enlarge, hidden_ground
from unmask.errors import UserError
from unmask.feature_pictures import feature_strip
from unmask.masking import Mask
from unmask.methods.base import Method
from unmask.recipes.base import Data
from unmask.runs import load_method, read_recipe

TITLES = ("original", "masked", "reconstruction")


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
    features: bool = False,
) -> Path:
    """Hide parts of pictures and let a pre-trained method fill them in, drawn as a strip.

    The newest checkpoint of the run is used. Pictures may have any size: of each the largest centre with the
    proportions of the run's images is shown. Of a method that predicts features and no pixels, these are
    drawn as colours beside their targets (`feature_strip`).

    Args:
        run: folder of the run.
        pictures: one or more.
        out: PNG to write; None is `reconstructions/<name of the first picture>.png` in the run folder.
        seed: of the mask.
        mask_ratio: share to hide; None is the run's.
        features: draw features of a method that predicts both.

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
    for path in paths:
        read_picture(path, recipe.data)  # one that cannot be read is named before weights are loaded
    method = load_method(run, recipe.model_copy(update={"method": recipe.method.model_copy(update=changes)}))

    def read(size: tuple[int, int]) -> Tensor:
        return torch.stack([read_picture(path, recipe.data, size) for path in paths])

    views = picture_views(method, read, mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask = method.draw(first_of(views))
    shown = shown_statistics(recipe.data, mean, std)
    strip = prediction_strip(method, views, mask, mean=shown[0], std=shown[1], features=features)
    if strip is None:
        raise UserError(
            f"the run in {run} has no reconstructions: {recipe.method.name} does not predict "
            f"{'features' if features else 'anything'} that can be shown as a picture"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        strip.save(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def read_picture(path: Path, data: Data, size: tuple[int, int] | None = None) -> Shaped[Tensor, "C H W"]:
    """The centre of a picture as the run's encoder sees it, or in another size."""
    try:
        image = open_picture(read_file(path), data.channels, data.depth)
        return evaluation_view(
            image,
            size or data.image_size,
            crop_fraction=1.0,
            interpolation=data.interpolation,
            channels=data.channels,
        )
    except (OSError, DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read as a picture: {reason}") from error


def picture_views(
    method: Method,
    read: Callable[[tuple[int, int]], Shaped[Tensor, "B C H W"]],
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Float[Tensor, "B C H W"]]:
    """All views of whole pictures, as a loader makes them of crops, without shifts.

    Args:
        read: the pictures in a size, as they are stored.
        mean: of pixels in [0, 1], which normalised views get; so is std.
    """
    height, width = method.encoder.image_size
    views = {}
    for name, view in method.views.items():
        pixels = read((scaled(height, view.scale), scaled(width, view.scale)))
        views[name] = normalise(pixels, mean, std) if view.normalised else as_fractions(pixels)
    return views


def first_of(views: Mapping[str, Tensor]) -> Tensor:
    """The view that masks and pictures are made for."""
    return next(iter(views.values()))


@torch.no_grad()
def prediction_strip(
    method: Method,
    views: Mapping[str, Float[Tensor, "B C H W"]],
    mask: Mask,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    features: bool = False,
) -> Image.Image | None:
    """What a method makes of images: its reconstructions, or where it has none its features.

    Args:
        views: all that the method declares, on its device; the first is normalised by `mean` and `std`.
        features: features in any case.

    Returns:
        See `reconstruction_strip` and `feature_strip`; None if the method predicts nothing that can be shown.
    """
    images = first_of(views)
    if not features:
        strip = reconstruction_strip(method, images, mask, mean=mean, std=std)
        if strip is not None:
            return strip
    with evaluating(method):
        pair = method.predict_features(**views, mask=mask)
    return None if pair is None else feature_strip(images, *pair, mask, mean=mean, std=std)


@contextmanager
def evaluating(method: Method) -> Iterator[None]:
    """In evaluation mode; the method is left in the mode that it was in."""
    training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(training)


@torch.no_grad()
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
    with evaluating(method):
        prediction = method.reconstruct(images, mask)
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
        np.where(where, hidden_ground(where.shape[:2], patch * scale), original),
        np.where(where, filled, original),
    )
