"""Files that appear whole, whoever else writes them."""

import multiprocessing
import os
from pathlib import Path

from unmask.engine.files import beside, leftovers, remove, write_text


def write_often(path: Path, letter: str) -> None:
    for _ in range(100):
        write_text(path, letter * 10_000)


def test_two_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert path.read_text() in ("a" * 10_000, "b" * 10_000)
    assert leftovers(tmp_path) == []


def test_unfinished_files_have_their_writer_in_the_name_and_are_found(tmp_path: Path) -> None:
    unfinished = beside(tmp_path / "recipe.json")
    assert str(os.getpid()) in unfinished.name and unfinished.suffix == ".json"
    (tmp_path / "recipe.json").write_text("{}")
    unfinished.write_text("{")
    assert leftovers(tmp_path) == [unfinished]
    remove(unfinished)
    assert leftovers(tmp_path) == leftovers(tmp_path / "missing") == []
