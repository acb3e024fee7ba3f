"""The table of segmentation."""

import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from benchmarks.segment import table


def test_gains_are_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    figures = {"random": (0.10, 0.20), "trained": (0.30, 0.36, 0.99)}
    for name, values in figures.items():
        for seed, miou in enumerate(values):
            found = {"miou": miou, "pixel_accuracy": 0.5, "cpu_minutes": 1.0, "steps": 7}
            (tmp_path / f"{name}-seed{seed}.json").write_text(json.dumps(found))
    console = Console(record=True, width=110, file=StringIO())
    console.print(table(tmp_path))
    text = console.export_text()
    assert "15.0 (7.1)" in text and "55.0 (38.2)" in text  # each start over its own seeds
    assert "18.0 (2.8)" in text  # 20 and 16, of the first two
    assert len(table(tmp_path / "nothing").rows) == 0
