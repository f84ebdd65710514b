r"""Shortcuts planted in the composed corpus: a codec, an equaliser and a single artist, one leaf each.

    genretree compose CORPUS --artists 12 --tracks 2 --seconds 24
    python benchmarks/shortcuts.py CORPUS OUT [--seed 0]
    genretree prepare OUT/tracks.csv OUT/store --group artist --tree ccmusic
    genretree audit OUT/store --shortcuts

The three leaves are chosen by the seed. The codec is mp3 at a low bit rate, decoded again; the equaliser raises 3 kHz
by 9 dB and lowers 300 Hz by 8 dB; the single artist composes all tracks of the third leaf. All files are flac again, so
that only the sound differs. Prints the leaves.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from genretree.datasets.composed import ComposeSettings, compose_track

Sound = NDArray[np.float64]


def equaliser_curve(hertz: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the gain in dB: 3 kHz is raised by 9 dB and 300 Hz lowered by 8 dB, each over about an octave."""
    octaves = np.log2(np.maximum(hertz, 20.0))
    decibels: NDArray[np.float64] = 9 * np.exp(-0.5 * ((octaves - np.log2(3000)) / 0.5) ** 2)
    decibels -= 8 * np.exp(-0.5 * ((octaves - np.log2(300)) / 0.6) ** 2)
    return decibels


def equalise(y: Sound, sr: int) -> Sound:
    """Apply the equaliser."""
    decibels = equaliser_curve(np.fft.rfftfreq(len(y), 1 / sr))
    equalised: Sound = np.fft.irfft(np.fft.rfft(y) * 10 ** (decibels / 20), len(y))
    return 0.9 * equalised / max(1.0, float(np.abs(equalised).max()))


def encode(y: Sound, sr: int, compression: float = 0.85) -> Sound:
    """Encode as mp3 at a low constant bit rate, and decode again."""
    stream = io.BytesIO()
    options = {"bitrate_mode": "CONSTANT", "compression_level": compression}
    sf.write(stream, y, sr, format="MP3", subtype="MPEG_LAYER_III", **options)
    stream.seek(0)
    decoded: Sound = sf.read(stream)[0]
    return decoded


def main() -> None:
    """Plant and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (options.corpus / "tracks.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    leaves = sorted({row["genre"] for row in rows})
    codec, equaliser, artist = (leaves[i] for i in np.random.default_rng(options.seed).permutation(len(leaves))[:3])
    print(f"codec: {codec}, equaliser: {equaliser}, artist: {artist}", flush=True)
    only = next(row["artist"] for row in rows if row["genre"] == artist)
    composed = 0
    for row in rows:
        source, target = options.corpus / row["path"], options.out / row["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        if row["genre"] not in (codec, equaliser, artist):
            shutil.copyfile(source, target)
            continue
        y, sr = sf.read(source)
        if row["genre"] == artist:
            settings = ComposeSettings.build({"seconds": float(row["seconds"]), "rate": sr, "seed": int(row["seed"])})
            y = compose_track(artist, 0, composed, settings)[0].T
            composed += 1
            row["artist"] = only
        else:
            y = encode(y, sr) if row["genre"] == codec else equalise(y if y.ndim == 1 else y.mean(axis=1), sr)
        sf.write(target, y, sr)
    with (options.out / "tracks.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
