r"""All benchmarks one after the other, and the page that shows them: what `make bench` runs.

    python benchmarks/everything.py [--quick] [--out bench] [--music FOLDER] [--track FILE] [--only training memory ...]

Music is composed for it, or taken from a folder of genres or a CSV (`--music`), and a track of four minutes, or the one
that is given (`--track`). What needs the weights of mn04 or MusiCNN is left out where they are not on the machine
(`genretree weights get`). Nothing else should run at the same time. About an hour on 2 cores, with --quick about 6
minutes: fewer rounds and steps, and smaller problems, so its results and its page go to the folder. Otherwise the
tables of this machine go to benchmarks/results/MACHINE.json, where those of benchmarks that did not run now stay, and
docs/performance.md is written from the results of all machines.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import performance_page
import psutil

from genretree.files import cache_folder
from genretree.settings import SAMPLE_RATE
from genretree.sound.decode import decode

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "librosa", "openvino", "onnxruntime")
BENCHMARKS = tuple(performance_page.SECTIONS)
FAMILIES = ("cnn", "efficientnet-b0", "ast")
PUBLISHED = ("--rows", "400", "--epochs", "1")  # 320 slices for training
UNTRAINED = Path("bundles", "general")
TAGS = Path("bundles", "musicnn-ours")


def run(*words: str | Path) -> None:
    """Run Python with these words, and show them."""
    print("\n$ python " + shlex.join(map(str, words)), flush=True)
    subprocess.run([sys.executable, *map(str, words)], check=True)


def make_material(
    out: Path, music: Path | None, track: Path | None, quick: bool
) -> tuple[Path, Path, Path, list[Path]]:
    """Give a folder of music, a store, a track, and bundles: barely trained, but as fast as well trained ones."""
    store = out / "store"
    if music is None:
        music = out / "music" / "tracks.csv"
        if not music.exists():
            run("-m", "genretree", "compose", out / "music", "--artists", "4" if quick else "10")
        run("-m", "genretree", "prepare", music, store, "--tree", "ccmusic", "--group", "artist")
    else:
        run("-m", "genretree", "prepare", music, store)
    if track is None:
        track = out / "track.mp3"
        if not track.exists():
            compose_long(track)
    bundles = []
    for family in FAMILIES[:1] if quick else FAMILIES:
        bundle = out / "bundles" / family
        if not bundle.exists():
            words = ("--model", family, "--out", bundle, "--epochs", "1", "--weights", "none", "--set", "batch_size=32")
            run("-m", "genretree", "train", store, *words)
            run("-m", "genretree", "export", bundle, "--to", "openvino")
        bundles.append(bundle)
    if not quick:
        make_tag_bundles(out, store)
    return music if music.is_dir() else music.parent, store, track, bundles


def make_tag_bundles(out: Path, store: Path) -> None:
    """Make the bundles that need weights which are fetched on request, as far as they are on this machine."""
    if (cache_folder() / "mn04.safetensors").exists() and not (out / UNTRAINED).exists():
        run("-m", "genretree", "vocabulary", "general", "--out", out / UNTRAINED)
        run("-m", "genretree", "export", out / UNTRAINED, "--to", "openvino")
    if (cache_folder() / "musicnn-msd.safetensors").exists() and not (out / TAGS).exists():
        run("-m", "genretree", "train", store, "--recipe", "musicnn-ours", "--out", out / TAGS)


def cut_minute(track: Path, out: Path) -> Path:
    """Write the first minute of a track."""
    import soundfile as sf

    if not out.exists():
        sf.write(out, decode(track)[: 60 * SAMPLE_RATE], SAMPLE_RATE)
    return out


def compose_long(path: Path) -> None:
    """Compose four minutes of a rock song and write them as a stereo mp3 at 44,100 Hz."""
    import soundfile as sf

    from genretree.datasets.composed import ComposeSettings, compose_corpus

    settings = ComposeSettings.build({"artists": 1, "tracks": 1, "seconds": 240, "rate": 44100, "channels": 2})
    made = compose_corpus(path.with_suffix(".composed"), settings, progress=True)
    longest = sorted(made.parent.rglob("*.flac"))[-1]
    samples, rate = sf.read(longest, dtype="float32")
    sf.write(path, samples, rate)


def commands(
    music: Path, store: Path, track: Path, bundles: Sequence[Path], quick: bool, out: Path
) -> dict[str, list[str | Path]]:
    """Give the words of each benchmark."""

    def script(name: str, *words: str | Path) -> list[str | Path]:
        return [HERE / f"{name}.py", *words]

    minute = cut_minute(track, out / "minute.flac")
    trained_on_tags = [out / TAGS] if (out / TAGS).exists() else []

    def explain(*words: str | Path) -> list[str | Path]:
        return script("explain", "speed", *words, "--file", minute, "--methods", "occlusion")

    if quick:
        all_words = {
            "stages": script("stages", track, "--rounds", "1"),
            "training": script("training", store, "--steps", "8", "--turn", "2", "--seeds", "1"),
            "published": script("published_loop", "--models", "cnn", *PUBLISHED, "--rounds", "1"),
            "components": script("components", store, "--rows", "2560", "--held-out", "512"),
            "networks": script("runtimes", "networks", store, *bundles, "--rounds", "3"),
            "track": script("runtimes", "track", bundles[0], track, "--rounds", "1"),
            "folder": script("runtimes", "folder", bundles[0], music, "--rounds", "1", "--files", "20"),
            "explain": explain(bundles[0]),
            "cores": script("cores", bundles[0], music, "--rounds", "1", "--files", "20"),
            "many": script("many_cores", bundles[0], music, "--files", "10", "--copies", "2", "--seconds", "3"),
            "start": script("runtimes", "start", bundles[0], track, "--rounds", "1"),
            "memory": script("memory", "--files", "2", "--long", "12", "--tracks", "40", "--rows", "0"),
            "scaling": script("scaling", "--files", "4", "--rounds", "1", "--image-size", "64"),
        }
    else:
        all_words = {
            "stages": script("stages", track),
            "training": script("training", store, "--steps", "16", "--seeds", "2"),
            "published": script("published_loop", "--models", *FAMILIES, *PUBLISHED, "--rounds", "1"),
            "components": script("components", store),
            "networks": script("runtimes", "networks", store, *bundles, "--rounds", "5"),
            "track": script("runtimes", "track", bundles[1], track),
            "folder": script("runtimes", "folder", bundles[1], music, "--rounds", "3"),
            "untrained": script("runtimes", "folder", out / UNTRAINED, music, "--rounds", "3"),
            "explain": explain(*bundles[:2], *trained_on_tags, "--runtimes", "auto", "torch", "--rounds", "2"),
            "cores": script("cores", bundles[1], music),
            "many": script("many_cores", bundles[1], music, "--copies", "10"),
            "start": script("runtimes", "start", bundles[1], track),
            "memory": script("memory"),
            "scaling": script("scaling"),
        }
    if not (out / UNTRAINED).exists():
        all_words.pop("untrained", None)
    return {name: [*words, "--json", out / f"{name}.json"] for name, words in all_words.items()}


def describe() -> dict[str, Any]:
    """Say on what it runs."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES},
        "sections": {},
    }


