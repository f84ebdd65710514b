"""Pages looked at in a real browser: Chromium, headless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from accessibility import find_serious
from browsers import open_chromium
from genretree.corpus.store import Store
from genretree.evaluation.evaluate import compare_evaluations, evaluate
from genretree.evaluation.report import save_evaluation
from genretree.library.database.records import FileResult, FileRow, ModelKey
from genretree.library.plan.mapping import Decision
from genretree.library.plan.planner import TagPlan
from genretree.library.plan.preview import Preview, write_page
from genretree.training.train import train
from small_corpus import TREE

pytestmark = pytest.mark.slow

BROKEN = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
CUT_OFF = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
# Whatever the page names outside itself would be fetched from a network.
OUTSIDE = "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    settings = {"epochs": 6, "image_size": 16, "components": 20, "min_samples_leaf": 5}
    bundle = train(store, "boosting", folder / "b", settings)
    other = train(store, "boosting", folder / "o", {**settings, "epochs": 1, "heads": "independent"})
    found = [evaluate(each, store) for each in (bundle, other)]
    return save_evaluation(found[0], folder / "out", store, (found[1], compare_evaluations(*found)))


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_a_report_opens_whole_on_any_screen(browser: Browser, report: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(report.as_uri())
    assert page.title() == "genretree: evaluation"
    assert problems == []
    assert page.evaluate(BROKEN) == 0
    assert page.evaluate("document.images.length") > 20
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(OVERFLOW) <= 0, "wider than the window"
    assert page.get_by_role("heading", name="Hardest tracks").first.is_visible()
    if width >= 1400:
        assert page.evaluate(CUT_OFF) == []
    assert page.locator("audio").count() >= 1
    anchors = page.locator("nav a").evaluate_all("all => all.map(a => a.hash.slice(1))")
    assert page.evaluate("ids => ids.filter(id => !document.getElementById(id))", anchors) == []
    assert page.locator(".lead").inner_text().startswith("Best of 2: ")
    assert page.get_by_text("artist-disjoint").first.is_visible()
    page.get_by_text("Settings and versions").first.click()
    assert page.get_by_text("min_samples_leaf").first.is_visible()
    assert find_serious(page) == []
    page.close()


@pytest.fixture(scope="module")
def preview_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    lines = []
    for i in range(30):
        decision = Decision(genres=("Rock & Roll",), path=("Other", "Rock", "Soft_rock"), confidence=1 - i / 60)
        path = f"/music/An artist/A <long> name of an album/{i:02d} a_name_without_any_blank_in_it.mp3"
        row = FileRow(i, path, 1, 1, b"", ())
        lines.append(
            TagPlan(
                row=row, result=FileResult(None, slices=3), decision=decision, action="write" if i % 3 else "has_genre"
            )
        )
    write_page(Preview(lines), folder / "preview.html", ModelKey("0" * 16, "fake_classifier", "tree", TREE))
    return folder / "preview.html"


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_preview_opens_whole_on_any_screen(browser: Browser, preview_page: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(preview_page.as_uri())
    assert problems == []
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(OVERFLOW) <= 0, "wider than the window"
    assert page.get_by_text("98 %").first.is_visible()
    shut = page.get_by_text("/00 a_name").first
    assert not shut.is_visible()
    page.get_by_text("already have a genre").last.click()
    assert shut.is_visible()
    page.close()
