from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner

from genretree.cli import main
from genretree.corpus import prepare as prepare_module
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.slices import iter_slices
from killing import kill_when
from other_files import canary
from small_corpus import SETTINGS, TREE, synthesise

pytestmark = pytest.mark.slow


def test_a_store_holds_what_the_sound_rooms_draw(store: Store, corpus: Path) -> None:
    assert store.n_tracks == 50
    assert store.images.shape == (200, 3, 64, 64)
    assert not store.failures
    drawn = np.stack([piece.images for piece in iter_slices(corpus.parent / store.tracks["path"][7], SETTINGS)])
    np.testing.assert_array_equal(store.images[store.slice_tracks == 7], drawn)
    assert isinstance(store.images, np.memmap)


def test_tables_carry_names_groups_and_checksums(store: Store) -> None:
    assert store.tracks["genre"][0] == "Calm > Drone"
    assert store.tracks["group"][0] == "artist:Drone artist 0"
    assert len(store.tracks["sha256"][0]) == 64
    assert store.metadata.group_by == "artist"
    assert (np.diff(store.starts[store.slice_tracks == 0]) > 1.9).all()


def test_the_default_split_is_saved_and_disjoint_by_artist(store: Store) -> None:
    split = store.split()
    artists = {part: set() for part in ("train", "validation", "test")}
    for group, part in zip(store.tracks["group"], split.parts, strict=True):
        artists[part].add(group)
    assert not artists["train"] & artists["test"]
    assert not artists["train"] & artists["validation"]
    assert sum(len(store.rows(part)) for part in artists) == len(store.rows("all")) == 200


@pytest.fixture(scope="module")
def few(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of half of the shared corpus: one track of each artist."""
    table = corpus.read_text().splitlines()
    path = tmp_path_factory.mktemp("few") / "tracks.csv"
    path.write_text("\n".join([table[0], *(f"{corpus.parent}/{row}" for row in table[1:] if "-0.wav" in row)]))
    return path


def _bad_corpus(folder: Path) -> Path:
    """Three good files and a bad one of each kind."""
    folder.mkdir()
    good = synthesise("Drone", 1, 4.0)
    for i in range(3):
        sf.write(folder / f"good{i}.wav", synthesise("Bells" if i else "Drone", i, 4.0), SAMPLE_RATE)
    (folder / "text.mp3").write_text("this is not music\n" * 50)
    (folder / "empty.flac").write_bytes(b"")
    sf.write(folder / "silent.wav", np.zeros(4 * SAMPLE_RATE, np.float32), SAMPLE_RATE)
    broken = good.copy()
    broken[1000] = np.nan
    sf.write(folder / "nan.wav", broken, SAMPLE_RATE, subtype="FLOAT")
    sf.write(folder / "whole.flac", good, SAMPLE_RATE)
    (folder / "cut.flac").write_bytes((folder / "whole.flac").read_bytes()[:20000])
    (folder / "whole.flac").unlink()
    sf.write(folder / "short.wav", good[: SAMPLE_RATE // 2], SAMPLE_RATE)
    rows = [
        f"{path.name},{'Drone' if path.name in ('good0.wav', 'short.wav') else 'Bells'}"
        for path in sorted(folder.iterdir())
    ]
    (folder / "tracks.csv").write_text("path,genre\nmissing.ogg,Drone\n" + "\n".join(rows) + "\n")
    return folder / "tracks.csv"


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_named_and_never_stop_the_others(tmp_path: Path, workers: int) -> None:
    manifest = read_manifest(_bad_corpus(tmp_path / "music"), TREE)
    made = prepare(manifest, tmp_path / "store", SETTINGS, workers=workers)
    kinds = {Path(failure.path).name: failure.kind for failure in made.failures}
    assert kinds == {
        "missing.ogg": "not_found",
        "text.mp3": "not_audio",
        "empty.flac": "empty",
        "silent.wav": "silence",
        "nan.wav": "not_finite",
        "cut.flac": "truncated",
    }
    assert made.tracks["path"] == ["good0.wav", "good1.wav", "good2.wav", "short.wav"]
    assert made.padded.tolist() == [False] * 6 + [True]
    assert not (tmp_path / "store.partial").exists()


@pytest.mark.parametrize("group", ["artist", "track"])
def test_a_named_pipe_is_reported_and_not_opened(tmp_path: Path, group: str) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    for genre in ("Drone", "Bells"):
        (folder / genre).mkdir()
        for i in range(3):
            sf.write(folder / genre / f"{i}.wav", synthesise(genre, i, 4.0), SAMPLE_RATE)
    with canary(folder / "Pipes") as pipe:
        store = prepare(read_manifest(folder, group=group), tmp_path / "store", SETTINGS)
        assert [failure.kind for failure in store.failures] == ["unreadable"]
        assert "is a named pipe, not an audio file" in store.failures[0].message
        assert not pipe.opened


def _plant(folder: Path, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new processes act before they read a file's slices, through the environment that they inherit."""
    (folder / "sitecustomize.py").write_text(
        "import os, time\n"
        "import genretree.sound.slices as s\n"
        "_real = s.iter_slices\n"
        "def iter_slices(path, *rest, **more):\n"
        f"    {act}\n"
        "    return _real(path, *rest, **more)\n"
        "s.iter_slices = iter_slices\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


SLOWLY = "time.sleep(0.3)"  # or all is done before a signal arrives


def test_a_crashing_decoder_takes_only_its_own_file_down(
    tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(tmp_path, "str(path).endswith('Drone-1-0.wav') and os.abort()", monkeypatch)
    made = prepare(read_manifest(few, TREE), tmp_path / "store", SETTINGS, workers=2)
    assert [(Path(failure.path).name, failure.kind) for failure in made.failures] == [("Drone-1-0.wav", "crashed")]
    assert made.n_tracks == 24


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, corpus: Path, store: Store) -> None:
    out = tmp_path / "store"
    code = (
        "from pathlib import Path; from genretree.corpus.manifest import read_manifest; "
        "from genretree.corpus.prepare import prepare; from small_corpus import TREE, SETTINGS; "
        f"prepare(read_manifest(Path({str(corpus)!r}), TREE), Path({str(out)!r}), SETTINGS, workers=1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    shards = tmp_path / "store.partial" / "tracks"
    kill_when(lambda: len(list(shards.glob("*.json"))) >= 5, process)
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in shards.glob("*.json")}

    made = prepare(read_manifest(corpus, TREE), out, SETTINGS, workers=1)
    assert len(kept) >= 5
    np.testing.assert_array_equal(made.images, store.images)
    assert made.tracks == store.tracks


def test_finished_tracks_are_not_drawn_again(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    real = prepare_module._prepare_track

    def count(job: prepare_module.TrackJob) -> None:
        drawn.append(job.path.name)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        real(job)

    monkeypatch.setattr(prepare_module, "_prepare_track", count)
    with pytest.raises(KeyboardInterrupt):
        prepare(read_manifest(corpus, TREE), tmp_path / "store", SETTINGS, workers=1)
    prepare(read_manifest(corpus, TREE), tmp_path / "store", SETTINGS, workers=1)
    assert len(drawn) == 4 + 47


def test_the_same_call_again_finds_the_store_done(tmp_path: Path, corpus: Path, store: Store) -> None:
    before = (store.folder / "store.json").stat().st_mtime_ns
    prepare(read_manifest(corpus, TREE), store.folder, SETTINGS)
    assert (store.folder / "store.json").stat().st_mtime_ns == before
    with pytest.raises(CorpusError, match="overwrite=True"):
        prepare(read_manifest(corpus, TREE), store.folder, ImageSettings.build({"size": 32}))


def test_another_folder_in_the_way_is_left_alone(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "precious.txt").write_text("mine")
    with pytest.raises(CorpusError, match="not a store"):
        prepare(read_manifest(corpus, TREE), tmp_path / "music", SETTINGS, overwrite=True)
    assert (tmp_path / "music" / "precious.txt").read_text() == "mine"


def test_no_usable_track_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no")
    (tmp_path / "tracks.csv").write_text("path,genre\na.wav,Drone\n")
    with pytest.raises(CorpusError, match="none of the 1 tracks"):
        prepare(read_manifest(tmp_path / "tracks.csv", TREE), tmp_path / "store", SETTINGS, workers=1)


@pytest.mark.parametrize("part", ["images.npy", "slices.parquet", "tracks.parquet", "store.json"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "cut"])
def test_a_damaged_store_refuses_clearly(tmp_path: Path, store: Store, part: str, damage: str) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store.folder, copy)
    path = copy / part
    content = path.read_bytes()
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"garbage")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorpusError, match="prepare"):
        Store(copy)


