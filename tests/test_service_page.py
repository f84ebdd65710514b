"""The service's page, driven in a real browser on real files: Chromium, headless."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

import pytest
import soundfile as sf
from mutagen.id3 import APIC, ID3, TIT2, TPE1
from PIL import Image
from playwright.sync_api import Browser, Page, Request, Route, expect

from accessibility import find_serious, require_axe
from browsers import find_free_port, open_chromium
from firefox import open_firefox
from genretree.corpus.manifest import read_manifest
from genretree.corpus.store import Store
from genretree.settings import SAMPLE_RATE
from genretree.taxonomy import Taxonomy, display_level, display_name
from genretree.training.train import train
from small_corpus import TREE, synthesise

pytestmark = pytest.mark.slow

SECONDS = 8.0
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
BROKEN = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
WAIT = 20_000  # milliseconds: other work may share the processors
Started = tuple[str, subprocess.Popen[bytes], Path]


@pytest.fixture(scope="module")
def started(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A server of a small bundle under two names, as a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    # Learns enough for an explanation with sentences, of which one has a passage that is filtered to a band.
    settings = {"epochs": 10, "image_size": 16, "min_samples_leaf": 5, "features": ["statistics"]}
    train(store, "boosting", folder / "first", settings)
    shutil.copytree(folder / "first", folder / "second")
    port = find_free_port()
    serve = [sys.executable, "-m", "genretree", "serve", str(folder / "first"), str(folder / "second")]
    serve += ["--corrections", str(folder / "corrections")]
    log = (folder / "log").open("wb")
    process = subprocess.Popen([*serve, "--port", str(port)], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/", process, folder / "log"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


@pytest.fixture(scope="module")
def address(started: Started, browser: Browser) -> str:
    """Where the server answers; the browser starts while the server does."""
    address, process, log = started
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            with urlopen(f"{address}healthz", timeout=2):
                return address
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not come up: {log.read_text(errors='replace')}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # A microphone that plays beeps, given without a question.
    with open_chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as browser:
        yield browser


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "A song <b>of mine.wav"
    sf.write(path, synthesise("Fast_beat", 7, SECONDS), SAMPLE_RATE)
    return path


@pytest.fixture(scope="module")
def shoot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Page, str], None]:
    """Takes a screenshot into $GENRETREE_SCREENSHOTS, or the run's own folder."""
    given = os.environ.get("GENRETREE_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return take


COMPLAINTS: list[str] = []  # messages in the browser's console, and requests to other hosts


@pytest.fixture(autouse=True)
def _nothing_to_complain_of() -> Iterator[None]:
    yield
    assert COMPLAINTS == []


def _open(browser: Browser, address: str, **settings: Any) -> Page:
    page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, "color_scheme": "light", **settings})
    page.set_default_timeout(WAIT)
    page.on("console", lambda message: COMPLAINTS.append(message.text))
    page.on("pageerror", lambda error: COMPLAINTS.append(str(error)))
    page.on("request", lambda request: request.url.startswith((address, "blob:")) or COMPLAINTS.append(request.url))
    page.add_init_script("localStorage['genretree.sureness'] ??= '0'")  # whole paths: the model is never sure
    page.goto(address)
    return page


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page, and closes it after the test."""
    pages: list[Page] = []

    def open_page(**settings: Any) -> Page:
        pages.append(_open(browser, address, **settings))
        return pages[-1]

    yield open_page
    for page in pages:
        if page.url.startswith(address):  # as a browser does, but a page closed by the driver does not: end its jobs
            page.evaluate("dispatchEvent(new Event('pagehide'))")
        page.close()


def _give(page: Page, *files: Path) -> None:
    expect(page.locator("body.ready")).to_be_attached()
    page.set_input_files("#file", list(files))


def _until(page: Page, condition: str) -> None:
    """Wait for a condition; the browser's own way of waiting needs eval, which the page's policy forbids."""
    for _ in range(WAIT // 50):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {condition}")


def _explained(page: Page) -> None:
    expect(page.locator("[role=tabpanel]:not([hidden]) img").first).to_be_visible(
        timeout=2 * WAIT
    )  # others may be ahead


# Record the text of the progress and the value of its bar.
WATCH = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const bar = document.querySelector("#result progress");
    if (bar) seen.push([document.querySelector("#result .stage").textContent.replace(/\\s…$/, ""), bar.value]);
  }).observe(document.getElementById("result"), { subtree: true, childList: true, characterData: true });
}"""


