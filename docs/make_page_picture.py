"""Draw the picture of the page that is in docs/service.md, with Chromium, on the quickstart's model and music.

    make quickstart
    .venv/bin/genretree serve quickstart/cnn &
    python docs/make_page_picture.py http://127.0.0.1:8000/ TRACK docs/pictures/page.png docs/pictures/page-phone.png

TRACK is one by an artist whom the model never heard. It is drawn wide in light colours, and as a phone shows it, dark.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDE = {"viewport": {"width": 1240, "height": 1500}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 1500}, "color_scheme": "dark", "device_scale_factor": 1.5}
WAIT = 120_000  # milliseconds


def main(address: str, track: str, wide: str, phone: str) -> None:
    """Give the page a track, wait for the answer and the reasons, and take pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for settings, out in ((WIDE, wide), (PHONE, phone)):
            page = browser.new_page(**settings)
            page.goto(address)
            page.locator("body.ready").wait_for(timeout=WAIT)
            page.set_input_files("#file", track)
            page.locator("[role=tabpanel]:not([hidden]) img").first.wait_for(timeout=WAIT)
            page.evaluate("document.activeElement.blur()")
            page.locator("#result").scroll_into_view_if_needed()
            page.evaluate("document.getElementById('result').scrollIntoView()")
            page.wait_for_timeout(500)
            save(page.screenshot(), Path(out))
        browser.close()


def save(png: bytes, path: Path, colours: int = 128) -> None:
    """Write a picture smaller."""
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
