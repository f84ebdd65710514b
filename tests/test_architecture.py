"""The rooms of the house: a module imports only what stands before it in this list."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import genretree

ROOMS = [
    "arrays",
    "files",
    "errors",
    "checks",
    "machine",
    "progress",
    "remote",
    "cluster",
    "settings",
    "taxonomy",
    "sound",
    "corpus",
    "models",
    "calibration",
    "description",
    "hub",
    "bundle",
    "export",
    "untrained",
    "_train",
    "pretrain",
    "recipe",
    "scores",
    "_evaluate",
    "pictures",
    "report",
    "audit",
    "compare",
    "_predict",
    "from_images",
    "explain",
    "classifier",
    "testing",
    "estimator",
    "library",
    "tables",
    "service",
    "quickstart",
    "cli",
    "__main__",
]
SOURCE = Path(genretree.__file__).parent


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("genretree.")}


def test_imports_point_one_way() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in ROOMS, f"{room} has no place in the list of rooms"
        wrong += [
            f"{path.relative_to(SOURCE)} imports {name}"
            for name in _imports(path)
            if ROOMS.index(_room(name)) > ROOMS.index(room)
        ]
    assert not wrong


def _public_names() -> dict[str, str]:
    """Each public name and the module that the stub imports it from."""
    tree = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"genretree.{node.module}" for node in imports for alias in node.names}


def test_public_functions_are_not_hidden_by_the_modules_they_are_in() -> None:
    names = _public_names()
    for name, home in names.items():
        module = import_module(home)
        import_module(f"genretree.{name}" if find_spec(f"genretree.{name}") else "genretree")
        assert getattr(genretree, name) is getattr(module, name)
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8")).body[-1]
    assert isinstance(stub, ast.Assign)
    assert sorted(names) == ast.literal_eval(stub.value) == sorted(genretree.__all__) == dir(genretree)
    code = "import genretree, genretree.explain.pictures, genretree._train; print(genretree.explain, genretree.train)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.count("<function") == 2


def test_importing_the_package_is_quick() -> None:
    code = "import time; began = time.perf_counter(); import genretree; print(time.perf_counter() - began)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    assert min(seconds) < 0.15
