"""Predicted features and their targets as pictures: as colours, and by their likeness to one patch."""

from collections.abc import Sequence
from math import ceil

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unmask.drawing import (
    MIN_SIDE,
    Picture,
    add_caption,
    arrange,
    as_pictures,
    denormalise,
    enlarge,
    hidden_ground,
)
from unmask.masking import Mask

TITLES = ("original", "masked", "target", "predicted", "target: like frame", "predicted: like it")
MAP = "viridis"  # of likeness, from dark (unlike) to light
FRAME = (235, 60, 50)
PALE = 0.35  # how much of a photo is left where nothing is said
OUTLIERS = 0.02  # share at either end of a component that may be over- or underexposed


def feature_strip(
    images: Float[Tensor, "B C H W"],
    predicted: Float[Tensor, "B N D"],
    target: Float[Tensor, "B N D"],
    mask: Mask,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    titles: bool = True,
) -> Image.Image:
    """What a method that predicts features makes of images, on a transparent ground.

    A row an image: original; what the method gets; target and prediction as colours, of which the first three
    principal components of all targets are red, green and blue; target and prediction by their likeness to
    the target of one hidden patch, which is framed: the cosine, after the mean target was taken away, from -1
    (dark) to 1 (light). Predictions are shown for hidden patches only, targets where there are any; all else
    is a pale photo. A caption says how far predictions agree with targets (`agreement`).

    Args:
        images: normalised by `mean` and `std`.
        predicted: in raster order of the mask's grid.
        target: likewise, in the same space; not a number where there is none.
        titles: name the columns, and add the caption.
    """
    hidden, predicted = mask.hidden.cpu(), predicted.detach().float().cpu()
    target = target.detach().float().cpu()
    known = target.isfinite().all(-1)
    centre = target[hidden].mean(0)
    chosen = _central(hidden, mask.grid)
    query = target[torch.arange(len(target)), chosen] - centre
    maps = (
        (principal_colours(target, target[known]), known),
        (principal_colours(predicted, target[known]), hidden),
        (_likeness(target - centre, query), known),
        (_likeness(predicted - centre, query), hidden),
    )
    rows = []
    for index, photo in enumerate(as_pictures(denormalise(images, mean, std))):
        scale = max(1, ceil(MIN_SIDE / min(photo.shape[:2])))
        side = scale * photo.shape[0] // mask.grid[0]
        original, where = enlarge(photo, scale), _squares(hidden[index], mask.grid, side)[..., None]
        drawn = [_over(original, colours[index], shown[index], mask.grid, side) for colours, shown in maps]
        for picture in drawn[2:]:
            _frame(picture, divmod(int(chosen[index]), mask.grid[1]), side)
        ground = hidden_ground(original.shape[:2], side)
        rows.append((original, np.where(where, ground, original), *drawn))
    strip = arrange(rows, titles=TITLES if titles else ())
    return add_caption(strip, _caption(predicted, target, mask)) if titles else strip


def agreement(
    predicted: Float[Tensor, "B N D"], target: Float[Tensor, "B N D"], hidden: Bool[Tensor, "B N"]
) -> float:
    """Cosine of all predictions together with all targets of the hidden patches, after the mean target was
    taken away from both: 1 is right up to scale, 0 what the same answer for all patches scores.
    """
    wanted, found = target[hidden].double(), predicted[hidden].double()
    centre = wanted.mean(0)
    return F.cosine_similarity((found - centre).flatten(), (wanted - centre).flatten(), dim=0).item()


def principal_colours(
    features: Float[Tensor, "B N D"], reference: Float[Tensor, "n D"]
) -> UInt8[NDArray, "B N 3"]:
    """The first three principal components of `reference` as red, green and blue; each spans what the
    reference spans of it, but for the outermost fiftieth at either end.
    """
    centre = reference.double().mean(0)
    centred = reference.double() - centre
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = vectors[:, -3:].flip(1)
    # The sign of an eigenvector means nothing; a rule keeps the colours the same from picture to picture.
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    span = torch.quantile(centred @ axes, torch.tensor([OUTLIERS, 1 - OUTLIERS]).double(), dim=0)
    share = ((features.double() - centre) @ axes - span[0]) / (span[1] - span[0]).clamp(min=1e-9)
    colours = share.nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return np.pad(colours, ((0, 0), (0, 0), (0, 3 - colours.shape[-1])))  # of features narrower than three


def pale(photo: Picture) -> Picture:
    """A photo that says where one is and nothing else."""
    grey = photo.mean(-1, keepdims=True)
    return np.broadcast_to((255 - PALE * (255 - grey)).astype(np.uint8), photo.shape)


def _likeness(centred: Float[Tensor, "B N D"], query: Float[Tensor, "B D"]) -> UInt8[NDArray, "B N 3"]:
    cosine = F.cosine_similarity(centred, query[:, None], dim=-1).nan_to_num(-1.0)
    coloured = matplotlib.colormaps[MAP](((cosine + 1) / 2).numpy())
    return (255 * coloured[..., :3]).round().astype(np.uint8)


def _central(hidden: Bool[Tensor, "B N"], grid: tuple[int, int]) -> Tensor:
    """The hidden patch of every image that is nearest to its middle."""
    rows, columns = (torch.arange(size) - (size - 1) / 2 for size in grid)
    distance = rearrange(rows[:, None].square() + columns.square(), "h w -> (h w)").expand_as(hidden)
    return distance.masked_fill(~hidden, torch.inf).argmin(1)


def _over(
    photo: Picture,
    colours: UInt8[NDArray, "N 3"],
    shown: Bool[Tensor, " N"],
    grid: tuple[int, int],
    side: int,
) -> Picture:
    """Every shown patch as a square of its colour, over a pale grey photo."""
    squares = rearrange(colours, "(h w) c -> h w c", h=grid[0]).repeat(side, 0).repeat(side, 1)
    return np.where(_squares(shown, grid, side)[..., None], squares, pale(photo))


def _squares(patches: Bool[Tensor, " N"], grid: tuple[int, int], side: int) -> Bool[NDArray, "H W"]:
    return rearrange(patches.numpy(), "(h w) -> h w", h=grid[0]).repeat(side, 0).repeat(side, 1)


def _frame(picture: Picture, place: tuple[int, int], side: int) -> None:
    """Draw a frame around a patch, in place."""
    width = max(2, side // 10)
    top, left = place[0] * side, place[1] * side
    patch = picture[top : top + side, left : left + side]
    inner = patch[width:-width, width:-width].copy()
    patch[:] = FRAME
    patch[width:-width, width:-width] = inner


def _caption(predicted: Tensor, target: Tensor, mask: Mask) -> str:
    score = agreement(predicted, target, mask.hidden.cpu())
    return (
        "Colours: the first three principal components of the target's features. Likeness: the cosine with "
        "the target of the framed patch, dark -1, light 1, after the mean target was taken away. Predictions "
        f"are shown where patches are hidden; they agree with the targets there by a cosine of {score:.2f} "
        "(1 is right, 0 is what the same answer everywhere scores)."
    )
