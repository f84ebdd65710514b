"""The layout of the package: the order of imports, the public names, and the time to import them."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import genretree

# A module imports only modules that come before it, in the list of the top level and in that of the folder of both.
IMPORT_ORDER = {
    "": [
        "arrays",
        "files",
        "errors",
        "checks",
        "client",
        "parallel",
        "progress",
        "remote",
        "cluster",
        "settings",
        "taxonomy",
        "vocabulary",
        "sound",
        "corpus",
        "recovery",
        "datasets",
        "models",
        "metrics",
        "bundle",
        "training",
        "evaluation",
        "audit",
        "prediction",
        "explanation",
        "classifier",
        "embedding",
        "testing",
        "estimator",
        "library",
        "service",
        "cli",
        "__main__",
    ],
    "models": [
        "base",
        "differentiable",
        "finite_weights",
        "registry",
        "runtime",
        "features",
        "linear",
        "pretrained",
        "neural",
        "families",
    ],
    "explanation": [
        "coordinates",
        "target",
        "slices",
        "bands",
        "sentences",
        "result",
        "baseline",
        "perturb",
        "bundle_weights",
        "methods",
        "evaluate",
        "similar",
        "render",
        "genre",
        "api",
        "survey",
    ],
    "embedding": ["embedders", "backbones", "table", "neighbours", "stores"],
    "library": ["tags", "database", "scan", "plan", "apply"],
    "service": ["config", "errors", "metrics", "storage", "corrections", "training_music", "workers", "engine", "http"],
}
SOURCE = Path(genretree.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"


def _module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, without the package's name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.removeprefix("genretree.") for name in names if name.startswith("genretree.")}


@pytest.mark.parametrize("folder", IMPORT_ORDER)
def test_imports_point_one_way(folder: str) -> None:
    order, start = IMPORT_ORDER[folder], f"{folder}." if folder else ""
    wrong = []
    for path in (SOURCE / folder.replace(".", "/")).rglob("*.py"):
        module = _module(path).removeprefix(start).split(".")[0]
        if module == "__init__":
            continue
        assert module in order, f"{path}: add '{module}' to IMPORT_ORDER"
        for name in _imports(path):
            other = name.removeprefix(start).split(".")[0]
            if name.startswith(start) and other in order and order.index(other) > order.index(module):
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong


def test_the_layout_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    make_layout = import_module("make_layout")
    written = (DOCS / "layout.md").read_text(encoding="utf-8")
    assert written == make_layout.page(), "run: python docs/make_layout.py"


def test_generated_parts_of_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    make_tables = import_module("make_tables")
    for page in make_tables.PAGES:
        text = (DOCS.parent / page).read_text(encoding="utf-8")
        assert "<!-- generated: " in text
        assert text == make_tables.fill(text), "run: python docs/make_tables.py"


def _public_names() -> dict[str, str]:
    """Each public name and the module that the stub imports it from."""
    tree = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"genretree.{node.module}" for node in imports for alias in node.names}


def test_public_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    names = _public_names()
    for name, home in names.items():
        module = import_module(home)
        import_module(f"genretree.{name}" if find_spec(f"genretree.{name}") else "genretree")
        assert getattr(genretree, name) is getattr(module, name)
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8")).body[-1]
    assert isinstance(stub, ast.Assign)
    assert sorted(names) == ast.literal_eval(stub.value) == sorted(genretree.__all__) == dir(genretree)
    code = "import genretree, genretree.explanation.api, genretree.training; print(genretree.explain, genretree.train)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.count("<function") == 2


def test_importing_the_package_is_fast() -> None:
    # Processor time, which other processes don't lengthen as much.
    code = "import time; began = time.process_time(); import genretree; print(time.process_time() - began)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    assert min(seconds) < 0.15
