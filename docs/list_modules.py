"""Build hook: the API page shows every public module of the package, so that no module is forgotten."""

from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
PLACE = "<!-- modules -->"


def public_modules() -> list[str]:
    """Dotted names of all modules with a docstring of their own, the package first."""
    names = []
    for path in sorted((SOURCE / "unmask").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        hidden = any(part.startswith("_") for part in parts)
        if not hidden and path.read_text(encoding="utf-8").lstrip().startswith('"""'):
            names.append(".".join(parts))
    return sorted(names, key=lambda name: (name.count(".") > 0, name))


def on_page_markdown(markdown: str, **_unused: Any) -> str:
    blocks = "\n\n".join(f"::: {name}" for name in public_modules())
    return markdown.replace(PLACE, blocks)
