"""The pages: the site builds without a warning, no link is dead, and the tutorial runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

import genretree
from genretree.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.glob("*.md"))]

pytest.importorskip("sphinx")
pytest.importorskip("nbclient")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", out / "work", DOCS]
    done = subprocess.run([*command, out / "html"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    return out / "html"


class _Page(HTMLParser):
    """What a page loads, where it points, and what can be pointed at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        if "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


def test_every_page_is_in_the_site_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in [*DOCS.glob("*.md"), DOCS / "tutorial.ipynb"]:
        made = _Page(site / f"{page.stem}.html")
        assert made.loads
        for place in made.loads:
            assert not place.startswith(("http:", "https:", "//")), (page, place)
            assert place.startswith("data:") or (site / place.split("?")[0]).is_file(), (page, place)


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    pages = {path.name: _Page(path) for path in site.glob("*.html")}
    for name, page in pages.items():
        for link in page.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            file, _, place = link.partition("#")
            assert not file or (site / file).is_file(), (name, link)
            if place and file.endswith(".html") and "/" not in file:
                assert place in pages[file].ids, (name, link)


def test_the_reference_has_every_public_name_and_the_pages_every_command(site: Path) -> None:
    reference = _Page(site / "api.html").ids
    missing = []
    for name in genretree.__all__:
        places = {f"genretree.{name}", f"{getattr(genretree, name).__module__}.{name}"}
        missing += [] if places & reference else [name]
    assert not missing
    commands = _Page(site / "commands.html").ids
    for name, command in main.commands.items():
        below = command.commands if isinstance(command, click.Group) else {"": None}
        for each in below:
            assert f"genretree-{name}-{each}".rstrip("-") in commands
    page = (site / "commands.html").read_text(encoding="utf-8")
    assert ".. option::" not in page, "a directive was printed instead of run"
    assert "\N{EN DASH}" not in page, "an option's two hyphens became a dash"


def test_the_start_page_has_the_picture(site: Path) -> None:
    assert any("overview" in place for place in _Page(site / "index.html").loads)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_between_files_is_dead(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        file, _, place = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if place:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert place in slugs, link


# -- the tutorial ------------------------------------------------------------------------------------------------


def _texts(cells: list[dict]) -> str:
    found = []
    for cell in cells:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", output
            found.append("".join(output.get("text", "")))
    return "\n".join(found)


def _pictures(cells: list[dict]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def test_the_tutorial_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pretty_midi")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    places = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.syspath_prepend(str(DOCS))
    from make_tutorial import run

    kept = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    made = run(DOCS / "tutorial.ipynb").cells
    said = _texts(made)
    assert "artist-disjoint" in said
    assert "80 tracks, 80 slices" in said
    assert re.search(r"level_2: \d+% right", said)
    assert _pictures(made) == _pictures(kept) == 3
    assert [cell["cell_type"] for cell in made] == [cell["cell_type"] for cell in kept]


def test_what_is_kept_of_the_tutorial_is_small_and_names_no_place_of_a_disk() -> None:
    path = DOCS / "tutorial.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert path.stat().st_size < 500_000
    said = _texts(cells)
    assert said.strip(), "run docs/make_tutorial.py"
    assert not re.search(r"/(tmp|home|root|Users|var|site-packages)/", said)
