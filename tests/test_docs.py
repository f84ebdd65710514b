"""The documentation: it builds without warnings, has no dead links, and the tutorial runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
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

build_main = pytest.importorskip("sphinx.cmd.build").main
pytest.importorskip("nbclient")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(out / "work"), str(DOCS), str(out / "html")]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as errors:
        patch.setattr(sys, "path", [*sys.path])
        code = build_main(words)
    assert code == 0, errors.getvalue()
    assert not errors.getvalue().strip()
    return out / "html"


class _Page(HTMLParser):
    """Resources, links and ids of an HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if "src" in values:
            self.loads.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def test_every_page_is_in_the_site_and_loads_only_local_resources(site: Path) -> None:
    for page in [*DOCS.glob("*.md"), DOCS / "tutorial.ipynb"]:
        html = _Page(site / f"{page.stem}.html")
        assert html.loads
        for url in html.loads:
            assert not url.startswith(("http:", "https:", "//")), (page, url)
            assert url.startswith("data:") or (site / url.split("?")[0]).is_file(), (page, url)


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    pages = {path.name: _Page(path) for path in site.glob("*.html")}
    for name, page in pages.items():
        for link in page.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            file, _, anchor = link.partition("#")
            assert not file or (site / file).is_file(), (name, link)
            if anchor and file.endswith(".html") and "/" not in file:
                assert anchor in pages[file].ids, (name, link)


def test_the_reference_has_every_public_name_and_the_pages_every_command(site: Path) -> None:
    reference = _Page(site / "api.html").ids
    missing = []
    for name in genretree.__all__:
        anchors = {f"genretree.{name}", f"{getattr(genretree, name).__module__}.{name}"}
        missing += [] if anchors & reference else [name]
    assert not missing
    commands = _Page(site / "commands.html").ids
    for name, command in main.commands.items():
        subcommands = command.commands if isinstance(command, click.Group) else {"": None}
        for subcommand in subcommands:
            assert f"genretree-{name}-{subcommand}".rstrip("-") in commands
    page = (site / "commands.html").read_text(encoding="utf-8")
    assert ".. option::" not in page, "a directive was printed instead of rendered"
    assert "\N{EN DASH}" not in page, "an option's two hyphens became a dash"


def test_the_start_page_has_the_overview_image(site: Path) -> None:
    assert any("overview" in place for place in _Page(site / "index.html").loads)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_between_files_is_dead(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, link


# -- the tutorial ------------------------------------------------------------------------------------------------


def _texts(cells: list[dict]) -> str:
    texts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", output
            texts.append("".join(output.get("text", "")))
    return "\n".join(texts)


def _pictures(cells: list[dict]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


@contextlib.contextmanager
def _one_processor() -> Iterator[None]:
    """Leave one processor to new processes. They start no workers then, which import for longer than they work."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, list(before)[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pretty_midi")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folders = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.syspath_prepend(str(DOCS))
    from make_tutorial import run

    committed = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    with _one_processor():
        cells = run(DOCS / "tutorial.ipynb").cells
    text = _texts(cells)
    assert "artist-disjoint" in text
    assert "80 tracks, 80 slices" in text
    assert re.search(r"level_2: \d+% right", text)
    assert _pictures(cells) == _pictures(committed) == 3
    assert [cell["cell_type"] for cell in cells] == [cell["cell_type"] for cell in committed]


def test_the_committed_tutorial_is_small_and_has_no_local_paths() -> None:
    path = DOCS / "tutorial.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert path.stat().st_size < 500_000
    text = _texts(cells)
    assert text.strip(), "run docs/make_tutorial.py"
    assert not re.search(r"/(tmp|home|root|Users|var|site-packages)/", text)
