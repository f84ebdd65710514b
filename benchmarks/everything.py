r"""All benchmarks one after the other, and the page that shows them: what `make bench` runs.

    python benchmarks/everything.py [--quick] [--out bench] [--music FOLDER] [--track FILE] [--only training memory ...]

Music is composed for it, or taken from a folder of genres or a CSV (`--music`), and a track of four minutes, or the one
that is given (`--track`). What needs the weights of mn04 or MusiCNN is left out where they are not on the machine
(`genretree weights get`). Nothing else should run at the same time. It takes less than an hour on 2 cores, with --quick
about 6 minutes: fewer rounds and steps, and smaller problems, so its results and its page go to the folder (by default
bench/quick). Otherwise the tables of this machine go to benchmarks/results/MACHINE.json, where those of benchmarks that
did not run now stay, and docs/performance.md is written from the results of all machines. The time of a run of all
benchmarks is recorded, too. If a benchmark fails, the others still run, the page names it, and the exit status is 1.
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
DATE = performance_page.DATE
PAGE = HERE.parent / "docs" / "performance.md"
PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "librosa", "openvino", "onnxruntime")
BENCHMARKS = tuple(performance_page.SECTIONS)
FAMILIES = ("cnn", "efficientnet-b0", "ast")
PUBLISHED = ("--rows", "320", "--epochs", "1")  # 256 slices for training: whole batches of every network
MANY_QUICK = ("--tracks", "200", "--seconds", "3", "--rounds", "1")
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
    composed = music is None
    music = out / "music" / "tracks.csv" if music is None else music
    check_store(store, music)
    if composed:
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


def check_store(store: Path, music: Path) -> None:
    """End with a message if the folder of an earlier run has a store of other music."""
    header = store / "store.json"
    if header.exists():
        source = json.loads(header.read_text(encoding="utf-8"))["facts"]["source"]
        if Path(source).resolve() != music.resolve():
            raise SystemExit(f"{store} was made from {source}, not from {music}: choose another --out")


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

    from genretree.datasets.composed import ComposeSettings, compose_track

    settings = ComposeSettings.build({"artists": 1, "tracks": 1, "seconds": 240, "rate": 44100, "channels": 2})
    samples, _ = compose_track("Uplifting_anthemic_rock", 0, 0, settings)
    sf.write(path, samples.T, settings.rate)


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
            "networks": script("runtimes", "networks", store, *bundles, "--rounds", "3", "--sample", "64"),
            "track": script("runtimes", "track", bundles[0], track, "--rounds", "1"),
            "folder": script("runtimes", "folder", bundles[0], music, "--rounds", "1", "--files", "20"),
            "explain": explain(bundles[0]),
            "cores": script("cores", bundles[0], music, "--rounds", "1", "--files", "20"),
            "many": script("many_cores", bundles[0], music, "--files", "10", *MANY_QUICK),
            "start": script("runtimes", "start", bundles[0], track, "--rounds", "1"),
            "memory": script("memory", "--files", "2", "--long", "30", "--tracks", "40", "--rows", "0"),
            "scaling": script("scaling", "--files", "4", "--rounds", "1", "--image-size", "64"),
        }
    else:
        all_words = {
            "stages": script("stages", track, "--rounds", "5"),
            "training": script("training", store, "--steps", "12", "--turn", "3", "--seeds", "2"),
            "published": script("published_loop", "--models", *FAMILIES, *PUBLISHED, "--rounds", "3"),
            "components": script("components", store, "--rows", "5120"),
            "networks": script("runtimes", "networks", store, *bundles, "--rounds", "5", "--sample", "128"),
            "track": script("runtimes", "track", bundles[1], track),
            "folder": script("runtimes", "folder", bundles[1], music, "--rounds", "3", "--files", "100"),
            "untrained": script("runtimes", "folder", out / UNTRAINED, music, "--rounds", "3", "--files", "100"),
            "explain": explain(*bundles[:2], *trained_on_tags, "--runtimes", "auto", "torch", "--rounds", "2"),
            "cores": script("cores", bundles[1], music),
            "many": script("many_cores", bundles[1], music, "--seconds", "6", "--tracks", "300"),
            "start": script("runtimes", "start", bundles[1], track),
            "memory": script("memory", "--long", "30", "--rows", "3000"),
            "scaling": script("scaling", "--files", "4"),
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


def measure(name: str, words: Sequence[str | Path], out: Path) -> dict[str, Any]:
    """Run a benchmark and return its section of the results; `failed` instead of tables if it fails."""
    began, day = time.monotonic(), datetime.now(UTC)
    section = {
        "command": name_command(words[:-2], out),
        "began": day.strftime(DATE),
        "version": describe_version(),
    }
    written = Path(words[-1])
    written.unlink(missing_ok=True)
    try:
        run(*words)
        tables = performance_page.render_tables(name, json.loads(written.read_text(encoding="utf-8")))
    except Exception as error:  # the others still run
        print(f"\n{name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return {**section, "failed": True}
    return {**section, "seconds": round(time.monotonic() - began), "tables": tables}


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="default: bench, with --quick bench/quick")
    parser.add_argument("--music", type=Path)
    parser.add_argument("--track", type=Path)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    given = parser.parse_args()
    out = given.out or Path("bench", *(["quick"] if given.quick else []))
    out.mkdir(parents=True, exist_ok=True)
    began, day = time.monotonic(), datetime.now(UTC)
    about = describe()
    results = out / "results" if given.quick else performance_page.RESULTS
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name_machine(about)}.json"
    if path.exists():  # what is not measured now stays
        before = json.loads(path.read_text(encoding="utf-8"))
        about |= {name: before[name] for name in ("sections", "whole_run") if name in before}
    try:
        folder, store, track, bundles = make_material(out, given.music, given.track, given.quick)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"{shlex.join(map(str, error.cmd))} failed; if {out} is of an earlier run, choose another --out"
        ) from error
    material = time.monotonic() - began
    failed = []
    for name, words in commands(folder, store, track, bundles, given.quick, out).items():
        if name not in given.only:
            continue
        section = measure(name, words, out)
        failed += [name] if "failed" in section else []
        about["sections"][name] = section
        write_results(path, about)
    if not failed and set(given.only) == set(BENCHMARKS):
        about["whole_run"] = {
            "began": day.strftime(DATE),
            "seconds": round(time.monotonic() - began),
            "material": round(material),
        }
        write_results(path, about)
    page = out / "performance.md" if given.quick else PAGE
    run(HERE / "performance_page.py", page, "--results", results, *(["--quick"] if given.quick else []))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def write_results(path: Path, about: dict[str, Any]) -> None:
    """Write the results of this machine."""
    path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