def test_a_store_of_a_later_format_is_refused(tmp_path: Path, store: Store) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store.folder, copy)
    content = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(CorpusError, match="format 99"):
        Store(copy)


def test_an_interrupt_stops_at_once_and_is_gone_on_from(
    tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(tmp_path, SLOWLY, monkeypatch)
    out = tmp_path / "store"
    words = ["prepare", str(few), str(out), "--slice-seconds", "2", "--size", "64", "--workers", "2", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "genretree", *words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    shards = tmp_path / "store.partial" / "tracks"
    deadline = time.monotonic() + 180
    while len(list(shards.glob("*.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted. What was finished is saved; continue with: python -m genretree prepare " in errors
    assert "Traceback" not in errors
    assert len(list(shards.glob("*.json"))) < 25
    again = CliRunner().invoke(main, [*words[:-3], "--workers", "1", "--quiet"])
    assert again.exit_code == 0, again.output
    assert "25 tracks" in again.stdout


def test_a_name_that_is_no_text_is_shown_and_harms_nobody(tmp_path: Path) -> None:
    for genre in ("Drone", "Bells"):
        (tmp_path / "music" / genre).mkdir(parents=True)
        sf.write(tmp_path / "music" / genre / "good.wav", synthesise(genre, 1, 4.0), SAMPLE_RATE)
    odd = os.fsencode(tmp_path / "music" / "Drone") + b"/\xff\xfe.wav"
    shutil.copy(tmp_path / "music" / "Drone" / "good.wav", odd)
    Path(os.fsdecode(os.fsencode(tmp_path / "music" / "Bells") + b"/\xfd.wav")).write_text("no music")
    made = prepare(read_manifest(tmp_path / "music"), tmp_path / "store", SETTINGS, workers=1)
    assert "Drone/\\xff\\xfe.wav" in made.tracks["path"]
    assert [failure.path.endswith("Bells/\\xfd.wav") for failure in made.failures] == [True]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(
    tmp_path: Path, few: Path, kill: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    psutil = pytest.importorskip("psutil")
    _plant(tmp_path, SLOWLY, monkeypatch)
    words = ["prepare", str(few), str(tmp_path / "store"), "--slice-seconds", "2", "--workers", "2", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "genretree", *words])
    shards = tmp_path / "store.partial" / "tracks"
    deadline = time.monotonic() + 180
    while not list(shards.glob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(kill)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_another_seed_is_not_passed_over(tmp_path: Path, corpus: Path, store: Store) -> None:
    with pytest.raises(CorpusError, match="overwrite=True"):
        prepare(read_manifest(corpus, TREE), store.folder, SETTINGS, seed=7)
