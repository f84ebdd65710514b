"""Draw the picture of the page that is in docs/service.md, with Chromium, on the quickstart's model and music.

    make quickstart
    .venv/bin/genretree serve quickstart/cnn &
    python docs/make_page_picture.py http://127.0.0.1:8000/ TRACK docs/pictures

TRACK is one by an artist whom the model never heard. page.png is the answer, wide and in light colours; page-why.png
the reasons; page-phone.png what a phone shows, dark.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDE = {"viewport": {"width": 1240, "height": 1240}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 1400}, "color_scheme": "dark"}
PICTURES = {"page": (WIDE, "#result"), "page-why": (WIDE, ".why"), "page-phone": (PHONE, "#result")}
WAIT = 120_000  # milliseconds


def main(address: str, track: str, out: str) -> None:
    """Give the page a track, wait for the answer and the reasons, and take pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (settings, part) in PICTURES.items():
            page = browser.new_page(**settings)
            page.goto(address)
            page.locator("body.ready").wait_for(timeout=WAIT)
            page.set_input_files("#file", track)
            page.locator("[role=tabpanel]:not([hidden]) img").first.wait_for(timeout=WAIT)
            page.evaluate("part => document.querySelector(part).scrollIntoView()", part)
            page.wait_for_timeout(500)
            save(page.screenshot(), Path(out) / f"{name}.png")
        browser.close()


def save(png: bytes, path: Path, colours: int = 128) -> None:
    """Write a picture smaller."""
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
