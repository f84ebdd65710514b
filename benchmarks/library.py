"""What a large library costs: questions to its database, memory, speed next to plain predict, writing and undoing.

    python benchmarks/library.py queries [--rows 1000000]        # a generated database; median and worst of 20 calls
    python benchmarks/library.py memory MUSIC --bundle BUNDLE --folder DIR    # 100 to 100,000 links to MUSIC's files
    python benchmarks/library.py speed MUSIC --bundle BUNDLE     # predict and analyse in turn, whole processes
    python benchmarks/library.py tags MUSIC --bundle BUNDLE      # apply and undo on a copy of MUSIC
    python benchmarks/library.py right STORE --bundle BUNDLE...  # by threshold: how much is written, and right
    python benchmarks/library.py hours --rate S                  # a million hours, from what `speed` says

Links are copies by content, so `memory` measures walk, hashing, tags and database around as many predictions as MUSIC
has files; with --distinct each file is a copy of one of its mp3 files with a tag of its own, and every one is analysed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from whole_process import measure

from genretree.bundle.bundle import load_bundle
from genretree.corpus.store import Store
from genretree.evaluation.evaluate import match_leaves, predict_rows
from genretree.library.database import folders, journal, records
from genretree.library.database.connection import Database, encode_path, open_database
from genretree.library.database.records import FileResult, ModelKey
from genretree.library.plan.mapping import decide, parse_mapping
from genretree.sound.decode import probe
from genretree.taxonomy import Taxonomy

_CALLS = 20
_COMMIT = 20_000


def queries(rows: int) -> None:
    """Fill a database and time every question."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_database(Path(folder) / "library.sqlite", create=True) as database,
    ):
        model_key = ModelKey("0" * 16, "generated", "tree", Taxonomy.builtin())
        model = records.register_model(database, model_key)
        began = time.monotonic()
        _generate(database, model, model_key, rows)
        size = database.path.stat().st_size / 1e6
        print(f"{rows} rows in {time.monotonic() - began:.0f} s, {size:.0f} MB")
        rng = random.Random(0)
        contents = [row[0] for row in database.connection.execute("SELECT content FROM file LIMIT 100 OFFSET 1000")]
        asked: dict[str, Callable[[], object]] = {
            "a file by its path": lambda: records.find_file(database, _path(rng.randrange(rows))),
            "its result": lambda: records.find_result(database, model, model_key, rng.randrange(1, rows)),
            "copies of a content": lambda: records.find_copies(database, rng.choice(contents)),
            "files there and gone": lambda: records.count_files(database),
            "files by genre": lambda: records.count_genres(database, model),
            "failures by error type": lambda: records.count_errors(database, model),
            "20 failures": lambda: records.list_errors(database, model, 20),
            "the 50 most confident": lambda: records.list_most_confident(database, model, model_key),
            "the 50 most confident of a genre": lambda: records.list_most_confident(
                database, model, model_key, leaf=rng.randrange(16)
            ),
            "the 50 most confident of an album": lambda: records.list_most_confident(
                database, model, model_key, folder=f"/music/artist {rng.randrange(rows // 200)}/album 3"
            ),
            "the 50 most confident of a folder of 9,000": lambda: records.list_most_confident(
                database, model, model_key, folder="/music/large"
            ),
            "the 50 most confident of a genre below /": lambda: records.list_most_confident(
                database, model, model_key, leaf=rng.randrange(16), folder="/music"
            ),
            "an artist's 200 files, for a preview": lambda: next(
                records.iter_files(database, model, model_key, f"/music/artist {rng.randrange(rows // 200)}")
            ),
            "which folders there are": lambda: folders.list_folders(database),
            "the last change of a file": lambda: journal.find_last_change(database, _path(rng.randrange(rows))),
            "one result written": lambda: records.save_result(
                database, model, rng.randrange(1, rows), b"0" * 16, FileResult(None, error="silence")
            ),
        }
        for name, ask in asked.items():
            times = []
            for _ in range(_CALLS):
                start = time.perf_counter()
                ask()
                times.append(1000 * (time.perf_counter() - start))
            print(f"| {name} | {statistics.median(times):.2f} | {max(times):.2f} |", flush=True)


def _path(i: int) -> str:
    if i < 9000:
        return f"/music/large/{i}.mp3"
    return f"/music/artist {i // 200}/album {i // 20 % 10}/{i % 20:02d} track.mp3"


