from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile as sf
from serving import STRICT_LIMITS, STRICT_TOKEN, Server
from small_bundle import write_bundle

from genretree.settings import SAMPLE_RATE
from small_corpus import synthesise


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles: `first`, a network of random weights with an export, and `second`, the same under another name."""
    folder = tmp_path_factory.mktemp("service")
    write_bundle(folder / "first")
    shutil.copytree(folder / "first", folder / "second")
    return [folder / "first", folder / "second"]


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 seconds of music: four slices."""
    path = tmp_path_factory.mktemp("song") / "beat.mp3"
    sf.write(path, synthesise("Fast_beat", 77), SAMPLE_RATE)
    return path


@pytest.fixture(scope="session")
def server(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service as the command starts it, with two workers."""
    corrections = tmp_path_factory.mktemp("corrections") / "kept"
    words = [*map(str, bundles), "--workers", "2", "--corrections", str(corrections)]
    with Server(tmp_path_factory.mktemp("tmp"), words) as server:
        yield server


@pytest.fixture(scope="session")
def strict(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a token, one worker, and limits that are soon reached."""
    options = {"bundles": [str(bundles[0])], "limits": STRICT_LIMITS, "token": STRICT_TOKEN}
    with Server(tmp_path_factory.mktemp("strict"), **options) as server:
        yield server
