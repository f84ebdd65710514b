"""Write docs/layout.md, the map of the package, from the first line of each module's docstring.

    python docs/make_layout.py

`tests/test_architecture.py` compares the page with what this writes.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "genretree"
HEAD = """# Layout of the package

Generated from the modules' docstrings by `python docs/make_layout.py`. A package imports only
what stands above it in the list `IMPORT_ORDER` of `tests/test_architecture.py`; the same holds between sub-packages.
"""


def summary(path: Path) -> str:
    """First line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def page() -> str:
    """The page as Markdown."""
    lines = [HEAD]
    for folder in sorted({path.parent for path in SOURCE.rglob("*.py")}):
        place = folder.relative_to(SOURCE.parent).as_posix()
        lines += [f"## `{place}/`", "", summary(folder / "__init__.py"), ""]
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += ["| module | contents |", "| --- | --- |"] if modules else []
        lines += [f"| `{path.stem}` | {summary(path).replace('|', chr(92) + '|')} |" for path in modules]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "layout.md").write_text(page(), encoding="utf-8")
