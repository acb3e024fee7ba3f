"""What `evaluate_codes` found, for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from unmask.evaluate.table import NAMES


def summary(result: Mapping[str, Any]) -> Iterable[Table | str]:
    """Scores of classifiers on the codes, their use, and what a fixed classifier says of reconstructions."""
    table = Table()
    table.add_column(f"top-1 on {result['validation']['images']:,} validation images", no_wrap=True)
    kinds = list(next(iter(result["scores"].values())))
    for kind in kinds:
        table.add_column(NAMES[kind], justify="right")
    for name, scores in result["scores"].items():
        cells = (f"{scores[kind]['top1']:.1%} ± {scores[kind]['standard_error']:.1%}" for kind in kinds)
        table.add_row(name, *cells)
    yield table
    codes, judge = result["codes"], result["classifier"]
    used = f"{codes['used']:,} of {codes['vocabulary']:,} codes in use at {codes['places']:,} places"
    yield f"{used}, perplexity {codes['perplexity']:,.4g}"
    if judge is None:
        yield "No classifier looked at reconstructions."
        return
    right = ""
    if "original" in judge:
        right = (
            f"; right: {judge['original']:.1%} of the pictures, {judge['reconstruction']:.1%} of the others"
        )
    same = f"{judge['name']} says the same of a picture and of its reconstruction in {judge['same']:.1%}"
    yield f"{same} of all cases{right}"
