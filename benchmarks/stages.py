r"""Every stage from sound file to batch, side by side with the usual way, in one run.

    python benchmarks/stages.py TRACK.mp3 [--rounds 7] [--stages spectra decode ...] [--json FILE]

TRACK is any sound file; a minute or more. Each stage's two ways take turns, `--rounds` times after one unmeasured, and
what is printed is the ratio of their medians (usual : ours) with the range of both. One thread each, but for `prepare`,
which may use every processor as it does for users; `startup` runs whole processes.

- spectra: mel, CQT and chroma of the whole track: librosa's three calls | engine fast; and how far the two lie apart
- decode: the file to mono float32 at 22,050 Hz: librosa.load | genretree.sound.decode
- prepare: many copies of the file to stored slices: librosa.load, three features, specshow and savefig to JPEG as the
  data set's authors drew them, decoded and shrunk again | genretree prepare
- jpegs: drawn images of the data set's form to 224x224 grey: Pillow's decode, convert, resize | read_drawn (which also
  inverts the colour map)
- batches: a shuffled batch of 32 slices: the JPEGs decoded each time, as the published loop does | the mapped store
- startup: `python -c "import librosa, torch"` | `genretree --help`
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.models.base import SliceDataset
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.decode import decode
from genretree.sound.slices import read_rendered_image, slice_starts
from genretree.sound.spectra import compute_spectra

BATCH = 32
COPIES = 32  # as people prepare many files: starting the workers takes half a second, once
JPEGS = 48
_IMAGES = ImageSettings()


@dataclass(frozen=True)
class Stage:
    """The usual way and ours of one stage, and what else there is to say."""

    name: str
    usual: Callable[[], Any]
    ours: Callable[[], Any]
    note: str = ""


def spectra(track: Path) -> Stage:
    """Compute the three spectra of the whole track."""
    import librosa

    samples = decode(track)

    def usual() -> list[NDArray[Any]]:
        powers = (
            librosa.feature.melspectrogram(y=samples, sr=SAMPLE_RATE),
            np.abs(librosa.cqt(samples, sr=SAMPLE_RATE)) ** 2,
            librosa.feature.chroma_stft(y=samples, sr=SAMPLE_RATE) ** 2,
        )
        return [librosa.power_to_db(power, ref=np.max) for power in powers]

    def ours() -> Any:
        return compute_spectra(samples, engine="fast")

    found, expected = ours(), usual()
    apart = [np.abs(one - other) for one, other in zip((found.mel, found.cqt, found.chroma), expected, strict=True)]
    note = (
        f"mel {apart[0].max():.4f} dB and chroma {apart[2].max():.6f} dB apart at most, "
        f"CQT {apart[1].mean():.5f} dB on the average, {(apart[1] < 1).mean():.4%} within 1 dB"
    )
    return Stage(f"mel + CQT + chroma of {len(samples) / SAMPLE_RATE:.0f} s", usual, ours, note)


def decoding(track: Path) -> Stage:
    """Decode to mono at 22,050 Hz."""
    import librosa

    return Stage(f"{track.suffix[1:]} to 22,050 Hz mono", lambda: librosa.load(track), lambda: decode(track))


def preparing(track: Path, folder: Path) -> Stage:
    """From sound files to stored slices."""
    music = folder / "music" / "genre"
    music.mkdir(parents=True)
    for number in range(COPIES):
        shutil.copy(track, music / f"{number}{track.suffix}")
    shutil.copytree(music, music.with_name("other"))
    for path in sorted((folder / "music" / "other").iterdir())[1:]:
        path.unlink()
    files = sorted((folder / "music").rglob(f"*{track.suffix}"))
    manifest = read_manifest(folder / "music")

    def usual() -> None:
        images = [shrink(jpeg) for jpeg in draw_as_authors(files[0])]  # one file stands for all: it takes long enough
        np.save(folder / "usual.npy", np.stack(images))

    def ours() -> None:
        prepare(manifest, folder / "store", overwrite=True)

    return Stage(f"{len(files)} sound files to stored slices (usual: one file, times {len(files)})", usual, ours)


def draw_as_authors(path: Path) -> Iterator[bytes]:
    """Draw a track's slices as the data set's authors did: a JPEG for each spectrum of each slice."""
    import librosa
    import matplotlib

    matplotlib.use("agg")
    import librosa.display
    from matplotlib import pyplot

    samples, rate = librosa.load(path)
    spectra = (
        librosa.power_to_db(librosa.feature.melspectrogram(y=samples, sr=rate), ref=np.max),
        librosa.power_to_db(np.abs(librosa.cqt(samples, sr=rate)) ** 2, ref=np.max),
        librosa.power_to_db(librosa.feature.chroma_stft(y=samples, sr=rate) ** 2, ref=np.max),
    )
    width = _IMAGES.slice_frames
    for start in slice_starts(spectra[0].shape[1], width):
        for whole in spectra:
            librosa.display.specshow(whole[:, start : start + width])
            stream = io.BytesIO()
            pyplot.axis("off")
            pyplot.savefig(stream, format="jpg", bbox_inches="tight", pad_inches=0.0)
            pyplot.close()
            yield stream.getvalue()


def shrink(jpeg: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG to a grey square, as the published loop does."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB").convert("L").resize((_IMAGES.size, _IMAGES.size)))


def reading_jpegs(jpegs: list[bytes]) -> Stage:
    """From the data set's JPEGs to grey squares."""
    note = "genretree also inverts the colour map, which the reference omits"
    return Stage(
        f"{len(jpegs)} rendered JPEGs to grey squares",
        lambda: [shrink(jpeg) for jpeg in jpegs],
        lambda: [read_rendered_image(jpeg, _IMAGES.size) for jpeg in jpegs],
        note,
    )