@pytest.fixture(scope="module")
def shown(browser: Browser, address: str, song: Path, shoot: Callable[[Page, str], None]) -> Iterator[Page]:
    """A page that a song was given to, with all that came of it."""
    page = _open(browser, address)
    expect(page.get_by_text("Nothing leaves this machine")).to_be_visible()
    expect(page.locator("#names")).to_contain_text("Fast beat")
    page.evaluate(WATCH)
    shoot(page, "empty-1280-light")
    _give(page, song)
    expect(page.locator(".path .leaf")).to_be_visible()
    shoot(page, "answer-1280-light")
    _explained(page)
    yield page
    page.close()


def test_a_song_goes_from_upload_to_result(shown: Page, song: Path, shoot: Callable[[Page, str], None]) -> None:
    stages = [stage for stage, _ in shown.evaluate("seen")]
    assert stages.index("Uploading") < stages.index("Decoding") < stages.index("Computing the explanation")
    values = [value for stage, value in shown.evaluate("seen") if stage == "Computing the explanation"]
    assert values == sorted(values)
    assert max(values) > 0.5
    assert shown.evaluate(BROKEN) == 0
    assert shown.locator("#result-title").inner_text() == song.name  # as text, not as HTML
    expect(shown.locator(".answer")).to_contain_text(re.compile(r"\d\s%"))
    expect(shown.get_by_role("treeitem").first).to_have_accessible_name(re.compile(r"^\w+.*, .*\d\s%"))
    expect(shown.get_by_role("tree").locator("[aria-selected=true]")).to_have_count(1)
    assert shown.locator(".tick", has_text="Hz").count() > 0
    shoot(shown, "result-1280-light")


def test_a_coarse_map_comes_before_the_explanation(
    visit: Callable[..., Page], song: Path, shoot: Callable[[Page, str], None]
) -> None:
    def stop_after_preview(route: Route) -> None:
        body = route.fetch().text()
        route.fulfill(body=body.partition("event: done")[0] if "event: preview" in body else body)

    page = visit()
    page.route("**/events", stop_after_preview)
    _give(page, song)
    preview = page.locator(".preview")
    expect(preview).to_contain_text("A first, coarse map of the evidence for", timeout=WAIT)
    expect(preview.locator("img.colour").first).to_have_js_property("complete", True)
    assert page.evaluate(BROKEN) == 0
    assert page.locator("#result progress").count() == 1, "the explanation goes on"
    shoot(page, "coarse")
    _explained(page)
    expect(preview).to_have_count(0)


def test_a_sentence_can_be_heard_whole_and_by_its_band(shown: Page) -> None:
    panel = shown.locator("[role=tabpanel]:not([hidden])")
    expect(panel.locator(".hear").first).to_contain_text("log odds")
    repeat = panel.get_by_role("button", name="repeat").first
    start, end = (int(part[0]) * 60 + int(part[2:]) for part in repeat.inner_text().split()[-1].split("\u2013"))
    repeat.click()
    _until(shown, f"document.querySelector('#player audio').currentTime > {start + 0.2}")
    shown.wait_for_timeout(1000 * (end - start) + 500)
    assert not shown.evaluate("document.querySelector('#player audio').paused")
    assert shown.evaluate("document.querySelector('#player audio').currentTime") < end + 0.5
    only = panel.get_by_role("button", name="only this band")
    only.first.click()
    _until(shown, "document.querySelector('.hear audio')?.currentTime > 0.1")
    shown.evaluate("document.querySelector('.hear audio').pause()")


def test_an_explanation_without_sentences_says_so(visit: Callable[..., Page], song: Path) -> None:
    def remove_sentences(route: Route) -> None:
        start, end, data = route.fetch().text().partition("event: done\ndata: ")
        result = json.loads(data or "{}")
        for reason in result.get("reasons", []):
            reason["sentences"] = []
        route.fulfill(body=f"{start}{end}{json.dumps(result)}\n\n" if end else start)

    page = visit()
    page.route("**/events", remove_sentences)
    _give(page, song)
    _explained(page)
    expect(page.locator("[role=tabpanel]:not([hidden])")).to_contain_text("No kind of sound stands out")


