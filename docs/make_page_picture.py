"""Make the pictures of the page in docs/service.md with Chromium, using the quickstart's model and music.

    make quickstart
    .venv/bin/genretree serve quickstart/cnn &
    python docs/make_page_picture.py http://127.0.0.1:8000/ TRACK docs/pictures

TRACK is a track by a held-out artist. page.png is the result, wide and light; page-why.png the explanation;
page-phone.png the result on a phone, dark.
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
    """Drop a track on the page, wait for the result and the explanation, and take screenshots."""
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
    """Write a PNG with a reduced palette."""
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
