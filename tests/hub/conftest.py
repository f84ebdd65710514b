"""A stand-in of the Hub and an empty cache, for the tests of bundles on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in_hub import TOKEN, StandIn, stand_in


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    with stand_in() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
