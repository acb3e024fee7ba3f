"""Large photos made small once, so that no run has to decode them whole in every epoch."""

from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from unmask.data import open_source
from unmask.data.decode import DecodeError, open_image
from unmask.data.files import IndexedFiles
from unmask.engine.files import beside
from unmask.engine.machine import cores
from unmask.engine.run import require_apart
from unmask.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # that are written again as what they are; others are copied
MODES = ("L", "RGB", "RGBA")  # of 8 bits, as are palettes and CMYK, which are left alone
AT_A_TIME = 16  # pictures for a process


@dataclass
class Shrunk:
    """What was written.

    Attributes:
        path: the folder.
        images: pictures that lie in it now.
        smaller: those of them that were made smaller; the others were small already, or of a kind that is
            copied as it is.
        before: bytes of all pictures.
        after: likewise, of what lies in the folder.
        skipped: name -> reason of those that cannot be read.
    """

    path: Path
    images: int = 0
    smaller: int = 0
    before: int = 0
    after: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def shrink(
    data: str | Path,
    *,
    out: str | Path,
    side: int = 512,
    quality: int = 92,
    workers: int | None = None,
    progress: bool = True,
) -> Shrunk:
    """Copy a folder or archive of pictures, none of them with a shorter side above `side` pixels.

    Folders, and with them labels, stay as they are. Pictures stand upright (EXIF) and keep format and colour
    profile; those that are small enough, and those of 16 bits, many channels or several frames, are copied
    as they are. Files that are there already are kept, so an interrupted command goes on where it was.

    Args:
        data: a folder, zip or tar of images.
        out: a folder, made if it is missing.
        side: pixels of the shorter side. Crops of a fifth of the area at 224 pixels need 500.
        quality: of JPEG and WebP, 1 to 95.
        workers: processes; None is one for every core.

    Raises:
        UserError: data that is no folder or archive, a folder that cannot be written, nothing that can be
            read.
    """
    source, folder = open_source(data), Path(out).expanduser()
    if not isinstance(source, IndexedFiles):
        raise UserError(f"{data} is no folder or archive; shrink the folder that the pictures lie in.")
    if side < 1 or not 1 <= quality <= 95:
        raise UserError(f"--side must be positive and --quality 1 to 95, not {side} and {quality}.")
    require_apart(folder, source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made: {error.strerror or error}") from error
    result = Shrunk(folder)
    work = partial(_shrink_some, source, folder, side, quality)
    parts = [range(start, min(start + AT_A_TIME, len(source))) for start in range(0, len(source), AT_A_TIME)]
    with closing(_mapped(work, parts, cores() if workers is None else workers)) as done:
        console = Console(stderr=True)
        for some in track(done, "shrinking", len(parts), console=console, disable=not progress):
            for name in ("images", "smaller", "before", "after"):
                setattr(result, name, getattr(result, name) + getattr(some, name))
            result.skipped |= some.skipped
    if not result.images:
        name, reason = next(iter(result.skipped.items()))
        raise UserError(f"None of the {len(source)} images could be read. The first, {name}: {reason}")
    return result


def _mapped(work: Callable[[range], Shrunk], parts: list[range], workers: int) -> Generator[Shrunk]:
    if workers < 2:
        yield from map(work, parts)
        return
    # Not forked: PyTorch's threads, if it is loaded, would be in an unknown state.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, parts)


def _shrink_some(source: IndexedFiles, folder: Path, side: int, quality: int, indices: range) -> Shrunk:
    result = Shrunk(folder)
    for index in indices:
        path = folder / source.names[index].lstrip("/")
        if not path.resolve().is_relative_to(folder.resolve()):
            result.skipped[source.name(index)] = "its path leads out of the archive"
            continue
        try:
            content = source.read(index)
            assert isinstance(content, bytes)  # files are
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = beside(path)
                unfinished.write_bytes(reduced(content, side, quality) or content)
                unfinished.replace(path)
        except (OSError, DecodeError) as error:
            result.skipped[source.name(index)] = str(error)
            continue
        size = path.stat().st_size
        result.images += 1
        result.smaller += size != len(content)
        result.before += len(content)
        result.after += size
    return result


def reduced(content: bytes, side: int, quality: int = 92) -> bytes | None:
    """A picture with a shorter side of `side` pixels, as the bytes of a file of the same format.

    Returns:
        None if it should be kept as it is.

    Raises:
        DecodeError: it is broken, or no picture.
    """
    image = open_image(content)
    format, profile = image.format, image.info.get("icc_profile")
    frames = getattr(image, "n_frames", 1)
    if min(image.size) <= side or format not in FORMATS or image.mode not in MODES or frames > 1:
        return None
    scale = side / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    image.draft(image.mode, size)  # a JPEG is decoded no larger than needed
    try:
        # Pillow's box filter first, where the picture is more than three times too large.
        small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        small.info, small.format = dict(image.info), format
        if "exif" in image.info:
            small.getexif().load(image.info["exif"])
        upright = ImageOps.exif_transpose(small)
        target = BytesIO()
        upright.save(target, format, quality=quality, icc_profile=profile, exif=b"")
    except (OSError, SyntaxError, ValueError) as error:
        raise DecodeError(str(error)) from error
    return target.getvalue()
