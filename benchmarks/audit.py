"""How many planted copies `genretree audit` finds, what it takes for copies wrongly, and what it takes at scale.

    python benchmarks/audit.py sound STORE --music FOLDER [--tracks 60] [--seconds 60] [--seed 0]
    python benchmarks/audit.py images STORE [--slices 600] [--seed 0]
    python benchmarks/audit.py labels STORE [--share 0.08] [--seeds 0 1 2]
    python benchmarks/audit.py scale STORE [--slices 36375]

- sound: a stretch of each of N tracks, in FOLDER under the names that STORE's tracks.parquet has, is written
  twice: as it is, and changed by ffmpeg (as mp3 of 128 kbit/s, 6 dB softer, without its first 0 to 6 s, and all three
  at once; each track in one of these ways). All are prepared into a store. Pairs of tracks that are found and weren't
  planted are listed: some of them are true.
- images: slices of STORE are added to it again as tracks of their own, changed (JPEG, level, noise, shifted in time,
  all at once); pairs that are found and weren't planted are listed, one for each two tracks.
- labels: N of STORE's tracks get another leaf, drawn at random; among those called mislabelled, how many are.
- scale: a store of N slices, made of STORE's, each turned round in time at random and mixed with another; whole
  command in a process of its own, with its time and the peak memory of it and all that it starts.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from whole_process import measure

from genretree.arrays import Int64Array, UInt8Array
from genretree.audit import audit
from genretree.audit.findings import COPIES, Audit
from genretree.audit.labels import find_mislabelled
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.splits import Split, split_slices
from genretree.corpus.store import Store, write_tables

WAYS: dict[str, list[str]] = {
    "mp3 128k": ["-b:a", "128k"],
    "-6 dB, mp3 320k": ["-b:a", "320k", "-af", "volume=-6dB"],
    "trimmed 0-6 s, mp3 320k": ["-b:a", "320k", "TRIM"],
    "all three": ["-b:a", "128k", "-af", "volume=-6dB", "TRIM"],
}


def plant_sound(store: Store, music: Path, folder: Path, n: int, seconds: float, seed: int) -> tuple[Path, list[str]]:
    """Write stretches of tracks and changed copies of them; return a CSV and the way of each copy."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(store.n_tracks)[:n])
    rows, ways = [], []
    for number, track in enumerate(chosen):
        source = music / store.tracks["path"][track]
        way = list(WAYS)[number % len(WAYS)]
        options = list(WAYS[way])
        begin: list[str] = []
        if "TRIM" in options:
            options.remove("TRIM")
            begin = ["-ss", f"{rng.uniform(0, 6):.3f}"]
        whole = ["-t", f"{seconds:g}"]
        call = ["ffmpeg", "-v", "error", "-y", *whole, "-i", str(source)]
        subprocess.run([*call, "-c:a", "flac", str(folder / f"{number}.flac")], check=True)
        call = ["ffmpeg", "-v", "error", "-y", *begin, "-i", str(folder / f"{number}.flac")]
        subprocess.run([*call, *options, str(folder / f"copy-{number}.mp3")], check=True)
        genre = store.taxonomy.leaves[store.tracks["leaf"][track]][-1]
        rows += [(f"{number}.flac", genre, str(source)), (f"copy-{number}.mp3", genre, "copy")]
        ways.append(way)
    with (folder / "tracks.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "genre", "source"), *rows])
    return folder / "tracks.csv", ways


def measure_sound(given: argparse.Namespace) -> None:
    """Print what is found of planted copies of whole tracks."""
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        manifest, ways = plant_sound(Store(given.store), given.music, folder, given.tracks, given.seconds, given.seed)
        planted = prepare(read_manifest(manifest), folder / "store", progress=True)
        found = audit(planted, progress=True)
        names = planted.tracks["path"]
        truth = {tuple(sorted((f"{n}.flac", f"copy-{n}.mp3"))) for n in range(len(ways))}
        pairs = {tuple(sorted((item.places[0].path, item.places[1].path))): item for item in copies(found)}
        print(f"{len(names)} of {2 * len(ways)} files prepared, {planted.n_slices} slices")
        for way in WAYS:
            mine = [tuple(sorted((f"{n}.flac", f"copy-{n}.mp3"))) for n, item in enumerate(ways) if item == way]
            mine = [pair for pair in mine if set(pair) <= set(names)]
            hits = [pairs[pair] for pair in mine if pair in pairs]
            kinds = {kind: sum(item.kind == kind for item in hits) for kind in COPIES}
            print(f"{way:25} {len(hits)} of {len(mine)}  {kinds}")
            print("".join(f"    missed: {pair}\n" for pair in mine if pair not in pairs), end="")
        wrong = {pair: item for pair, item in pairs.items() if pair not in truth}
        print(f"not planted: {len(wrong)}")
        sources = dict(zip(names, planted.tracks["source"], strict=True))
        for pair, item in wrong.items():
            print("   ", item.kind, round(item.similarity or 0, 2), *pair, *(sources[name] for name in pair))


def copies(found: Audit) -> list[Any]:
    """Select the findings that say two tracks are copies."""
    return [item for item in found.findings if item.kind in COPIES]


# -- images --------------------------------------------------------------------------------------------------


def change(pictures: UInt8Array, following: UInt8Array, rng: np.random.Generator) -> dict[str, UInt8Array]:
    """Give changed copies of slices, shape (n, 3, size, size), by the name of the change."""
    size = pictures.shape[-1]
    step = size // 24  # half a second of 11.4
    shifted = np.concatenate([pictures[..., step:], following[..., :step]], axis=-1)

    def level(some: UInt8Array) -> UInt8Array:
        return np.asarray(np.clip(some * 0.8 + 40, 0, 255), np.uint8)

    def noise(some: UInt8Array, spread: float) -> UInt8Array:
        return np.asarray(np.clip(some + rng.normal(0, spread, some.shape), 0, 255), np.uint8)

    return {
        "JPEG, quality 30": by_jpeg(pictures, 30),
        "level": level(pictures),
        "noise": noise(pictures, 16),
        "shifted 0.1 s": np.concatenate([pictures[..., 2:], following[..., :2]], axis=-1),
        "shifted 0.5 s": shifted,
        "all at once": noise(level(by_jpeg(shifted, 40)), 10),
    }


def by_jpeg(pictures: UInt8Array, quality: int) -> UInt8Array:
    """Write and read as grey JPEG."""
    made = np.empty(pictures.shape, np.uint8)
    for place in np.ndindex(pictures.shape[:2]):
        stream = io.BytesIO()
        Image.fromarray(pictures[place]).save(stream, "JPEG", quality=quality)
        made[place] = np.asarray(Image.open(stream))
    return made


def plant_images(store: Store, folder: Path, n: int, seed: int) -> tuple[Store, list[tuple[int, str]]]:
    """Copy a store and add changed slices as tracks; return it with the original row and the change of each."""
    rng = np.random.default_rng(seed)
    tracks, sounding = store.slice_tracks, ~store.silent
    able = np.flatnonzero((tracks[:-1] == tracks[1:]) & sounding[:-1] & sounding[1:])
    rows = np.sort(rng.permutation(able)[:n])
    made = change(np.asarray(store.images[rows]), np.asarray(store.images[rows + 1]), rng)
    planted = [(place, name) for place, name in enumerate(list(made)[i % len(made)] for i in range(len(rows)))]
    pieces = np.stack([made[name][place] for place, name in planted])
    write_store(store, folder, store.n_slices, lambda low, high: np.asarray(store.images[low:high]), rows, pieces)
    return Store(folder), [(int(rows[place]), name) for place, name in planted]


def write_store(
    store: Store,
    folder: Path,
    n: int,
    read: Callable[[int, int], UInt8Array],
    rows: Int64Array,
    pieces: UInt8Array,
) -> None:
    """Write a store of `n` slices of one's making, as in `store`, and others, of the leaves of some rows."""
    folder.mkdir(parents=True)
    size = store.settings.size
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (n + len(pieces), 3, size, size))
    for start in range(0, n, 256):
        images[start : min(n, start + 256)] = read(start, min(n, start + 256))
    images[n:] = pieces
    images.flush()
    own = np.arange(n) % store.n_slices
    lap = np.arange(n) // store.n_slices
    slice_tracks = store.slice_tracks[own] + lap * store.n_tracks
    n_tracks = int(slice_tracks[-1]) + 1
    source = np.append(np.arange(n_tracks) % store.n_tracks, store.slice_tracks[rows])
    added = [f"copy of slice {row}" for row in rows]
    table: dict[str, list[Any]] = {
        "path": [f"{i}/{store.tracks['path'][t]}" for i, t in enumerate(source[:n_tracks])] + added,
        "leaf": store.track_leaves[source].tolist(),
        "genre": [store.tracks["genre"][t] for t in source],
        "group": [f"group {i}" for i in range(len(source))],
        "sha256": [str(i) for i in range(len(source))],
    }
    slices = {
        "track": np.append(slice_tracks, n_tracks + np.arange(len(rows))),
        "start": np.append(store.starts[own], np.zeros(len(rows))),
        "padded": np.append(store.padded[own], store.padded[rows]),
        "silent": np.append(store.silent[own], store.silent[rows]),
    }
    write_tables(folder, table, slices, store.taxonomy, store.settings, store.metadata, ())
    parts = split_slices(store.track_leaves[source][slices["track"]]).parts
    Split(name="default", protocol="slice", seed=0, parts=parts).save(folder / "splits")