def test_the_page_shows_the_response_of_the_service(shown: Page) -> None:
    with shown.expect_download() as got:
        shown.get_by_role("link", name="JSON").click()
    found = json.loads(Path(got.value.path()).read_text(encoding="utf-8"))
    path = [name.replace("_", " ") for name in found["prediction"]["path"]]
    assert shown.locator(".path .name").all_inner_texts() == path
    assert shown.locator(".path .tier").all_inner_texts() == ["Branch", "Genre", "Subgenre"][: len(path)]
    chances = {item["path"][-1].replace("_", " "): item["probability"] for item in found["tree"]}
    for name, chance in chances.items():
        item = shown.locator(".where .node", has=shown.get_by_text(name, exact=True)).first
        drawn = item.locator(".chance").inner_text()
        assert re.sub(r"\D", "", drawn) == str(round(100 * chance)) or drawn[0] in "<>"
    for name in ("Tree (PNG)", "Why (PNG)"):
        with shown.expect_download() as got:
            shown.get_by_role("link", name=name).click()
        assert Path(got.value.path()).read_bytes().startswith(b"\x89PNG")


def test_the_overlay_goes_and_fades(shown: Page) -> None:
    colour = shown.locator("[role=tabpanel]:not([hidden]) img.colour").first
    expect(colour).to_have_css("opacity", "1")
    shown.get_by_label("Relevance", exact=True).uncheck()
    expect(colour).to_have_css("opacity", "0")
    shown.get_by_label("Relevance", exact=True).check()
    shown.get_by_label("Strength").fill("0.5")
    expect(colour).to_have_css("opacity", "0.5")
    shown.get_by_label("Strength").fill("1")


CURSOR = """() => {
  const sound = document.querySelector("#player audio");
  const lane = document.querySelector(".lane").getBoundingClientRect();
  const lines = [...document.querySelectorAll(".cursor")].filter(line => line.offsetParent);
  const at = lines.map(line => line.getBoundingClientRect()).map(box => (box.left + 1 - lane.left) / lane.width);
  return { time: sound.currentTime, at, end: sound.duration, paused: sound.paused };
}"""


def _agrees(page: Page) -> float:
    state = page.evaluate(CURSOR)
    assert len(state["at"]) >= 2
    assert state["end"] == pytest.approx(SECONDS, abs=0.3)
    for place in state["at"]:
        assert place == pytest.approx(state["time"] / SECONDS, abs=0.012)
    return float(state["time"])


def test_the_cursor_is_where_the_sound_is(shown: Page) -> None:
    shown.get_by_role("button", name="Play", exact=True).click()
    _until(shown, "document.querySelector('#player audio').currentTime > 0.4")
    shown.get_by_role("button", name="Pause").click()
    assert _agrees(shown) > 0.4
    lane = shown.locator(".picture:visible").first.bounding_box()
    assert lane is not None
    shown.locator(".picture:visible").first.click(position={"x": lane["width"] / 2, "y": 20})
    assert _agrees(shown) == pytest.approx(SECONDS / 2, abs=0.1)
    bar = shown.get_by_role("slider", name="Position in the track")
    bar.focus()
    shown.keyboard.press("ArrowRight")
    assert _agrees(shown) == pytest.approx(SECONDS / 2 + 2, abs=0.1)
    expect(bar).to_have_attribute("aria-valuetext", "0:06 of 0:08")
    shown.keyboard.press("Home")
    assert _agrees(shown) == 0
    shown.evaluate("document.activeElement.blur()")
    shown.keyboard.press("ArrowRight")
    assert _agrees(shown) == pytest.approx(2, abs=0.1)


# Press a passage's button, four times as fast; gives where it began and ended.
PASSAGE = """button => new Promise(resolve => {
  const sound = document.querySelector("#player audio");
  let from;
  sound.playbackRate = 4;
  sound.addEventListener("playing", () => { from = sound.currentTime; }, { once: true });
  sound.addEventListener("pause", () => resolve([from, sound.currentTime]), { once: true });
  button.click();
})"""


def test_a_typical_passage_plays_and_ends(shown: Page) -> None:
    passage = shown.locator(".passage").first
    words = re.findall(r"(\d+):(\d+)", passage.get_attribute("aria-label") or "")
    begin, end = (60 * int(minutes) + int(seconds) for minutes, seconds in words)
    began, ended = passage.evaluate(PASSAGE)
    shown.evaluate("document.querySelector('#player audio').playbackRate = 1")
    assert begin <= began < begin + 1.2  # whole seconds are shown
    assert end <= ended < end + 2.0
    _agrees(shown)


