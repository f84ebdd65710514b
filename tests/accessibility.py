"""Accessibility findings of axe-core, which npm provides at test time."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest
from playwright.sync_api import Page

VERSION = "4.12.0"
_SECONDS = 60


@lru_cache(maxsize=1)
def _read_axe() -> str | None:
    """Return the script: from $GENRETREE_AXE, or from npm; None if there is no npm or no registry."""
    given = os.environ.get("GENRETREE_AXE")
    if given:
        return Path(given).read_text(encoding="utf-8")
    npm = shutil.which("npm")
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, f"axe-core@{VERSION}"]
        try:
            subprocess.run(install, check=True, capture_output=True, timeout=_SECONDS)
            return Path(folder, "node_modules", "axe-core", "axe.min.js").read_text(encoding="utf-8")
        except (OSError, subprocess.SubprocessError):
            return None


def require_axe() -> None:
    """Skip the test without axe-core."""
    if _read_axe() is None:
        pytest.skip("axe-core can't be installed: no npm, or no registry")


def find_serious(page: Page) -> list[str]:
    """List the serious and critical findings on a page as it is now; none without axe-core."""
    script = _read_axe()
    if script is None:
        return []
    page.evaluate(script)  # by the debugger, which the page's policy does not restrict
    found = page.evaluate("axe.run().then(result => result.violations)")
    return [
        f"{item['id']}: {node['html'][:200]}"
        for item in found
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]