def _generate(database: Database, model: int, model_key: ModelKey, rows: int) -> None:
    rng = np.random.default_rng(0)
    tree = model_key.taxonomy
    for start in range(0, rows, _COMMIT):
        n = min(_COMMIT, rows - start)
        leaves = rng.dirichlet(np.full(len(tree.leaves), 0.3), n)
        levels = tree.sum_levels(leaves)
        chosen = tree.decode(levels)
        packed = np.concatenate(levels, axis=1).astype("<f4")
        files, results = [], []
        for i in range(n):
            id_ = start + i + 1
            content = int(id_ // 2 if id_ % 50 == 1 else id_).to_bytes(16, "big")
            files.append((id_, encode_path(_path(id_ - 1)), 5_000_000, 1, content, "[]", 1))
            error = "truncated" if id_ % 500 == 0 else ""
            leaf = -1 if error else int(chosen[i])
            sure = None if error else float(leaves[i, chosen[i]])
            results.append((id_, model, content, leaf, sure, None if error else packed[i].tobytes(), 18, error))
        with database.transaction() as connection:
            connection.executemany(
                "INSERT INTO file (id, path, size, mtime_ns, content, genres, seen) VALUES (?, ?, ?, ?, ?, ?, ?)", files
            )
            connection.executemany(
                "INSERT INTO result (file, model, content, leaf, confidence, probabilities, slices, error) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                results,
            )


def memory(music: Path, bundle: Path, folder: Path, counts: list[int], distinct: bool, seconds: float) -> None:
    """Analyse more and more files, each library by the command itself; the peak of all its processes together.

    After some seconds the command is killed, and this ends; called again it goes on, as the command does.
    """
    sources = [path for path in sorted(music.rglob("*")) if path.is_file() and not path.is_symlink()]
    sources = [path for path in sources if not distinct or path.suffix == ".mp3"]
    end = time.monotonic() + seconds
    for count in counts:
        where = folder / f"{count}{'-distinct' if distinct else ''}"
        if not (where / "music").is_dir():
            _fill(where / "part", sources, count, distinct)
            (where / "part").rename(where / "music")
        environment = {**os.environ, "GENRETREE_LIBRARY": str(where / "library.sqlite")}
        commands = {
            "analyse": ["analyse", str(where / "music"), "--bundle", str(bundle), "--quiet"],
            "preview": ["preview", "--csv", str(where / "preview.csv"), "--quiet"],
        }
        for name, words in commands.items():
            if (where / f"{name}.done").exists():
                continue
            command = [sys.executable, "-m", "genretree", "library", *words]
            limit = end - time.monotonic()
            took, peak, _ = measure(command, environment, every=0.1, limit=limit)
            with open_database(where / "library.sqlite") as database:
                known = database.connection.execute("SELECT count(*) FROM result").fetchone()[0]
            print(f"| {count} | {name} | {known} results | {took:.0f} s | {peak:.0f} MB |", flush=True)
            if took >= limit:
                print("not finished: call it again")
                return
            (where / f"{name}.done").touch()


def _fill(where: Path, sources: list[Path], count: int, distinct: bool) -> None:
    """Make a folder of links to some files, or of copies that differ in an ID3v1 tag behind the sound."""
    shutil.rmtree(where, ignore_errors=True)
    contents = {source: source.read_bytes() for source in sources} if distinct else {}
    for i in range(count):
        source = sources[i % len(sources)]
        target = where / f"{i % 317}" / f"{i}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if distinct:
            target.write_bytes(contents[source] + b"TAG" + f"number {i}".encode().ljust(124, b"\0") + b"\xff")
        else:
            os.link(source, target)


def speed(music: Path, bundle: Path, runs: int) -> None:
    """Run predict and analyse in turn; whole processes, a new database each time."""
    files = [path for path in music.rglob("*") if path.is_file()]
    found: dict[str, list[float]] = {"predict": [], "analyse": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            commands = {
                "predict": ["predict", str(bundle), str(music), "--csv", str(Path(folder) / "x.csv"), "--quiet"],
                "analyse": [
                    *("library", "analyse", str(music), "--bundle", str(bundle), "--quiet"),
                    *("--db", str(Path(folder) / "l.sqlite")),
                ],
            }
            for name, words in commands.items():
                began = time.monotonic()
                subprocess.run([sys.executable, "-m", "genretree", *words], capture_output=True, check=False)
                found[name].append(time.monotonic() - began)
                print(f"{name}: {found[name][-1]:.1f} s", flush=True)
    ratio = statistics.median(a / p for a, p in zip(found["analyse"], found["predict"], strict=True))
    seconds = sum(_duration(path) for path in files)
    took = statistics.median(found["analyse"])
    print(f"{len(files)} files, {seconds / 3600:.2f} h of music; analyse takes {ratio:.3f} of the time of predict")
    print(f"{seconds / took:.0f} seconds of music a second, {len(files) / took:.1f} files a second")


def _duration(path: Path) -> float:
    from genretree.errors import SoundError

    try:
        found = probe(path).duration
    except SoundError:
        return 0.0
    return found if found > 0 else 0.0


def tags(music: Path, bundle: Path) -> None:
    """Time apply and undo on a copy."""
    with tempfile.TemporaryDirectory(dir=music.parent) as folder:
        where = Path(folder) / "music"
        shutil.copytree(music, where, symlinks=True)
        before = {path: path.read_bytes() for path in where.rglob("*") if path.is_file()}
        environment = {**os.environ, "GENRETREE_LIBRARY": str(Path(folder) / "l.sqlite")}
        commands = (
            ["analyse", str(where), "--bundle", str(bundle), "--quiet"],
            ["preview", "--html", str(Path(folder) / "p.html"), "--quiet"],
            ["apply", "--write", "--quiet"],
            ["undo", "--quiet"],
        )
        for words in commands:
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "genretree", "library", *words],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            print(f"{words[0]}: {time.monotonic() - began:.1f} s: {done.stdout.splitlines()[:1]}", flush=True)
        same = sum(path.read_bytes() == content for path, content in before.items())
        print(f"{same} of {len(before)} files as before, byte by byte; journal: ", end="")
        with open_database(environment["GENRETREE_LIBRARY"]) as database:
            mean = database.connection.execute("SELECT avg(length(delta)) FROM change").fetchone()[0]
            print(f"{mean or 0:.0f} bytes a file")


def right(folder: Path, bundles: list[Path]) -> None:
    """Decide for the test tracks of bundles, each of its own split, and compare with what they are."""
    store = Store(folder)
    true, said = [], []
    for bundle in map(load_bundle, bundles):
        rows = store.rows("test", store.split(bundle.training["split"]["name"]))
        tracks, position = np.unique(store.slice_tracks[rows], return_inverse=True)
        levels = bundle.average_slices(predict_rows(bundle, store, rows), position)
        model_key = ModelKey("0" * 16, bundle.family, bundle.model.heads, bundle.taxonomy)
        leaves = match_leaves(bundle.taxonomy, store)[tracks]
        true += [bundle.taxonomy.leaves[leaf] for leaf in leaves]
        said += [(model_key, [level[i : i + 1] for level in levels]) for i in range(len(tracks))]
    print(f"{len(true)} tracks")
    print("| threshold | written | of these right | mean level |")
    for least in (0.0, 0.3, 0.5, 0.7, 0.9):
        rules = parse_mapping({"min_confidence": least}, store.taxonomy)
        found = [decide(model_key, levels, rules) for model_key, levels in said]
        written = [(item.path, leaf) for item, leaf in zip(found, true, strict=True) if item.genres]
        good = sum(leaf[: len(path)] == path for path, leaf in written)
        depth = np.mean([len(path) for path, _ in written]) if written else 0
        print(f"| {least} | {len(written) / len(true):.0%} | {good / max(1, len(written)):.0%} | {depth:.1f} |")


def hours(rate: float, prices: list[float], million: float = 1e6) -> None:
    """Work out what a million hours take, from seconds of music that two processors hear in a second."""
    machine_hours = million / rate
    print(f"{machine_hours:.0f} hours of a machine of 2 processors, {2 * machine_hours:.0f} processor hours")
    for n in (10, 100, 1000):
        print(f"{n} such machines: {machine_hours / n / 24:.1f} days")
    for price in prices:
        print(f"at {price} a processor hour: {2 * machine_hours * price:.0f}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("queries").add_argument("--rows", type=int, default=1_000_000)
    for name in ("memory", "speed", "tags"):
        command = commands.add_parser(name)
        command.add_argument("music", type=Path)
        command.add_argument("--bundle", type=Path, required=True)
        command.add_argument("--runs", type=int, default=3)
    command = commands.choices["memory"]
    command.add_argument("--folder", type=Path, required=True, help="on the disk that MUSIC is on; is kept")
    command.add_argument("--counts", type=int, nargs="*", default=[100, 1000, 10_000, 100_000])
    command.add_argument("--distinct", action="store_true")
    command.add_argument("--seconds", type=float, default=230)
    command = commands.add_parser("right")
    command.add_argument("store", type=Path)
    command.add_argument("--bundle", type=Path, nargs="+", required=True, help="one, or those of a cross-validation")
    command = commands.add_parser("hours")
    command.add_argument("--rate", type=float, required=True, help="seconds of music a second on two processors")
    command.add_argument("--price", type=float, nargs="*", default=[], help="of a processor hour")
    given = parser.parse_args()
    if given.what == "queries":
        queries(given.rows)
    elif given.what == "memory":
        memory(*(given.music.absolute(), given.bundle, given.folder), given.counts, given.distinct, given.seconds)
    elif given.what == "speed":
        speed(given.music, given.bundle, given.runs)
    elif given.what == "tags":
        tags(given.music.absolute(), given.bundle)
    elif given.what == "right":
        right(given.store, given.bundle)
    else:
        hours(given.rate, given.price)


if __name__ == "__main__":
    main()