def measure_images(given: argparse.Namespace) -> None:
    """Print what is found of planted copies of slices."""
    from genretree.audit.duplicates import near_pixels, same_pixels
    from genretree.audit.fingerprints import compute_fingerprints

    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        store = Store(given.store)
        planted, truth = plant_images(store, Path(name) / "store", given.slices, given.seed)
        fingerprints = compute_fingerprints(planted, True)
        same = same_pixels(fingerprints, planted.slice_tracks)
        found = {(match.row, match.other): match for match in near_pixels(planted, fingerprints, same, True)}
        known = {(row, store.n_slices + place): way for place, (row, way) in enumerate(truth)}
        for way in dict.fromkeys(known.values()):
            mine = [pair for pair in known if known[pair] == way]
            hits = sum(pair in found for pair in mine)
            lowest = min((found[pair].correlation for pair in mine if pair in found), default=0)
            print(f"{way:20} {hits} of {len(mine)} (lowest correlation found {lowest:.2f})")
        originals = {store.n_slices + place: row for place, (row, _) in enumerate(truth)}
        wrong: dict[tuple[int, int], float] = {}
        for pair, match in found.items():
            ends = [int(planted.slice_tracks[originals.get(row, row)]) for row in pair]
            if ends[0] != ends[1]:
                key = (min(ends), max(ends))
                wrong[key] = max(wrong.get(key, 0), match.correlation)
        print(f"pairs of slices compared: {planted.n_slices**2 // 2:,}; of tracks that weren't planted: {len(wrong)}")
        for (one, other), correlation in sorted(wrong.items(), key=lambda item: -item[1]):
            print(f"    {correlation:.2f} {store.tracks['path'][one]} {store.tracks['path'][other]}")


