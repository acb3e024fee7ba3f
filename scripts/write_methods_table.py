"""Write the table of docs/methods/index.md anew from the cards of the methods."""

from pathlib import Path

from unmask.listing import unified_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods" / "index.md"
BEGIN, END = "<!-- written by scripts/write_methods_table.py -->\n\n", "\n<!-- end -->"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + unified_table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
