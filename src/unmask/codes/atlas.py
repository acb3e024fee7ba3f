"""What each code of a tokenizer stands for: pieces of images that share it (PeCo's figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from jaxtyping import Int64, Shaped
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from unmask.codes.sampling import Reservoir
from unmask.codes.statistics import CodeCount
from unmask.data import EvaluationLoader, Source, Subset, open_source
from unmask.data.arrays import Bits
from unmask.data.views import as_fractions
from unmask.drawing import as_pictures, denormalise
from unmask.engine.machine import choose_device
from unmask.errors import UserError
from unmask.evaluate.features import watched, workers_for
from unmask.recipes.trained import bits_of, load_tokenizer
from unmask.tokenizers import Tokenizer

COUNT, PATCHES = 32, 8  # codes on a page, places for each
TILE = 66  # pixels of a tile: a third of it is the place, the rest is around it
GAP, COLUMN_GAP, TOP = 3, 30, 34
CAPTION = 92  # pixels in front of a row
COLUMNS = 2
DIM = 0.45  # how much of the surroundings' contrast stays
INK, FAINT = (60, 60, 60), (122, 122, 122)


@dataclass(frozen=True)
class Sample:
    """Places of the codes that are used most.

    Attributes:
        use: of all codes.
        codes: the chosen ones, the most frequent first.
        tiles: for every chosen code some places, each with one place around it: [C, h, w], pixels in [0, 1].
        images: that were looked at.
        first: rank of the first chosen code, from 1.
    """

    use: CodeCount
    codes: list[int]
    tiles: list[list[Shaped[Tensor, "C h w"]]]
    images: int
    first: int


def codes(
    tokenizer: str | Path,
    *,
    data: str | Path | Source,
    out: str | Path,
    count: int = COUNT,
    page: int = 1,
    patches: int = PATCHES,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Draw which pieces of images have the same code, for the codes that are used most.

    The places of a code are a fair sample of all its places in the images. Each is drawn with one place
    around it, dimmed, because tokenizers look beyond their place.

    Args:
        tokenizer: a run folder, or what else `load_tokenizer` takes.
        data: a folder or archive of images, or any source of them.
        out: PNG to write, replaced if it is there.
        count: codes on a page.
        page: 1 shows the most frequent codes, 2 those after them.
        patches: places for each code.
        batch_size: images through the tokenizer at a time; does not change the result.
        seed: of the sample.

    Returns:
        The PNG.

    Raises:
        UserError: no tokenizer, no images, a page behind the last.
    """
    target = Path(out).expanduser()
    if target.suffix.lower() != ".png":
        raise UserError(f"{target}: codes are drawn as PNG; give a name that ends in .png")
    loaded = load_tokenizer(tokenizer).to(choose_device(device))
    bits = bits_of(tokenizer)
    sample = sample_places(
        loaded,
        open_source(data),
        bits=bits,
        count=count,
        page=page,
        patches=patches,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        progress=progress,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atlas(sample, patches=patches).save(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def sample_places(
    tokenizer: Tokenizer,
    source: Source,
    *,
    bits: Bits = 8,
    count: int = COUNT,
    page: int = 1,
    patches: int = PATCHES,
    batch_size: int = 64,
    workers: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Sample:
    """Tokenize images, then read those again whose places were drawn.

    Raises:
        UserError: no image can be read, or the page is behind the last.
    """
    use = CodeCount(tokenizer.vocabulary)
    reservoir = Reservoir(tokenizer.vocabulary, patches, torch.Generator().manual_seed(seed))
    device = next(tokenizer.parameters()).device
    loader = _loader(tokenizer, source, bits, batch_size, workers)
    seen = 0
    for images, _labels, indices in watched(loader, len(source), "images" if progress else None):
        found = tokenizer.codes(as_fractions(images.to(device)))
        use.add(found)
        reservoir.add(found, indices)
        seen += len(images)
    if not seen:
        raise UserError(f"not one picture of {source} can be read")
    first = (page - 1) * count
    chosen = use.ranked()[first : min(first + count, use.used)]
    if not len(chosen):
        pages = ceil(use.used / count)
        raise UserError(f"there is no page {page}: {use.used:,} codes are in use, which fill {pages:,} pages")
    tiles = _tiles(tokenizer, source, reservoir, chosen, bits)
    return Sample(use, chosen.tolist(), tiles, seen, first + 1)


def _loader(
    tokenizer: Tokenizer, source: Source, bits: Bits, batch_size: int, workers: int | None
) -> EvaluationLoader:
    return EvaluationLoader(
        source,
        tokenizer.image_size,
        batch_size=batch_size,
        workers=workers_for(len(source), batch_size, workers),
        channels=tokenizer.channels,
        bits=bits,
        crop_fraction=1.0,
        max_bad=1.0,
        pin_memory=False,
    )


def _tiles(
    tokenizer: Tokenizer, source: Source, reservoir: Reservoir, chosen: Int64[Tensor, " c"], bits: Bits
) -> list[list[Tensor]]:
    """The places of every chosen code, cut from their images."""
    wanted = reservoir.image[chosen]
    needed = torch.unique(wanted[wanted >= 0])
    stride, columns = tokenizer.stride, tokenizer.grid[1]
    cut: dict[tuple[int, int], Tensor] = {}
    pairs = set(zip(wanted.flatten().tolist(), reservoir.place[chosen].flatten().tolist(), strict=True))
    of_image: dict[int, list[int]] = {}
    for image, place in pairs:
        of_image.setdefault(image, []).append(place)
    for images, _labels, indices in _loader(tokenizer, Subset(source, needed.tolist()), bits, 64, 0):
        # Nothing is known beyond the edge of an image: it is shown white.
        framed = F.pad(as_fractions(images), (stride,) * 4, value=1.0)
        for index, image in zip(needed[indices].tolist(), framed, strict=True):
            for place in of_image[index]:
                top, left = place // columns * stride, place % columns * stride
                cut[index, place] = image[:, top : top + 3 * stride, left : left + 3 * stride]
    return [
        [
            cut[pair]
            for pair in zip(reservoir.image[code].tolist(), reservoir.place[code].tolist(), strict=True)
            if pair in cut
        ]
        for code in chosen.tolist()
    ]


def atlas(sample: Sample, *, patches: int) -> Image.Image:
    """A page: a row of places for every code, in two columns, with how often the code is used."""
    rows = ceil(len(sample.codes) / COLUMNS)
    width = CAPTION + patches * (TILE + GAP)
    sheet = Image.new(
        "RGB", (COLUMNS * width + COLUMN_GAP + 2 * GAP, TOP + rows * (TILE + GAP) + GAP), (255, 255, 255)
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    use = sample.use
    title = (
        f"{use.used:,} of {len(use.counts):,} codes in use in {sample.images:,} images, "
        f"perplexity {use.perplexity:,.4g}. Codes {sample.first:,} to "
        f"{sample.first + len(sample.codes) - 1:,} by use."
    )
    draw.text((GAP, 8), title, fill=INK, font=font)
    for number, (code, tiles) in enumerate(zip(sample.codes, sample.tiles, strict=True)):
        column, row = divmod(number, rows)
        left, top = GAP + column * (width + COLUMN_GAP), TOP + row * (TILE + GAP)
        share = use.counts[code].item() / use.places
        draw.text((left, top + 14), f"code {code}", fill=INK, font=font)
        draw.text(
            (left, top + 32),
            f"{share:.2%}" if share >= 1e-4 else f"{use.counts[code]:,} times",
            fill=FAINT,
            font=font,
        )
        for index, tile in enumerate(_framed(tiles)):
            sheet.paste(tile, (left + CAPTION + index * (TILE + GAP), top))
    return sheet


def _framed(tiles: Sequence[Shaped[Tensor, "C h w"]]) -> list[Image.Image]:
    """Places with what is around them paler, and a thin line between the two."""
    if not tiles:
        return []
    channels = tiles[0].shape[0]
    third = TILE // 3
    pictures = []
    unit = (0.0,) * channels, (1.0,) * channels
    for picture in as_pictures(denormalise(torch.stack(list(tiles)), *unit)):
        whole = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BICUBIC)
        place = whole.crop((third, third, 2 * third, 2 * third))
        shown = Image.blend(Image.new("RGB", whole.size, (255, 255, 255)), whole, DIM)
        shown.paste(place, (third, third))
        ImageDraw.Draw(shown).rectangle((third - 1, third - 1, 2 * third, 2 * third), outline=(40, 40, 40))
        pictures.append(shown)
    return pictures
