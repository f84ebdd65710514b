"""The files of the project agree with each other: pinned tools, workflows, versions, links."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="the sdist has no workflows")


def _pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"([\w./@-]+)==([\w.]+)", text))


def test_pre_commit_uses_the_versions_of_the_constraints() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pinned = _pins((ROOT / "constraints.txt").read_text())
    for hook in hooks:
        for tool, version in _pins(" ".join(hook.get("additional_dependencies", []))).items():
            assert pinned.get(tool, version) == version, tool
    schema = re.search(r"schemas/([\d.]+)/", (ROOT / "biome.json").read_text())
    assert schema
    (biome,) = (hook for hook in hooks if hook["id"] == "biome")
    assert biome["additional_dependencies"] == [f"@biomejs/biome@{schema[1]}"]


def test_workflows_install_the_torch_of_the_constraints_and_test_every_declared_python() -> None:
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert _pins(text)["torch"] == _pins((ROOT / "constraints.txt").read_text())["torch"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = re.findall(r":: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    assert yaml.safe_load(text)["jobs"]["tests"]["strategy"]["matrix"]["python"] == declared
    assert project["requires-python"] == f">={declared[0]}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_permissions_are_limited(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {"contents": "read"}
    for action in re.findall(r"uses: (\S+)", workflow.read_text()):
        assert action.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action


def _edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def _load_script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".github" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_release_needs_one_version_and_date_everywhere(tmp_path: Path) -> None:
    find_problems: Callable[[str, Path], list[str]] = _load_script("check_release").find_problems
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    _edit(tmp_path, "pyproject.toml", f'version = "{version}"', 'version = "9.8.0"')
    _edit(tmp_path, "CITATION.cff", f"\nversion: {version}\n", '\nversion: 9.8.0\ndate-released: "2031-01-02"\n')
    first = re.search(r"^## .*$", (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first
    _edit(tmp_path, "CHANGELOG.md", first[0], "## 9.8.0 (2031-01-02)")
    if "[project.urls]" not in (tmp_path / "pyproject.toml").read_text(encoding="utf-8"):
        assert [problem[:31] for problem in find_problems("v9.8.0", tmp_path)] == ["pyproject.toml has no [project."]
        _edit(tmp_path, "pyproject.toml", "[project.scripts]", '[project.urls]\nx = "https://x"\n\n[project.scripts]')
    assert find_problems("v9.8.0", tmp_path) == []
    assert find_problems("v9.8.1", tmp_path) == ["the tag is v9.8.1, but pyproject.toml has the version 9.8.0"]
    _edit(tmp_path, "CHANGELOG.md", "2031-01-02", "unreleased")
    assert find_problems("v9.8.0", tmp_path) == ["CHANGELOG.md dates 9.8.0 unreleased, and CITATION.cff 2031-01-02"]


def test_the_citation_names_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_each_version_of_the_site_has_a_folder(tmp_path: Path) -> None:
    publish = _load_script("publish_site").publish
    built, site = tmp_path / "built", tmp_path / "site"
    (built / "_static").mkdir(parents=True)
    site.mkdir()
    for name, expected in (
        ("dev", ["dev"]),
        ("v0.9.0", ["0.9.0", "dev"]),
        ("v0.10.0", ["0.10.0", "0.9.0", "dev"]),
        ("v0.9.1", ["0.10.0", "0.9.1", "0.9.0", "dev"]),
    ):
        (built / "index.html").write_text(name)
        assert publish(built, site, name) == expected
    assert (site / "0.9.0" / "index.html").read_text() == "v0.9.0"
    assert "url=0.10.0/" in (site / "index.html").read_text()
    assert re.findall(r'href="(.+?)/"', (site / "versions.html").read_text()) == expected
    (built / "index.html").unlink()
    publish(built, site, "dev")
    assert not (site / "dev" / "index.html").exists(), "a page that is gone stays"
    with pytest.raises(ValueError, match="neither a version"):
        publish(built, site, "../elsewhere")
