"""Check that a tag, the version, the changelog and CITATION.cff name the same release: `check_release.py v0.2.0`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def find_problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return what keeps the tag from being released."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    cited = dict(re.findall(r"^(version|date-released): *['\"]?([^'\"\n]+)", citation, re.MULTILINE))
    released = re.search(r"^## (\S+) \((.*)\)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    problems = []
    if tag != f"v{version}":
        problems.append(f"the tag is {tag}, but pyproject.toml has the version {version}")
    if cited.get("version") != version:
        problems.append(f"CITATION.cff has the version {cited.get('version')}, not {version}")
    if released is None or released[1] != version:
        problems.append(f"the first section of CHANGELOG.md is not {version}")
    elif released[2] != cited.get("date-released"):
        problems.append(
            f"CHANGELOG.md dates {version} {released[2]}, and CITATION.cff {cited.get('date-released', 'does not')}"
        )
    if "urls" not in project:
        problems.append("pyproject.toml has no [project.urls]: PyPI would show no link to the repository")
    return problems


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_release.py TAG")
    found = find_problems(sys.argv[1])
    sys.exit("\n".join(found) or 0)
