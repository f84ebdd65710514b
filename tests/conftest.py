"""A small corpus of synthetic music that every test of the later stages shares."""

from __future__ import annotations

import csv
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any library is loaded

import numpy as np
import pytest
import soundfile as sf

from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.settings import RATE, ImageSettings
from genretree.taxonomy import Taxonomy

TREE = Taxonomy.from_nested({"Calm": ["Drone", "Bells"], "Busy": {"Beat": ["Slow_beat", "Fast_beat"], "Noise": None}})
ARTISTS, TRACKS, SECONDS = 5, 2, 9.0
SETTINGS = ImageSettings.build({"slice_seconds": 2.0, "size": 64})


def synthesise(genre: str, seed: int, seconds: float = SECONDS) -> np.ndarray:
    """A few seconds of sound of a made-up genre: mono float32 at 22,050 Hz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = rng.uniform(100, 400)
    if genre == "Drone":
        sound = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6))
    elif genre == "Bells":
        sound = np.sin(2 * np.pi * 4 * pitch * time) * np.exp(-((time * 1.5) % 1) * 6)
    elif genre == "Noise":
        sound = rng.standard_normal(len(time))
    else:
        per_second = 2 if genre == "Slow_beat" else 8
        sound = rng.standard_normal(len(time)) * np.exp(-((time * per_second) % 1) * 12) + 0.3 * np.sin(
            2 * np.pi * pitch * time
        )
    sound = sound + 0.003 * rng.standard_normal(len(time))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def write_corpus(folder: Path, artists: int = ARTISTS, tracks: int = TRACKS, seconds: float = SECONDS) -> Path:
    """Write a corpus as wav files with a CSV; returns the CSV's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for leaf_index, leaf in enumerate(TREE.leaves):
        for artist in range(artists):
            for track in range(tracks):
                name = f"{leaf[-1]}-{artist}-{track}.wav"
                seed = 100 * leaf_index + 10 * artist + track
                sf.write(folder / name, synthesise(leaf[-1], seed, seconds), RATE)
                rows.append({"path": name, "genre": leaf[-1], "artist": f"{leaf[-1]} artist {artist}"})
    with (folder / "tracks.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["path", "genre", "artist"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "tracks.csv"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of the shared corpus: 5 leaves, 5 artists each, 2 tracks each."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shared corpus, prepared: 50 tracks of 4 slices of 2 s, 64x64."""
    out = tmp_path_factory.mktemp("stores") / "store"
    return prepare(read_manifest(corpus, TREE), out, SETTINGS, workers=1)