def test_the_keyboard_is_enough(shown: Page) -> None:
    page = shown
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0); getSelection().removeAllRanges()")
    page.locator("body").press("Tab")
    while page.evaluate("document.activeElement.className") != "skip":
        page.keyboard.press("Shift+Tab")
    _until(page, "document.activeElement.getBoundingClientRect().top >= 0")
    tree = page.get_by_role("tree")
    tree.locator("[tabindex='0']").focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.getAttribute('aria-posinset')") == "1"
    page.keyboard.press("ArrowLeft")
    expect(tree.locator("[role=treeitem]").first).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    asked = page.evaluate("document.activeElement.querySelector('.name').textContent")
    page.keyboard.press("Enter")
    assert page.get_by_label("Node to explain").locator("option:checked").inner_text().strip() == asked
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.get_by_label("Node to contrast with").select_option(index=2)
    other = page.get_by_label("Node to contrast with").locator("option:checked").inner_text().strip()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    tab = page.get_by_role("tab", name=f"{asked} and not {other}")
    expect(tab).to_have_attribute("aria-selected", "true", timeout=WAIT)
    expect(tab).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(tab).to_have_attribute("aria-selected", "false")


# Text whose contrast with what lies below it is under 4.5 to 1 (3 to 1 if large): WCAG 2.2, 1.4.3.
PALE = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = rgba(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode());) {
    const element = text.parentElement, style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    const unseen = !element.checkVisibility() || box.width < 2 || element.closest("[aria-disabled=true], noscript");
    if (!text.data.trim() || unseen) continue;
    const [one, other] = [light(rgba(style.color)), light(ground(element))].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${text.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (768, "light"), (1280, "dark")])
def test_anyone_can_read_it(
    shown: Page, width: int, scheme: Literal["dark", "light"], shoot: Callable[[Page, str], None]
) -> None:
    shown.set_viewport_size({"width": width, "height": 800})
    shown.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    shown.wait_for_timeout(100)  # the tree is laid out again
    shoot(shown, f"result-{width}-{scheme}")
    assert shown.evaluate(OVERFLOW) <= 0, "wider than the window"
    assert shown.evaluate(PALE) == []
    shown.set_viewport_size({"width": 1280, "height": 800})
    shown.emulate_media(color_scheme="light", reduced_motion="no-preference")


def test_the_page_is_accessible_to_screen_readers(shown: Page) -> None:
    page = shown
    images = page.locator("[role=tabpanel]:not([hidden]) img").evaluate_all("all => all.map(image => image.alt)")
    assert len(images) >= 4
    assert all(len(words) > 30 for words in images)
    assert len(set(images)) == len(images)
    # What a screen reader gets: the browser's own tree of accessible objects.
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    controls = "button link slider checkbox radio combobox textbox tab treeitem"
    named = {*controls.split(), "tree", "tablist", "tabpanel", "image", "progressbar", "region"}
    assert [role for role, name in told if role in named and not name.strip()] == []
    roles = {role for role, _ in told}
    assert {"main", "banner", "region", "tree", "treeitem", "tab", "tabpanel", "slider", "status", "heading"} <= roles
    levels = page.locator("h1, h2, h3, h4").evaluate_all(
        "all => all.filter(e => e.checkVisibility()).map(e => +e.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    small = page.locator("button:visible, select:visible").evaluate_all(
        "all => all.filter(e => e.offsetHeight < 24).length"
    )
    assert small == 0


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_axe_finds_nothing_serious(
    shown: Page, many: Page, visit: Callable[..., Page], width: int, scheme: Literal["dark", "light"]
) -> None:
    require_axe()
    start = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    expect(start.locator("#names")).to_contain_text("Fast beat")
    reference = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    reference.get_by_role("link", name="HTTP interface").click()
    expect(reference.get_by_role("heading", name="HTTP interface")).to_be_visible()
    assert reference.evaluate(OVERFLOW) <= 0
    for page in (start, reference, shown, many):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_timeout(100)
        assert find_serious(page) == []
        page.set_viewport_size({"width": 1280, "height": 800})
        page.emulate_media(color_scheme="light")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A song with a title, an artist and a cover."""
    path = tmp_path_factory.mktemp("tagged") / "02.mp3"
    sf.write(path, synthesise("Drone", 3, SECONDS), SAMPLE_RATE)
    picture = io.BytesIO()
    Image.new("RGB", (300, 300), "teal").save(picture, "JPEG")
    tags = ID3()
    for frame in (TIT2(text="=A title"), TPE1(text="An artist"), APIC(3, "image/jpeg", 3, "", picture.getvalue())):
        tags.add(frame)
    tags.save(path)
    return path


@pytest.fixture(scope="module")
def many(browser: Browser, address: str, song: Path, tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page with two songs and a file that is not one."""
    text = tmp_path_factory.mktemp("text") / "notes.txt"
    text.write_text("This is no song.\n" * 100)
    page = _open(browser, address)
    _give(page, song, tagged, text)
    expect(page.locator("#tracks tr[data-status=done]")).to_have_count(2, timeout=WAIT)
    expect(page.locator("#tracks tr[data-status=failed]")).to_contain_text("not an audio file")
    return page


