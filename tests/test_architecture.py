"""The shape of the code: imports point one way, functions and files are short, importing unmask is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

# Lowest first; a module may import its own layer and those before it. What is missing here is an application.
LAYERS = (
    ("errors", "processes", "reading", "masking", "patches", "data", "demo_data"),
    ("encoders", "load", "neck_parts", "necks", "decoders", "prompting", "regressor", "heads", "targets"),
    ("learner", "methods", "tokenizers"),
    ("recipes",),
)
APPLICATIONS = len(LAYERS)  # engine, evaluate, visualize, report, export, ...
COMMAND_LINE = APPLICATIONS + 1
PACKAGE = COMMAND_LINE + 1  # unmask/__init__.py, which offers all of it lazily

BLIND_TO_METHODS = {"engine", "evaluate", "export", "health", "trivial", "visualize", "report", "page"}
FORBIDDEN_PARAMETERS = {"args", "kwargs", "cfg", "config"}


def modules(source: Path) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in sorted((source / "unmask").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """Modules of the package that a module imports, at its top or inside a function."""
    targets = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                parent = package[: len(package) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    targets.add(inner)
                elif not alias.name.startswith("__"):
                    targets.add(base)
    return {target for target in targets if target in known} - {name}


def layer(name: str) -> int:
    parts = name.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return PACKAGE
    if parts[1] == "cli":
        return COMMAND_LINE
    return next((height for height, members in enumerate(LAYERS) if parts[1] in members), APPLICATIONS)


def upward_arrows(source: Path) -> list[str]:
    found = modules(source)
    return [
        f"{name} imports {target}, which is above it"
        for name, path in found.items()
        for target in sorted(imports(name, path, set(found)))
        if layer(target) > layer(name)
    ]


def concrete_methods_in_the_engine(source: Path) -> list[str]:
    """Engine, evaluation and export know the interface and the table of methods, never one method."""
    found = modules(source)
    interface = {"unmask.methods", "unmask.methods.base"}
    return [
        f"{name} imports {target}"
        for name, path in found.items()
        if name.split(".")[1:2] and name.split(".")[1] in BLIND_TO_METHODS
        for target in sorted(imports(name, path, set(found)) - interface)
        if target.startswith("unmask.methods.")
    ]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    signature = function.args
    plain = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
    return {
        parameter.arg for parameter in [*plain, signature.vararg, signature.kwarg] if parameter is not None
    }


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body and one for each parameter; docstrings, where options are explained, do not count."""
    body = function.body[ast.get_docstring(function) is not None :]
    if not body:
        return len(parameters(function))
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 + len(parameters(function))


def code_lines(path: Path) -> int:
    """Lines of code and docstrings: neither blank nor only a comment."""
    stripped = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return sum(bool(line) and not line.startswith("#") for line in stripped)


def longest_allowed(name: str) -> int:
    parts = name.split(".")
    return 250 if parts[1:2] == ["methods"] and len(parts) > 2 else 300


def test_imports_point_one_way() -> None:
    assert upward_arrows(SOURCE) == []


def test_engine_and_evaluation_know_no_concrete_method() -> None:
    assert concrete_methods_in_the_engine(SOURCE) == []


def test_import_check_sees_every_form_of_import(tmp_path: Path) -> None:
    package = tmp_path / "unmask"
    for folder in ("methods", "engine", "encoders"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("from unmask.engine import loop\n")
    (package / "engine" / "loop.py").write_text("from unmask.methods import METHODS, mae\n")
    (package / "masking.py").write_text("def f():\n    import unmask.encoders.vit\n")
    (package / "encoders" / "vit.py").write_text("from ..methods.mae import MAE\n")
    (package / "methods" / "mae.py").write_text(
        "from unmask import __version__, pretrain\nfrom unmask import cli\n"
    )
    assert upward_arrows(tmp_path) == [
        "unmask.encoders.vit imports unmask.methods.mae, which is above it",
        "unmask.masking imports unmask.encoders.vit, which is above it",
        "unmask.methods.mae imports unmask, which is above it",
        "unmask.methods.mae imports unmask.cli, which is above it",
    ]
    assert concrete_methods_in_the_engine(tmp_path) == ["unmask.engine.loop imports unmask.methods.mae"]


def test_no_bags_of_options() -> None:
    offenders = [
        f"{name}.{function.name}({', '.join(sorted(parameters(function) & FORBIDDEN_PARAMETERS))})"
        for name, path in modules(SOURCE).items()
        for function in functions(path)
        if parameters(function) & FORBIDDEN_PARAMETERS
    ]
    assert offenders == []


def test_functions_are_short() -> None:
    lengths = {
        f"{name}.{function.name}": function_lines(function)
        for name, path in modules(SOURCE).items()
        for function in functions(path)
    }
    assert len(lengths) > 20
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_files_are_short() -> None:
    lengths = {name: code_lines(path) for name, path in modules(SOURCE).items()}
    too_long = {name: length for name, length in lengths.items() if length > longest_allowed(name)}
    assert too_long == {}


@pytest.mark.parametrize("name", ["unmask", "unmask.cli", "unmask.demo_data"])
def test_import_is_light(name: str) -> None:
    heavy = {"torch", "torchvision", "timm", "accelerate", "matplotlib"}
    code = f"import sys, {name}; print(*sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
