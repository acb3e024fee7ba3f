"""Several runs side by side: `unmask compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unmask import __version__
from unmask.compare.curves import as_svg, charts, line_style
from unmask.compare.evaluations import are_evaluations, markdown, page, read_evaluation
from unmask.compare.evaluations import facts as found_facts
from unmask.compare.pictures import comparison
from unmask.compare.runs import read_entries
from unmask.compare.sheet import sheet
from unmask.compare.table import COLUMNS, cells, facts
from unmask.engine.files import put, write_text
from unmask.errors import UserError
from unmask.page import as_webp, template

__all__ = ["Comparison", "compare"]

FORMATS = (".html", ".png")


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        path: of the page or picture; None if none was asked for.
        labelled: the runs were trained on labels.
        rows: a row a run, plain data: "run", "folder", "status", "recipe", "method", "encoder", "images"
            (seen), "minutes" (of training), "loss" (at the end), "guess" (the lowest loss that needs no
            learning), "accuracy" (the best), "measured_by", "measured_at" (the step). None where there is
            none. Of runs with labels: see `evaluations.facts`.
    """

    path: Path | None
    rows: list[dict[str, Any]]
    labelled: bool = False


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

    Runs with labels (`unmask evaluate finetune`, `segment`, `detect`) are put together by what they started
    from, with the spread over seeds, and beside random weights.

    Args:
        runs: folders, two or more, finished or not; all of them pre-trained, or all with labels and finished.
        pictures: one or more, of any size; the largest centre is shown. None leaves the pictures out.
        out: a self-contained page (.html) or one picture (.png) to write; None only reads.
        seed: of the masks.
        mask_ratio: share to hide; None is what the first run hides in training.

    Raises:
        UserError: no runs, a picture that cannot be read, a run without checkpoint, runs that no mask fits.
    """
    folders = [Path(run).expanduser() for run in runs]
    if are_evaluations(folders):
        return _compare_evaluations(folders, pictures=bool(pictures), out=out)
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


def _compare_evaluations(folders: Sequence[Path], *, pictures: bool, out: str | Path | None) -> Comparison:
    if len(folders) < 2:
        raise UserError("a comparison needs two runs or more: unmask compare runs/a runs/b")
    if pictures:
        raise UserError("runs with labels have no reconstructions to compare: leave --pictures out")
    rows = found_facts([read_evaluation(folder) for folder in folders])
    if out is None:
        return Comparison(None, rows, labelled=True)
    target = Path(out)
    writers = {".html": page, ".md": markdown}
    if target.suffix.lower() not in writers:
        raise UserError(f"{target}: a comparison of evaluations is a page; give a name in .html or .md")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, writers[target.suffix.lower()](rows))
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    return Comparison(target, rows, labelled=True)