def batches(jpegs: list[bytes], folder: Path) -> Stage:
    """Read a shuffled batch of 32 slices of three images."""
    rng = np.random.default_rng(0)
    positions = np.arange(2048)
    stored = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.uint8, (len(positions), 3, _IMAGES.size, _IMAGES.size)
    )
    stored[:] = np.stack([shrink(jpeg) for jpeg in jpegs[:3]])
    stored.flush()
    mapped = np.load(folder / "images.npy", mmap_mode="r")
    learn = SliceDataset(mapped, positions, positions, positions, positions)

    def usual() -> NDArray[np.uint8]:
        chosen = rng.integers(0, len(jpegs), 3 * BATCH)
        return np.stack([shrink(jpegs[i]) for i in chosen])

    def ours() -> NDArray[np.uint8]:
        return learn.take(rng.integers(0, len(mapped), BATCH))

    return Stage(f"a shuffled batch of {BATCH} slices", usual, ours)


def startup() -> Stage:
    """Start whole processes."""

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    usual = ("-c", "import librosa, torch")
    return Stage("start-up: --help", lambda: run(*usual), lambda: run("-m", "genretree", "--help"))


def measure(stage: Stage, rounds: int) -> dict[str, Any]:
    """Let both ways take turns; seconds of each, and the ratio of their medians."""
    seconds: dict[str, list[float]] = {"usual": [], "ours": []}
    for turn in range(rounds + 1):
        for way, run in (("usual", stage.usual), ("ours", stage.ours)):
            began = time.perf_counter()
            run()
            if turn:
                seconds[way].append(time.perf_counter() - began)
    return {"stage": stage.name, "note": stage.note, **seconds}


def line(found: dict[str, Any], times: int = 1) -> str:
    """Write one line of the table."""
    usual, ours = found["usual"], found["ours"]
    ratio = times * statistics.median(usual) / statistics.median(ours)
    cells = [found["stage"], _range(usual), _range(ours), f"{ratio:.1f}"]
    return "| " + " | ".join([*cells, found["note"]]) + " |"


def _range(seconds: list[float]) -> str:
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    names = ["spectra", "decode", "prepare", "jpegs", "batches", "startup"]
    parser.add_argument("--stages", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print("| stage | usual, ms (range) | ours, ms (range) | ratio | |\n| --- | --- | --- | --- | --- |")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = {"jpegs", "batches"} & set(given.stages)
        jpegs = list(draw_as_authors(given.track))[:JPEGS] if drawn else []
        stages: dict[str, Callable[[], Stage]] = {
            "spectra": lambda: spectra(given.track),
            "decode": lambda: decoding(given.track),
            "prepare": lambda: preparing(given.track, folder),
            "jpegs": lambda: reading_jpegs(jpegs),
            "batches": lambda: batches(jpegs, folder),
            "startup": startup,
        }
        for stage_name in given.stages:
            with threadpool_limits(1):
                found = measure(stages[stage_name](), given.rounds)
            found["times"] = COPIES + 1 if stage_name == "prepare" else 1  # of which the usual way is given one
            rows.append(found)
            print(line(found, found["times"]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
