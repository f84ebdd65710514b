"""Two designs of the decoder on damaged and joined files, and their speed, in one run.

    python benchmarks/decoders.py [--cases FOLDER] [--track TRACK.mp3] [--rounds 9]

`libsndfile` reads with soundfile as it is, which seeks after every block; `sequential` without seeking; `PyAV` is
FFmpeg's libraries with the demuxer named; `genretree` is what the package does. Prints the seconds that each decodes
of every file in FOLDER/expected.csv (columns file and seconds), what the package says of those that it refuses, and the
processor time for TRACK as wav, flac, ogg and mp3 (a minute of synthetic stereo by default).
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from genretree.errors import SoundError
from genretree.settings import SAMPLE_RATE
from genretree.sound.containers import choose_demuxer, sniff
from genretree.sound.decode import decode

_BLOCK = 1 << 18


class _Sequential(sf.SoundFile):  # type: ignore[misc]
    def seekable(self) -> bool:
        return False


def by_libsndfile(path: Path, reader: Any = sf.SoundFile) -> float:
    """Decode with libsndfile, seeking after every block."""
    count = 0
    with path.open("rb", buffering=0) as file, reader(file.fileno(), closefd=False) as sound:
        buffer = np.empty((_BLOCK, sound.channels), np.float32)
        while block := len(sound.read(out=buffer)):
            count += block
        return count / float(sound.samplerate)


def by_sequential(path: Path) -> float:
    """Decode with libsndfile from the beginning to the end."""
    return by_libsndfile(path, _Sequential)


def by_pyav(path: Path) -> float:
    """Decode with PyAV alone."""
    import av
    from av.error import FFmpegError

    seconds = 0.0
    with path.open("rb", buffering=0) as file:
        container, start = sniff(file, path.stat().st_size)
        demuxer = choose_demuxer(file, container, start) if container else None
        file.seek(0)
        with av.open(file, "r", format=demuxer, buffer_size=1 << 16) as source:
            stream = source.streams.audio[0]
            for packet in source.demux(stream):
                try:
                    seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
                except FFmpegError:
                    continue
    return seconds


def by_genretree(path: Path) -> float:
    """Decode as the package does, to mono at 22,050 Hz."""
    return len(decode(path)) / SAMPLE_RATE


DECODERS: dict[str, Callable[[Path], float]] = {
    "libsndfile": by_libsndfile,
    "sequential": by_sequential,
    "PyAV": by_pyav,
    "genretree": by_genretree,
}


def compare(folder: Path) -> None:
    """Print what each decoder makes of each case."""
    print(f"{'file':18}{'right':>8}" + "".join(f"{name:>12}" for name in DECODERS))
    with (folder / "expected.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found, reason = [], ""
            for decoder in DECODERS.values():
                try:
                    found.append(f"{decoder(folder / row['file']):.2f}")
                except SoundError as error:
                    found.append(error.kind)
                    reason = error.detail
                except Exception:
                    found.append("error")
            print(f"{row['file']:18}{row['seconds']:>8}" + "".join(f"{each:>12}" for each in found), reason[:60])


def measure(track: Path | None, rounds: int) -> None:
    """Print the processor time of each decoder for each form, the least of all rounds."""
    if track is None:
        rng = np.random.default_rng(0)
        samples = 0.1 * rng.standard_normal((60 * 44100, 2)).cumsum(axis=0) % 0.5
        rate = 44100
    else:
        samples, rate = sf.read(track, dtype="float32")
    with tempfile.TemporaryDirectory() as temporary:
        for form in ("wav", "flac", "ogg", "mp3"):
            path = Path(temporary) / f"track.{form}"
            stream = io.BytesIO()
            with sf.SoundFile(stream, "w", rate, samples.shape[1], format=form.upper()) as sound:
                for at in range(0, len(samples), rate):  # libsndfile puts a whole call's samples on the stack
                    sound.write(samples[at : at + rate])
            path.write_bytes(stream.getvalue())
            least = dict.fromkeys(DECODERS, float("inf"))
            for _ in range(rounds):
                for name, decoder in DECODERS.items():
                    begun = time.process_time()
                    decoder(path)
                    least[name] = min(least[name], time.process_time() - begun)
            print(f"{form}: " + ", ".join(f"{name} {1000 * each:.0f} ms" for name, each in least.items()))


def main() -> None:
    """Compare the decoders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="Folder with expected.csv and the files that it names.")
    parser.add_argument("--track", type=Path, help="Sound file for the speed.")
    parser.add_argument("--rounds", type=int, default=9, help="Number of rounds.")
    options = parser.parse_args()
    if options.cases:
        compare(options.cases)
    print("processor time (genretree resamples to 22,050 Hz mono as well)")
    measure(options.track, options.rounds)


if __name__ == "__main__":
    main()