def describe_version() -> str:
    """Return the version of genretree, with the commit of this checkout."""
    command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{version('genretree')} ({commit})" if commit else version("genretree")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--music", type=Path)
    parser.add_argument("--track", type=Path)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    about = describe()
    results = given.out / "results" if given.quick else performance_page.RESULTS
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name_machine(about)}.json"
    if path.exists():  # what is not measured now stays
        about["sections"] = json.loads(path.read_text(encoding="utf-8"))["sections"]
    folder, store, track, bundles = make_material(given.out, given.music, given.track, given.quick)
    for name, words in commands(folder, store, track, bundles, given.quick, given.out).items():
        if name not in given.only:
            continue
        began, day = time.monotonic(), datetime.now(UTC)
        run(*words)
        about["sections"][name] = {
            "command": name_command(words[:-2], given.out),
            "began": day.strftime("%Y-%m-%d %H:%M"),
            "seconds": round(time.monotonic() - began),
            "version": describe_version(),
            "tables": performance_page.render_tables(name, json.loads(Path(words[-1]).read_text(encoding="utf-8"))),
        }
        path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = given.out / "performance.md" if given.quick else PAGE
    run(HERE / "performance_page.py", page, "--results", results, *(["--quick"] if given.quick else []))


def name_command(words: Sequence[str | Path], out: Path) -> str:
    """Write the command of a benchmark without the folders of this machine: what is in `out` is in bench/."""
    shown = ["python", f"benchmarks/{Path(words[0]).name}"]
    for word in words[1:]:
        outside = Path(word).is_absolute() and not Path(word).is_relative_to(out)
        inside = isinstance(word, Path) and Path(word).is_relative_to(out)
        shown.append(Path(word).name if outside else f"bench/{Path(word).relative_to(out)}" if inside else str(word))
    return shlex.join(shown)


def name_machine(about: dict[str, Any]) -> str:
    """Name the file of a machine's results."""
    words = re.sub(r"\((r|tm)\)|processor|cpu|@.*", "", about["processor"].lower())
    return "-".join(re.findall(r"[a-z0-9]+", f"{words} {about['cores']} cores"))


if __name__ == "__main__":
    main()
