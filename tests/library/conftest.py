"""A library of every format that takes tags, and a listener that needs no model."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from library_fakes import FORMATS, SECONDS

from genretree.library.apply import apply as apply_module
from genretree.library.apply import undo as undo_module


def _encode(source: Path, target: Path, *options: str) -> None:
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), *options, str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short file of each format, with a title and no genre, made by ffmpeg; to be copied, not changed."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    folder = tmp_path_factory.mktemp("formats")
    time = np.arange(round(SECONDS * 44100)) / 44100
    rng = np.random.default_rng(8)
    left = 0.3 * np.sin(2 * np.pi * 330 * time) + 0.05 * rng.standard_normal(len(time))
    right = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.05 * rng.standard_normal(len(time))
    source = tmp_path_factory.mktemp("source") / "sound.wav"
    sf.write(source, np.stack([left, right], axis=1), 44100)
    tags = ("-metadata", "title=A title", "-metadata", "artist=Ärtist 名", "-metadata", "date=1999")
    mp3 = ("-b:a", "64k", *tags)
    _encode(source, folder / "v23.mp3", *mp3, "-id3v2_version", "3", "-write_id3v1", "1")
    _encode(source, folder / "v24.mp3", *mp3, "-id3v2_version", "4")
    bare = ("-map_metadata", "-1", "-id3v2_version", "0", "-fflags", "bitexact")
    _encode(source, folder / "none.mp3", "-b:a", "64k", *bare)
    for name in FORMATS[3:]:
        options = ("-write_id3v2", "1") if name == "pcm.aiff" else ()
        _encode(source, folder / name, *tags, *options)
    return folder


@pytest.fixture
def always_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is replaced by an edited copy, as if its tags did not fit into the padding."""
    monkeypatch.setattr(apply_module, "find_region", lambda *_: None)
    monkeypatch.setattr(undo_module, "undo_region", lambda *_: None)


@pytest.fixture
def music(formats: Path, tmp_path: Path) -> Path:
    """A copy of these files that may be changed."""
    return Path(shutil.copytree(formats, tmp_path / "music"))