# -- labels and scale ----------------------------------------------------------------------------------------


def measure_labels(given: argparse.Namespace) -> None:
    """Print precision and recall of wrong labels that were planted."""
    for seed in given.seeds:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name) / "store"
            shutil.copytree(given.store, folder)
            table = pq.read_table(folder / "tracks.parquet").to_pydict()
            rng = np.random.default_rng(seed)
            leaves = np.array(table["leaf"])
            n_leaves = len(Store(folder).taxonomy.leaves)
            flipped = rng.permutation(len(leaves))[: round(given.share * len(leaves))]
            leaves[flipped] = (leaves[flipped] + rng.integers(1, n_leaves, len(flipped))) % n_leaves
            table["leaf"] = leaves.tolist()
            pq.write_table(pa.table(table), folder / "tracks.parquet")
            doubts = find_mislabelled(Store(folder), progress=True)
            flagged = [doubt.track for doubt in doubts if doubt.flagged]
            wrong = set(flipped.tolist())
            top = [doubt.track for doubt in doubts][: len(wrong)]
            hits = len(wrong & set(flagged))
            print(
                f"seed {seed}: {len(wrong)} of {len(leaves)} labels changed; flagged {len(flagged)}, right {hits} "
                f"(precision {hits / max(1, len(flagged)):.2f}, recall {hits / len(wrong):.2f}); of the first "
                f"{len(top)} right {len(wrong & set(top))}; chance {len(wrong) / len(leaves):.2f}"
            )


def measure_scale(given: argparse.Namespace) -> None:
    """Print time and memory of the command on a store of many slices."""
    store = Store(given.store)
    rng = np.random.default_rng(0)

    def mix(low: int, high: int) -> UInt8Array:
        own = np.arange(low, high) % store.n_slices
        if high <= store.n_slices:
            return np.asarray(store.images[own])
        other = rng.integers(0, store.n_slices, len(own))
        pictures = 0.6 * np.asarray(store.images[own], np.float32) + 0.4 * np.asarray(store.images[other], np.float32)
        turned = [np.roll(piece, rng.integers(piece.shape[-1]), axis=2) for piece in pictures]
        return np.stack(turned).astype(np.uint8)

    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        none = np.zeros(0, np.int64)
        empty = np.zeros((0, 3, store.settings.size, store.settings.size), np.uint8)
        write_store(store, Path(name) / "store", given.slices, mix, none, empty)
        command = [sys.executable, "-m", "genretree", "audit", str(Path(name) / "store"), *given.words]
        seconds, peak, printed = measure(command)
        print(printed)
        print(f"{given.slices} slices: {seconds:.0f} s, peak {peak:.0f} MB")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sound", "images", "labels", "scale"])
    parser.add_argument("store", type=Path)
    parser.add_argument("--music", type=Path)
    parser.add_argument("--tracks", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--slices", type=int)
    parser.add_argument("--share", type=float, default=0.08)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where to make temporary folders")
    parser.add_argument("--words", nargs="*", default=[], help="scale: further options of genretree audit")
    given = parser.parse_args()
    given.slices = given.slices or {"scale": 36375}.get(given.what, 600)
    jobs = {"sound": measure_sound, "images": measure_images, "labels": measure_labels, "scale": measure_scale}
    jobs[given.what](given)


if __name__ == "__main__":
    main()