def _titles(page: Page) -> list[str]:
    return page.locator("#tracks tbody .title a > span").evaluate_all("all => all.map(e => e.firstChild.data)")


def test_many_tracks_are_a_table_with_a_tree(many: Page, song: Path, shoot: Callable[[Page, str], None]) -> None:
    assert _titles(many) == [song.name, "=A title", "notes.txt"]
    expect(many.locator(".tracks .cover")).to_have_count(1)
    expect(many.locator(".overview a.name")).to_have_count(2)
    many.get_by_role("button", name="Title", exact=True).click()
    assert _titles(many) == ["=A title", song.name, "notes.txt"]
    expect(many.locator("th.title[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    many.get_by_role("button", name="Title", exact=True).click()
    assert _titles(many) == ["notes.txt", song.name, "=A title"]
    many.get_by_label("Filter the tracks").fill("artist")
    assert _titles(many) == ["=A title"]
    expect(many.get_by_text("1 of 3 tracks shown.")).to_be_visible()
    many.get_by_label("Filter the tracks").fill("")
    many.get_by_label("Group by").select_option("branch")
    groups = many.locator("tr.group").all_inner_texts()
    assert sum(int(words.split()[-1]) for words in groups) == 3
    for width, scheme in ((1400, "light"), (800, "light"), (390, "dark")):
        many.set_viewport_size({"width": width, "height": 900})
        many.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        many.wait_for_timeout(100)
        shoot(many, f"many-{width}-{scheme}")
        assert many.evaluate(OVERFLOW) <= 0
        assert many.evaluate(PALE) == []
    many.set_viewport_size({"width": 1400, "height": 900})
    many.emulate_media(color_scheme="light")
    many.get_by_label("Group by").select_option("nothing")


def test_the_table_is_saved_as_csv_and_json(many: Page, song: Path) -> None:
    with many.expect_download() as got:
        many.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(Path(got.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [row["file"] for row in rows] == [song.name, "02.mp3", "notes.txt"]
    assert rows[1]["title"] == "'=A title"  # no formula
    assert rows[2]["error"] == "not_audio"
    with many.expect_download() as got:
        many.get_by_role("button", name="JSON").click()
    content = json.loads(Path(got.value.path()).read_text(encoding="utf-8"))
    assert content[1]["tags"] == {"title": "=A title", "artist": "An artist"}
    assert " > ".join(content[0]["prediction"]["path"]) == rows[0]["path"]


def test_two_tracks_are_compared_and_the_address_survives(
    many: Page, song: Path, shoot: Callable[[Page, str], None]
) -> None:
    many.get_by_label(f"Compare {song.name}").check()
    many.get_by_label("Compare =A title").check()
    many.get_by_role("button", name="Compare two").click()
    expect(many.locator("#compare-title")).to_be_focused()
    expect(many.locator("#compare .path")).to_have_count(2)
    shoot(many, "compare-1400-light")
    assert find_serious(many) == []
    many.reload()
    expect(many.locator("#compare .path")).to_have_count(2, timeout=WAIT)
    many.go_back()
    assert _titles(many) == [song.name, "=A title", "notes.txt"]  # failed files, too


def test_a_reload_the_back_button_and_a_link_find_the_result(many: Page, visit: Callable[..., Page]) -> None:
    many.locator(".overview a.name", has_text="=A title").click()
    expect(many.locator("#result-title")).to_have_text("=A title")
    expect(many.locator("#result-title")).to_be_focused()
    expect(many.locator("#result .artist")).to_have_text("An artist · 02.mp3")
    _explained(many)
    address = many.url
    assert "?track=" in address
    many.reload()
    _explained(many)
    expect(many.locator("#result-title")).to_have_text("=A title")
    assert many.evaluate(BROKEN) == 0
    many.get_by_role("button", name="Play", exact=True).click()  # the file that the server keeps
    _until(many, "document.querySelector('#player audio').currentTime > 0.2")
    many.go_back()
    expect(many.locator("#tracks")).to_be_visible()
    many.go_forward()
    expect(many.locator("#result-title")).to_have_text("=A title")
    other = visit()
    other.goto(address)
    _explained(other)
    expect(other.locator(".song .cover")).to_be_visible()
    other.goto(re.sub("track=.*", "track=gone-or-never-there", address))
    expect(other.get_by_role("group", name="Error")).to_contain_text("The server no longer has this result.")
    COMPLAINTS.clear()  # the browser complains of the 404


def test_tabs_keep_each_others_tracks(browser: Browser, address: str, song: Path, tagged: Path) -> None:
    with browser.new_context() as context:
        tabs = [context.new_page(), context.new_page()]
        for tab in tabs:
            tab.goto(address)
        for tab, file in zip(tabs, (song, tagged), strict=True):
            _give(tab, file)
            expect(tab.locator("#result .verdict, #result .path").first).to_be_visible(timeout=WAIT)
        tabs[0].goto(address)
        expect(tabs[0].locator(".overview a.name")).to_have_count(2)


def test_a_result_is_shared_as_a_picture_and_as_a_page(many: Page, browser: Browser, tmp_path: Path) -> None:
    if not many.locator("#result").is_visible():
        many.locator(".tracks a", has_text="=A title").click()
    _explained(many)
    with many.expect_download() as got:
        many.get_by_role("button", name="Picture").click()
    with Image.open(got.value.path()) as picture:
        assert picture.size == (1200, 630)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10
    with many.expect_download() as got:
        many.get_by_role("button", name="Page", exact=True).click()
    got.value.save_as(tmp_path / "shared.html")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url.partition(":")[0]))
    page.on("console", lambda message: COMPLAINTS.append(message.text))
    page.goto((tmp_path / "shared.html").as_uri())
    assert page.title().startswith("=A title: ")
    expect(page.locator("h1")).to_have_text("=A title")
    assert page.evaluate("document.images.length") > 3
    assert page.evaluate(BROKEN) == 0
    assert page.evaluate(OVERFLOW) <= 0
    assert page.locator("script, button, input").count() == 0
    assert find_serious(page) == []
    assert set(requests) <= {"file", "data"}
    page.close()


def test_tracks_are_removed_one_by_one_and_together(many: Page, song: Path) -> None:
    if many.locator("#result").is_visible():
        many.get_by_role("link", name="All tracks").click()
    many.get_by_role("button", name="Remove notes.txt").click()
    expect(many.locator("#tracks h2")).to_have_text("2 tracks")
    kept = many.evaluate("JSON.parse(localStorage['genretree.tracks'])[0]")
    many.get_by_role("button", name="Remove all").click()
    expect(many.locator("#start-title")).to_be_visible()
    expect(many.locator("#tracks")).not_to_be_visible()
    for _ in range(50):
        if many.evaluate("id => fetch(`v1/jobs/${id}`).then(answer => answer.status)", kept) == 404:
            break
        many.wait_for_timeout(50)
    COMPLAINTS.clear()  # the browser complains of the 404
    many.reload()
    expect(many.locator("body.ready")).to_be_attached()
    expect(many.locator("#tracks")).not_to_be_visible()
    many.close()


def test_the_path_stops_where_the_model_is_not_sure(visit: Callable[..., Page], song: Path) -> None:
    page = visit()
    _give(page, song)
    expect(page.locator(".path .leaf")).to_be_visible(timeout=WAIT)
    sizes = page.locator(".path .name").evaluate_all(
        "all => all.map(e => [parseFloat(getComputedStyle(e).fontSize), +e.parentNode.style.getPropertyValue('--p')])"
    )
    assert [size for size, _ in sorted(sizes)] == [size for size, _ in sorted(sizes, key=lambda pair: pair[1])]
    slider = page.locator("#result").get_by_label("Follow the path while")
    slider.fill("0.95")
    sure = [chance for _, chance in sizes if chance >= 0.95]
    expect(page.locator(".path .name")).to_have_count(len(sure))
    if len(sure) < len(sizes):
        expect(page.locator(".path .stop")).to_contain_text(re.compile("It could be:.*%", re.DOTALL))
        expect(page.get_by_role("treeitem", name="on the predicted path")).to_have_count(len(sure))
    page.reload()
    expect(slider).to_have_value("0.95")
    slider.fill("0")


def test_a_wrong_genre_is_corrected(visit: Callable[..., Page], song: Path, started: Started) -> None:
    page = visit()
    _give(page, song)
    page.get_by_label("The right genre").select_option("Bells")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".correct")).to_contain_text("Saved as Calm \u203a Bells")
    table = started[2].parent / "corrections" / "corrections.csv"
    (track,) = read_manifest(table, TREE).tracks
    assert (track.metadata["genre"], track.metadata["file"]) == ("Calm > Bells", song.name)
    assert track.path.read_bytes() == song.read_bytes()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".correct")).not_to_contain_text("Saved")
    assert not track.path.exists()


