from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_fakes import FakeClassifier

from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.errors import GenretreeError, LibraryError
from genretree.library.database import records
from genretree.library.database.connection import open_database
from genretree.library.scan.analyse import analyse
from genretree.library.scan.remote import remote_content, walk_anywhere
from genretree.remote import download_file
from genretree.sound.walk import Skipped, SoundWalk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A simulated cluster of two machines, of which one may be lost."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *filter(None, sys.path)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)  # inherited by the workers
        import ray
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


def test_tasks_of_a_lost_machine_are_repeated(cluster: Any, tmp_path: Path) -> None:
    from genretree.library.scan.ray_backend import RayEngine

    music, log = tmp_path / "m", tmp_path / "log"
    music.mkdir()
    for i in range(50):
        (music / f"{i:03d}.mp3").write_bytes(f"sound {i}".encode() * 40)
    (music / "copy.mp3").write_bytes(b"sound 0" * 40)
    (music / "bad.mp3").write_bytes(b"no")
    lost = cluster.add_node(num_cpus=1)
    nodes: set[int] = set()
    removed: list[int] = []

    def watch(*_: object) -> None:
        nodes.add(len(engines[0]._ready))
        if len(nodes) and max(nodes) == 2 and not removed:
            removed.append(len(log.read_text().split()))
            cluster.remove_node(lost, allow_graceful=False)

    engines: list[RayEngine] = []

    def make_engine(_: object) -> RayEngine:
        engines.append(RayEngine(_Maker(log)))
        return engines[0]

    with open_database(tmp_path / "library.sqlite", create=True) as database:
        counts = analyse(database, [music], _Maker(log), engine=make_engine, report=watch)
        assert removed, "never had two workers"
        assert (counts.files, counts.analysed, counts.shared, counts.failed) == (52, 50, 1, 1)
        model, model_key = records.find_model(database)
        results = {
            Path(row.path).name: result.error for row, result in records.iter_results(database, model, model_key)
        }
    assert len(results) == 52
    assert {name for name, error in results.items() if error} == {"bad.mp3"}
    analysed = log.read_text().split()
    assert set(analysed) >= {f"{i:03d}.mp3" for i in range(1, 50)}
    assert len(analysed) <= 50 + 2, "more was done again than what was in hand"


class _Maker:
    """Makes the listener in a worker, which knows this folder by its path."""

    def __init__(self, log: Path, seconds: float = 0.05) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self) -> FakeClassifier:
        return FakeClassifier(log=self.log, seconds=self.seconds)


@pytest.mark.parametrize(
    ("scheme", "kept"), [("file://", ""), ("local://", "file://")]
)  # a local path; download_file like a remote file
def test_files_are_analysed_by_url(cluster: Any, tmp_path: Path, scheme: str, kept: str) -> None:
    from genretree.library.scan.ray_backend import RayEngine

    (tmp_path / "m").mkdir()
    for name in ("one.mp3", "two words.flac", "cover.jpg", ".hidden.mp3"):
        (tmp_path / "m" / name).write_bytes(name.encode())
    log = tmp_path / "log"
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        for known in (0, 2) if scheme == "file://" else (0,):  # each engine starts processes
            counts = analyse(
                *(database, [f"{scheme}{tmp_path}/m"], _Maker(log, 0)),
                engine=lambda _: RayEngine(_Maker(log, 0)),
                find=walk_anywhere,
            )
            assert (counts.files, counts.known, counts.analysed) == (2, known, 2 - known)
        model, model_key = records.find_model(database)
        paths = [row.path for row, _ in records.iter_results(database, model, model_key)]
    assert paths == [f"{kept}{tmp_path}/m/one.mp3", f"{kept}{tmp_path}/m/two words.flac"]


def test_a_store_drawn_on_the_cluster_is_the_same(cluster: Any, corpus: Path, tmp_path: Path) -> None:
    from genretree.corpus.on_ray import prepare_on_ray
    from small_corpus import SETTINGS, TREE

    rows = (corpus.read_text().splitlines())[:12:5]
    listed = [rows[0]] + [f"file://{corpus.parent}/{row}" for row in rows[1:]] + ["gone.wav,Drone,x"]
    (tmp_path / "tracks.csv").write_text("\n".join([*listed, f"{corpus.parent}/Bells-0-0.wav,Bells,y"]) + "\n")
    manifest = read_manifest(tmp_path / "tracks.csv", TREE)
    made = prepare(manifest, tmp_path / "ray", SETTINGS, run_jobs=prepare_on_ray(None))
    here = prepare(manifest, tmp_path / "here", SETTINGS, workers=1)
    assert [failure.kind for failure in made.failures] == [failure.kind for failure in here.failures] == ["not_found"]
    assert made.n_tracks == 3
    separate = np.abs(made.images.astype(int) - here.images.astype(int))  # another number of threads rounds otherwise
    assert separate.max() <= 1
    assert (separate > 0).mean() < 1e-3


def test_the_memory_file_system_is_walked_and_fetched_from() -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe("/bucket/music/deep/x.ogg", b"sound")
    system.pipe("/bucket/music/notes.txt", b"text")
    walk = SoundWalk()
    (found,) = walk_anywhere(walk, ["memory://bucket/music"])
    assert walk.skipped == Skipped({".txt": 1})
    assert (found.path, found.size) == ("memory:///bucket/music/deep/x.ogg", 5)
    size, mtime_ns, content = remote_content(found.path)
    assert (size, mtime_ns) == (5, found.mtime_ns)
    with download_file(found.path) as copy:
        assert (copy.read_bytes(), copy.suffix) == (b"sound", ".ogg")
    assert not copy.exists()
    time.sleep(0.01)
    system.pipe("/bucket/music/deep/x.ogg", b"other")
    assert remote_content(found.path)[2] != content
    with pytest.raises(LibraryError, match="nothing at this address"):
        list(walk_anywhere(walk, ["memory://nowhere"]))
    with pytest.raises(GenretreeError, match="nonsense"):
        list(walk_anywhere(walk, ["nonsense://x"]))
