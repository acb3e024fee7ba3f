"""The documentation tells the truth: its example of a method runs, its commands and options exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import torch
import typer
from typer.core import TyperCommand, TyperGroup

from unmask.cli import app
from unmask.encoders import create_encoder
from unmask.listing import unified_table
from unmask.methods.base import Method

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(path: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [text for name, text in found if name == language]


def test_the_example_method_learns_and_reconstructs() -> None:
    (source,) = blocks(DOCS / "add-a-method.md", "python")
    namespace: dict[str, object] = {"__name__": "example"}
    exec(compile(source, "add-a-method.md", "exec"), namespace)
    example = namespace["MeanColour"]
    assert isinstance(example, type)
    assert issubclass(example, Method)

    torch.manual_seed(0)
    encoder = create_encoder("vit_tiny_patch16_224", image_size=(32, 48), patch_size=8, embed_dim=48, depth=2)
    method = example(encoder, mask_ratio=0.5)
    images = torch.rand(2, 3, 1, 1).expand(2, 3, 32, 48)  # one colour a picture: nothing is left to guess
    mask = method.draw(images)
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = method(images, mask=mask)["loss"]
    for _ in range(60):
        optimiser.zero_grad()
        method(images, mask=mask)["loss"].backward()
        optimiser.step()
    assert method(images, mask=mask)["loss"] < 0.2 * first
    reconstruction = method.reconstruct(images, mask)
    hidden = mask.pixels(encoder.patch_size).expand_as(images)
    assert (reconstruction - images)[hidden].abs().mean() < 0.2 * first


def test_the_example_states_the_five_steps_in_order() -> None:
    (source,) = blocks(DOCS / "add-a-method.md", "python")
    assert re.findall(r"^        # (\w+)$", source, flags=re.M) == [
        "mask",
        "encode",
        "predict",
        "target",
        "compare",
    ]


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every line that starts with `unmask` in a block of shell commands; "a|b" is both."""
    for path in sorted(DOCS.rglob("*.md")):
        for block in blocks(path, ""):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("unmask "):
                    yield path.name, [word.strip("[]") for word in shlex.split(line, comments=True)[1:]]


def test_every_command_and_option_of_the_docs_exists() -> None:
    seen = 0
    for page, words in commands():
        command = typer.main.get_command(app)
        while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
            names = words.pop(0).split("|")
            assert set(names) <= set(command.commands), f"{page}: no command {names}"
            command = command.commands[names[0]]
        known = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        options = {word for word in words if word.startswith("--")} - {"--help"}
        assert options <= known, f"{page}: {command.name} has no option {options - known}"
        seen += 1
    assert seen > 20


def test_every_option_in_the_command_line_page_exists() -> None:
    def options(command: TyperCommand | TyperGroup) -> set[str]:
        own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        inner = command.commands.values() if isinstance(command, TyperGroup) else ()
        return own.union(*(options(each) for each in inner))

    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(--[a-z-]+)", page)) - {"--help"}
    assert len(named) > 15
    assert named <= options(typer.main.get_command(app))


def test_the_table_of_methods_is_that_of_the_code() -> None:
    page = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    written = re.search(r"methods_table\.py -->\n\n(.*)\n<!-- end -->", page, flags=re.S)
    assert written is not None
    assert written[1] == unified_table(), "write it anew: python scripts/write_methods_table.py"
