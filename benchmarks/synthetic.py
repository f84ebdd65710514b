"""Music-like sound and stores, made from nothing, for benchmarks that need much of it: the same seed gives the same."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from genretree.corpus.splits import split_groups
from genretree.corpus.store import Store, StoreMetadata, write_tables
from genretree.settings import ImageSettings
from genretree.taxonomy import Taxonomy

CD_RATE = 44100
_BLOCK_SECONDS = 20
_BLOCKS = 4
_NOTES_A_SECOND = 4
_SLICES = 5  # of a track of a minute
TREE = Taxonomy.from_nested({"Classic": ["Solo", "Chamber"], "Non_classic": {"Rock": ["Soft", "Hard"]}})


def write_sound(path: Path, seconds: float, seed: int = 0) -> Path:
    """Write struck and decaying chords over noise: stereo, 44,100 Hz, 16 bits, as a CD is."""
    with sf.SoundFile(path, "w", CD_RATE, 2, "PCM_16") as stream:
        left = round(seconds * CD_RATE)
        for block in _blocks(seed):
            stream.write(block[:left])
            left -= len(block)
            if left <= 0:
                return path
    return path


def _blocks(seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield pieces of sound without end, in turn from a few that are made once."""
    rng = np.random.default_rng(seed)
    while True:
        yield _make_block(int(rng.integers(_BLOCKS))) * np.float32(rng.uniform(0.5, 1))


@cache
def _make_block(number: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(number)
    length = CD_RATE // _NOTES_A_SECOND
    time = np.arange(length, dtype=np.float32) / CD_RATE
    notes = []
    for _ in range(_BLOCK_SECONDS * _NOTES_A_SECOND):
        pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
        sound = np.sum([np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 5)], axis=0)
        notes.append(sound * np.exp(-time * rng.uniform(3, 12)))
    mono = np.concatenate(notes) + 0.01 * rng.standard_normal(length * len(notes))
    mono *= 0.8 / np.abs(mono).max()
    return np.stack([mono, np.roll(mono, 200)], axis=1).astype(np.float32)


def write_music(folder: Path, files: int, seconds: float, suffix: str = "wav") -> Path:
    """Write `n` files, spread over the genres of `TREE`, each by an artist of its own; gives the CSV's path."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(files):
        path = write_sound(folder / f"{number}.{suffix}", seconds, number)
        leaf = TREE.leaves[number % len(TREE.leaves)][-1]
        rows.append({"path": path.name, "genre": leaf, "artist": f"artist {number}"})
    with (folder / "tracks.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "tracks.csv"


def write_store(folder: Path, tracks: int, size: int = 224) -> Store:
    """Write a store of smooth noise, five slices a track, without `mel_16k`: some gigabytes take seconds."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    n = tracks * _SLICES
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (n, 3, size, size))
    for row in range(n):
        images[row] = _smooth_noise(rng, size)
    images.flush()
    del images
    leaves = np.arange(tracks) % len(TREE.leaves)
    table: dict[str, list[Any]] = {
        "path": [f"{track}.wav" for track in range(tracks)],
        "file": [f"{track}.wav" for track in range(tracks)],
        "genre": [" > ".join(TREE.leaves[leaf]) for leaf in leaves],
        "leaf": leaves.tolist(),
        "group": [f"artist {track}" for track in range(tracks)],
        "sha256": [hashlib.sha256(str(track).encode()).hexdigest() for track in range(tracks)],
        "slices": [_SLICES] * tracks,
        "sliced_seconds": [57.0] * tracks,
    }
    slices = {
        "track": np.repeat(np.arange(tracks), _SLICES),
        "start": np.tile(np.arange(_SLICES) * 11.4, tracks),
        "padded": np.zeros(n, bool),
        "silent": np.zeros(n, bool),
    }
    settings = ImageSettings.build({"size": size})
    write_tables(
        folder,
        table,
        slices,
        TREE,
        settings,
        StoreMetadata(source="noise", group_by="artist", engine="none", version="0", digest="0"),
        [],
    )
    store = Store(folder)
    split_groups(store.track_leaves, store.track_groups).save(folder / "splits")
    return store


def _smooth_noise(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draw points 8 pixels apart and what lies between: about as many peaks as music has."""
    points = size // 8 + 2
    coarse = rng.integers(0, 256, (3, points, points)).astype(np.float32)
    at = np.arange(size, dtype=np.float32)[:, None] / 8
    between = np.maximum(0, 1 - np.abs(at - np.arange(points, dtype=np.float32)))
    drawn: NDArray[np.uint8] = (between @ coarse @ between.T).astype(np.uint8)
    return drawn
