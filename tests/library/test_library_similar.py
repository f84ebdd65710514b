"""Similar tracks of a library: cached embeddings, their migration, and playlists."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from library_fakes import FakeClassifier, fake_classifier

from genretree.cli import main
from genretree.embedding import embedders
from genretree.embedding.embedders import FileEmbedding
from genretree.errors import SoundError
from genretree.library.apply.apply import apply_plans
from genretree.library.apply.undo import undo
from genretree.library.database import records
from genretree.library.database.connection import open_database
from genretree.library.database.embeddings import list_embedding_models, list_unembedded
from genretree.library.plan.mapping import Mapping as Rules
from genretree.library.plan.planner import iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.scan.embed import embed_library, load_track_index

V01 = Path(__file__).parents[1] / "data" / "v0.1"


class FakeEmbedder:
    """Embeds a file by its name, and logs the files that it embeds."""

    def __init__(self, key: str = "fake-1", stop_at: str = "") -> None:
        self.key, self.stop_at = key, stop_at
        self.embedded: list[str] = []

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbedding:
        if path.name == self.stop_at:
            raise KeyboardInterrupt
        if path.name.startswith("none.mp3"):
            raise SoundError("silence", path, "silent")
        self.embedded.append(path.name)
        vector = np.random.default_rng(list(path.name.encode())).uniform(0, 1, 8)
        return FileEmbedding(np.zeros(1), vector[None].astype(np.float32))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEmbedder:
    embedder = FakeEmbedder()
    monkeypatch.setattr(embedders, "load_embedder", lambda *_: embedder)
    return embedder


@pytest.fixture
def db(music: Path, tmp_path: Path) -> Path:
    """A library of the nine formats, a copy of one, and a file that the analysis could not use."""
    (music / "copy.mp3").write_bytes((music / "v24.mp3").read_bytes())
    (music / "bad.mp3").write_bytes((music / "v23.mp3").read_bytes() + b"bad")
    path = tmp_path / "library.db"
    with open_database(path, create=True) as database:
        analyse(database, [music], fake_classifier())
    return path


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def _write(path: Path) -> None:
    with open_database(path) as database:
        model, model_key = records.find_model(database)
        plans = iter_plans(database, model, model_key, Rules())
        assert apply_plans(database, plans, model_key.digest)[1] > 0


def test_the_first_search_embeds_the_library_and_later_ones_reuse_it(db: Path, music: Path, fake: FakeEmbedder) -> None:
    song = music / "v24.mp3"
    found = json.loads(_run("similar", song, "--in", db, "-n", 3, "--json").stdout)
    assert found["model"] == "fake-1"
    assert found["n_tracks"] == 8, "without copies, the file that failed, and the one that can't be embedded"
    first, *others = found["similar"]
    assert (first["relation"], first["file"], first["copies"]) == ("same_file", str(song), [str(music / "copy.mp3")])
    assert (first["artist"], first["title"]) == ("Ärtist 名", "A title")
    # All files of the fixture have the same artist and title.
    assert {track["relation"] for track in others} <= {"same_tags", None}
    assert sorted(fake.embedded) == sorted(
        path.name for path in music.iterdir() if path.name[:4] not in ("none", "bad.", "v24.")
    )
    fake.embedded.clear()
    again = json.loads(_run("similar", song, "--in", db, "-n", 3, "--json").stdout)
    assert again == found
    assert fake.embedded == []


def test_an_interrupted_run_continues(db: Path) -> None:
    with open_database(db) as database:
        with pytest.raises(KeyboardInterrupt):
            embed_library(database, FakeEmbedder(stop_at="flac.flac"), workers=1)
        done = list_embedding_models(database)["fake-1"]
        assert done > 0
        second = FakeEmbedder()
        counts = embed_library(database, second)
        assert counts.embedded == len(second.embedded) == 8 - done
        assert [failure[1] for failure in counts.failed] == ["silence"]
        assert list_unembedded(database, "fake-1") == [], "a silent file is not tried again"
        assert embed_library(database, FakeEmbedder("fake-2")).embedded == 8, "each network has its own"


def test_embeddings_stay_valid_when_genretree_writes_and_undoes_tags(db: Path, music: Path) -> None:
    with open_database(db) as database:
        embed_library(database, FakeEmbedder())
        before = load_track_index(database, "fake-1")
    _write(db)
    with open_database(db) as database:
        assert list_unembedded(database, "fake-1") == []
        after = load_track_index(database, "fake-1")
        assert sorted(after.paths) == sorted(before.paths)
        assert set(after.contents).isdisjoint(before.contents)
        n_rows = database.connection.execute("SELECT count(*) FROM embedding").fetchone()[0]
        assert n_rows == len(before) + 1, "those of the old contents are gone"
        row = after.find(music / "flac.flac")
        assert row is not None
        np.testing.assert_allclose(after.vectors[row], before.vectors[before.paths.index(after.paths[row])])
        undo(database, 1)
        assert sorted(load_track_index(database, "fake-1").contents) == sorted(before.contents)


def test_a_changed_file_is_embedded_after_it_is_analysed_again(db: Path, music: Path) -> None:
    with open_database(db) as database:
        embed_library(database, FakeEmbedder())
        with (music / "pcm.wav").open("ab") as stream:
            stream.write(b"\0\0")
        analyse(database, [music], fake_classifier())
        second = FakeEmbedder()
        embed_library(database, second)
        assert second.embedded == ["pcm.wav"]


def test_a_playlist_of_similar_tracks(db: Path, music: Path, tmp_path: Path, fake: FakeEmbedder) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(b"without tags")
    out = tmp_path / "playlists"
    result = _run("library", "playlists", out, "--db", db, "--like", song, "-n", 4, "--relative", "--quiet")
    assert result.exit_code == 0, result.output
    [path] = out.iterdir()
    lines = path.read_text().splitlines()
    assert path.name.startswith("Like ")
    assert lines[:2] == ["#EXTM3U", "#GENRETREE:like"]
    assert len(lines) == 3 + 4
    assert all((out / line).resolve().is_file() for line in lines[3:])
    assert _run("library", "playlists", out, "--db", db, "--like", song, "-n", 2, "--quiet").exit_code == 0
    assert len(path.read_text().splitlines()) == 3 + 2, "replaced"
    path.write_text("#EXTM3U\nmine.mp3\n")
    result = _run("library", "playlists", out, "--db", db, "--like", song, "--quiet")
    assert "was not written by genretree" in result.output
    assert (
        "--min-confidence has no effect with --like"
        in _run("library", "playlists", out, "--db", db, "--like", song, "--min-confidence", 0.2).output
    )
    assert "-n needs --like" in _run("library", "playlists", out, "--db", db, "-n", 3).output


def test_a_database_of_format_3_opens_and_is_migrated(db: Path, music: Path, fake: FakeEmbedder) -> None:
    connection = sqlite3.connect(db)
    connection.executescript(
        "DROP TABLE embedding; PRAGMA user_version = 3; UPDATE setting SET value = '3' WHERE name = 'format';"
    )
    connection.close()
    with open_database(db, read_only=True) as database:
        assert len(list_unembedded(database, "fake-1")) == 9
        assert list_embedding_models(database) == {}
    assert sqlite3.connect(db).execute("PRAGMA user_version").fetchone() == (3,), "reading does not migrate"
    result = _run("similar", music / "v24.mp3", "--in", db, "-n", 1, "--quiet")
    assert result.exit_code == 0, result.output
    with open_database(db) as database:
        assert list_embedding_models(database) == {"fake-1": 8}
        _, model_key = records.find_model(database)
        assert model_key == FakeClassifier().model_key


def test_a_database_of_0_1_can_be_searched(tmp_path: Path, fake: FakeEmbedder) -> None:
    db = tmp_path / "library.db"
    db.write_bytes(gzip.decompress((V01 / "library.db.gz").read_bytes()))
    result = _run("similar", V01 / "a.flac", "--in", db)
    assert result.exit_code == 1
    assert "no file can be embedded; analyse music first" in result.output  # its files are elsewhere now