def test_names_are_written_as_in_python(shown: Page) -> None:
    names = [name for tree in ("ccmusic", "general") for path in Taxonomy.builtin(tree).leaves for name in path]
    names += ["rnb_and_soul", "", "Non_", "NON_stop", "R_RNB", "électro_pop"]
    levels = [["fst_level", 0, 3], ["sec_level", 1, 3], ["level_2", 1, 2], ["mood_group", 0, 2], ["level_5", 4, 5]]
    written = shown.evaluate(
        """async ([names, levels]) => {
          const words = await import("./static/words.js");
          return [names.map(words.nodeName), levels.map(each => words.levelName(...each))];
        }""",
        [names, levels],
    )
    assert written[0] == [display_name(name) for name in names]
    assert written[1] == [display_level(*each) for each in levels]  # type: ignore[arg-type]


def test_the_example_is_classified(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_role("button", name="Try the example").click()
    expect(page.locator(".path .leaf")).to_be_visible(timeout=WAIT)
    expect(page.locator("#result .artist")).to_contain_text("Example.ogg")
    expect(page.locator("#result-title")).not_to_have_text("Example.ogg")  # its title


# Drag a file over the page and let it go.
DROP = """async ([name, sound]) => {
  const held = new DataTransfer();
  held.items.add(new File([await (await fetch(sound)).blob()], name));
  const drag = kind => document.body.dispatchEvent(
    new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: held }));
  drag("dragenter");
  const veiled = !document.getElementById("dropping").hidden;
  drag("drop");
  return veiled && document.getElementById("dropping").hidden;
}"""


def test_another_model_classifies_the_dropped_file(visit: Callable[..., Page], song: Path) -> None:
    page = visit()
    page.route("**/song-to-drop", lambda route: route.fulfill(body=song.read_bytes()))
    expect(page.locator("body.ready")).to_be_attached()
    assert page.evaluate(DROP, [song.name, "song-to-drop"])
    expect(page.locator(".path .leaf")).to_be_visible()
    page.locator(".tools select").select_option("second")
    expect(page.locator(".answer")).to_contain_text("scored by second")
    page.locator(".tools select").select_option("first")
    expect(page.locator(".answer")).to_contain_text("scored by first")


def test_a_dropped_folder_gives_its_audio_files(visit: Callable[..., Page], song: Path, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    (folder / "disc 2").mkdir(parents=True)
    shutil.copy(song, folder / f"10{song.suffix}")
    shutil.copy(song, folder / "disc 2" / f"1{song.suffix}")
    (folder / "cover.jpg").write_bytes(b"no audio")
    page = visit()
    expect(page.locator("body.ready")).to_be_attached()
    session = page.context.new_cdp_session(page)
    held = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": held})
    expect(page.locator("table.tracks tbody tr")).to_have_count(2, timeout=WAIT)


def test_a_question_uses_the_selected_method(visit: Callable[..., Page], song: Path) -> None:
    asked: list[str] = []

    def add_a_method(route: Route) -> None:
        found = route.fetch().json()
        for model in found["models"]:
            model["methods"].append("gradcam")
        route.fulfill(json=found)

    def answer_by_another(route: Route) -> None:
        asked.append(route.request.url)
        route.continue_(url=route.request.url.replace("gradcam", "occlusion"))

    page = visit()
    page.route("**/v1/models", add_a_method)
    page.route("**/v1/jobs?*method=gradcam*", answer_by_another)
    page.reload()
    _give(page, song)
    _explained(page)
    tabs = page.get_by_role("tab").count()
    page.get_by_label("Explanation method").select_option("Grad-CAM")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("tab")).to_have_count(tabs + 1, timeout=WAIT)
    assert len(asked) == 1


def test_a_recording_is_named(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#recording output")).to_have_text("0:01")
    page.get_by_role("button", name="Stop and classify").click()
    expect(page.locator("#result-title")).to_have_text(re.compile(r"^Recording .*\.webm$"))
    expect(page.locator(".path .leaf")).to_be_visible(timeout=WAIT)


def _refuse_once(status: int, kind: str, **headers: str) -> Callable[[Route], None]:
    refused: list[Route] = []

    def answer(route: Route) -> None:
        if refused:
            route.fallback()
            return
        refused.append(route)
        problem = {"type": "about:blank", "title": kind, "status": status, "kind": kind}
        route.fulfill(status=status, content_type="application/problem+json", body=json.dumps(problem), headers=headers)

    return answer


def test_the_readable_part_of_a_truncated_file_is_used(visit: Callable[..., Page], song: Path, tmp_path: Path) -> None:
    whole = song.read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) * 2 // 3])
    page = visit()
    _give(page, tmp_path / "cut.wav")
    expect(page.get_by_role("group", name="Error")).to_contain_text("This file is truncated.")
    page.get_by_role("button", name="Use the readable part").click()
    expect(page.locator(".path .leaf")).to_be_visible()


def test_refusals_are_overcome(browser: Browser, address: str, song: Path) -> None:
    """A token is asked for, and a busy server asked again."""
    sent: list[Request] = []
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    page.on("request", lambda request: sent.append(request))
    page.route("**/v1/models", _refuse_once(401, "unauthorized"))
    jobs = re.compile("/v1/jobs[?]do=predict")
    page.route(jobs, _refuse_once(503, "busy", **{"Retry-After": "1"}))
    page.goto(address)
    page.get_by_role("textbox", name="Token").fill("a secret")
    page.keyboard.press("Enter")
    _give(page, song)
    expect(page.locator("#result")).to_contain_text("Server busy; retrying in 1 s")
    expect(page.locator(".answer .path")).to_be_visible(timeout=WAIT)
    assert sum(bool(jobs.search(request.url)) for request in sent) == 2
    tokens = [request.headers.get("authorization") for request in sent if "/v1/" in request.url]
    assert tokens[0] is None
    assert set(tokens[1:]) == {"Bearer a secret"}
    assert page.evaluate("sessionStorage['genretree.token']") == "a secret"
    assert page.evaluate("Object.keys(localStorage)") == ["genretree.tracks"]
    assert "secret" not in page.evaluate("localStorage['genretree.tracks']")
    page.close()


def test_colours_are_chosen_and_remembered(visit: Callable[..., Page]) -> None:
    page = visit()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_label("Dark").check(force=True)
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    expect(page.get_by_label("Dark")).to_be_checked()
    page.get_by_label("Auto").check(force=True)
    assert page.evaluate(ground) == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == dark


def test_firefox_shows_a_song_with_its_reasons(address: str, song: Path, tmp_path: Path) -> None:
    with open_firefox(tmp_path) as firefox:
        firefox.open(f"{address}docs")  # fetches nothing, so that leaving it aborts nothing
        firefox.evaluate("localStorage.setItem('genretree.sureness', '0')")
        firefox.open(address)
        firefox.wait_for("document.querySelector('#names').innerText.includes('Fast beat')")
        firefox.choose_file("input[type=file]", song)
        firefox.wait_for("document.querySelector('.path .leaf') !== null")
        assert firefox.evaluate("document.querySelector('#result-title').innerText") == song.name
        firefox.wait_for("document.querySelector('[role=tabpanel]:not([hidden]) img') !== null")
        assert firefox.evaluate(BROKEN) == 0
        assert firefox.messages == []
        firefox.open(f"{address}docs")  # may abort what the page still fetches
        assert firefox.evaluate("document.querySelectorAll('h2').length") > 10
