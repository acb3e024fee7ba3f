"""Several runs side by side: `unmask compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unmask import __version__
from unmask.compare.curves import as_svg, charts, line_style
from unmask.compare.pictures import comparison
from unmask.compare.runs import read_entries
from unmask.compare.sheet import sheet
from unmask.compare.table import COLUMNS, cells, facts
from unmask.engine.files import put, write_text
from unmask.errors import UserError
from unmask.report import as_webp, template

__all__ = ["Comparison", "compare"]

FORMATS = (".html", ".png")


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        path: of the page or picture; None if none was asked for.
        rows: a row a run, plain data: "run", "folder", "status", "recipe", "method", "encoder", "images"
            (seen), "minutes" (of training), "loss" (at the end), "guess" (the lowest loss that needs no
            learning), "accuracy" (the best), "measured_by", "measured_at" (the step). None where there is
            none.
    """

    path: Path | None
    rows: list[dict[str, Any]]


def compare(
    runs: Sequence[str | Path],
    *,
    pictures: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    seed: int = 0,
    mask_ratio: float | None = None,
) -> Comparison:
    """Put runs side by side: what they make of the same pictures under the same masks, their curves, a table.

    Losses of different methods have different units: they are drawn apart, and together only as a share of
    the best guess that needs no learning, of methods that have one.

    Args:
        runs: folders, two or more, finished or not.
        pictures: one or more, of any size; the largest centre is shown. None leaves the pictures out.
        out: a self-contained page (.html) or one picture (.png) to write; None only reads.
        seed: of the masks.
        mask_ratio: share to hide; None is what the first run hides in training.

    Raises:
        UserError: no runs, a picture that cannot be read, a run without checkpoint, runs that no mask fits.
    """
    entries = read_entries(runs)
    paths = [Path(path) for path in ([pictures] if isinstance(pictures, str | Path) else pictures)]
    target = None if out is None else Path(out)
    if target is None and paths:
        raise UserError("pictures are drawn into a file: name one, for instance --out compare.html")
    if target is not None and target.suffix.lower() not in FORMATS:
        raise UserError(f"{target}: a comparison is a page or a picture; give a name in .html or .png")
    rows = facts(entries)
    if target is None:
        return Comparison(None, rows)
    drawn = comparison(entries, paths, seed=seed, mask_ratio=mask_ratio) if paths else None
    curves, names = charts(entries), [entry.name for entry in entries]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() == ".png":
            picture = sheet(names, curves, rows, drawn)
            put(target, lambda unfinished: picture.save(unfinished, "PNG"))
        else:
            page = template("compare.html").render(
                names=[(name, line_style(index)["color"]) for index, name in enumerate(names)],
                pictures=None if drawn is None else as_webp(drawn),
                charts=[{"title": one.title, "note": one.note, "svg": Markup(as_svg(one))} for one in curves],
                columns=COLUMNS,
                rows=[cells(row) for row in rows],
                version=__version__,
            )
            write_text(target, page)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    return Comparison(target, rows)
