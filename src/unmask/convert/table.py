"""What a conversion found, for the terminal."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from unmask.convert.conversion import Converted


def summary(converted: Converted) -> Iterator[RenderableType]:
    """The facts as a table, what to know about them, and what can be done now."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in converted.facts.items():
        table.add_row(label, escape(value))
    table.add_row("written to", escape(str(converted.folder)))
    yield table
    if converted.notes:
        yield ""
    for note in converted.notes:
        yield f"[yellow]![/] {escape(note)}"
    folder = escape(str(converted.folder))
    yield "\nEvery weight found its place. Now, for instance:"
    yield f"  unmask evaluate linear {folder} --data labelled/"
    if converted.complete:
        yield f"  unmask reconstruct {folder} picture.jpg"
    yield f"  unmask export {folder}"
