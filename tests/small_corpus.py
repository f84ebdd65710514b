"""A small corpus of synthetic music: five made-up genres that anyone can tell apart."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile as sf

from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.taxonomy import Taxonomy

TREE = Taxonomy.from_nested({"Calm": ["Drone", "Bells"], "Busy": {"Beat": ["Slow_beat", "Fast_beat"], "Noise": None}})
ARTISTS, TRACKS, SECONDS = 5, 2, 9.0
SETTINGS = ImageSettings.build({"slice_seconds": 2.0, "size": 64})


def synthesise(genre: str, seed: int, seconds: float = SECONDS) -> np.ndarray:
    """A few seconds of sound of a made-up genre: mono float32 at 22,050 Hz."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
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
                sf.write(folder / name, synthesise(leaf[-1], seed, seconds), SAMPLE_RATE)
                rows.append({"path": name, "genre": leaf[-1], "artist": f"{leaf[-1]} artist {artist}"})
    with (folder / "tracks.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["path", "genre", "artist"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "tracks.csv"
