"""Embeddings of files, their two formats, and the search for similar tracks."""

from __future__ import annotations

import json
from copy import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from sklearn.metrics.pairwise import cosine_similarity

from genretree.cli import main
from genretree.corpus.store import Store
from genretree.embedding import embedders
from genretree.embedding.embedders import BundleEmbedder, FileEmbedding, Mn04Embedder, load_embedder, load_embedder_for
from genretree.embedding.neighbours import TrackIndex, find_similar
from genretree.embedding.stores import embed_song, embed_store, load_store_embedder
from genretree.embedding.table import embed_files, read_embeddings, sidecar
from genretree.errors import ArgumentError, CorpusError, DataError, SoundError, TrainingError
from genretree.models.pretrained import mn04_weights, musicnn_features
from genretree.models.pretrained.mn04 import Mn04
from genretree.models.pretrained.musicnn import Musicnn
from genretree.models.pretrained.musicnn_weights import digest
from genretree.models.pretrained.sources import MN04_FILE
from genretree.settings import ImageSettings
from genretree.sound.decode import decode, iter_blocks
from genretree.sound.mel_32k import compute_mel_32k
from genretree.sound.slices import iter_slices, slice_feature_blocks
from genretree.training.train import train
from small_corpus import synthesise


class FakeEmbedder:
    """Embeds a file by the bytes at its end, and logs the files that it embeds."""

    def __init__(self, key: str = "fake-1", fail_after: int | None = None) -> None:
        self.key, self.fail_after = key, fail_after
        self.embedded: list[str] = []

    def embed_file(self, path: Path, salvage: bool = False) -> FileEmbedding:
        if path.name.startswith("bad"):
            raise SoundError("not_audio", path, "not audio")
        if self.fail_after is not None and len(self.embedded) >= self.fail_after:
            raise KeyboardInterrupt
        self.embedded.append(path.name)
        y, _ = sf.read(path, dtype="float32")
        vectors = np.abs(np.fft.rfft(y[:80].reshape(2, 40)))[:, :6].astype(np.float32)
        return FileEmbedding(np.array([0.0, 10.0]), vectors)


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Five short files of noise, a copy of one, and a file that is not audio."""
    folder = tmp_path / "music"
    (folder / "copies").mkdir(parents=True)
    for name in "abcde":
        y = np.random.default_rng(ord(name)).uniform(-0.5, 0.5, 4000)
        sf.write(folder / f"{name}.wav", y, 8000)
    (folder / "copies" / "a.wav").write_bytes((folder / "a.wav").read_bytes())
    (folder / "bad.wav").write_bytes(b"RIFF nothing")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEmbedder:
    """An embedder that the command line gets instead of a network."""
    embedder = FakeEmbedder()
    monkeypatch.setattr(embedders, "load_embedder", lambda *_: embedder)
    monkeypatch.setattr(embedders, "load_embedder_for", lambda *_: embedder)
    return embedder


@pytest.fixture
def mn04(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mn04:
    """A random network in the cache, in the place of the published one."""
    torch.manual_seed(0)
    network = Mn04().eval()
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mn04_weights, "DIGEST", digest(network.state_dict()))
    (tmp_path / "cache").mkdir()
    save_file(network.state_dict(), tmp_path / "cache" / MN04_FILE)
    return network


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_search_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 20)).astype(np.float32)
    vectors[7] = 0  # as of a network whose last layer is all zero
    index = TrackIndex("x", [(f"{row}.mp3",) for row in range(300)], [b""] * 300, vectors)
    query = rng.normal(size=20).astype(np.float32)
    rows, similarities = index.search(query, 12)
    expected = cosine_similarity(query[None], vectors)[0]
    assert rows == np.argsort(-expected, kind="stable")[:12].tolist()
    np.testing.assert_allclose(similarities, expected[rows], atol=1e-6)
    assert index.search(vectors[5], 1)[0] == [5]
    assert len(index.search(query, 1000)[0]) == 300
    equal = TrackIndex("x", [(f"{row}.mp3",) for row in range(9)], [b""] * 9, np.ones((9, 20), np.float32))
    assert equal.search(query, 4)[0] == [0, 1, 2, 3]
    assert equal.search(query, 0)[0] == []
    with pytest.raises(ArgumentError, match=r"must have shape \(20,\), got \(21,\)"):
        index.search(np.zeros(21, np.float32), 1)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_embeddings_are_written_and_read(music: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    result = embed_files(FakeEmbedder(), [music], out)
    assert (result.files, result.rows, result.dimensions, result.resumed) == (6, 6, 6, 0)
    assert [error.kind for error in result.errors] == ["not_audio"]
    table = read_embeddings(out)
    assert (table.model, table.starts) == ("fake-1", None)
    assert table.paths == [str(music / f"{name}.wav") for name in ("a", "b", "c", "copies/a", "d", "e")]
    assert table.contents[0] == table.contents[3] != table.contents[1]
    expected = FakeEmbedder().embed_file(music / "d.wav")
    np.testing.assert_array_equal(table.vectors[4], expected.vectors.mean(axis=0))
    with pytest.raises(ArgumentError, match="exists already; replace it with `overwrite=True`"):
        embed_files(FakeEmbedder(), [music], out)
    embed_files(FakeEmbedder(), [music / "d.wav"], out, slices=True, overwrite=True)
    table = read_embeddings(out)
    assert table.paths == [str(music / "d.wav")] * 2
    assert table.starts is not None
    assert table.starts.tolist() == [0.0, 10.0]
    np.testing.assert_array_equal(table.vectors, expected.vectors)
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(out), expected.vectors)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(
        {out.name, sidecar(out).name} if suffix == ".npy" else {out.name}
    )


def test_a_parquet_file_opens_with_other_programs(music: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    embed_files(FakeEmbedder(), [music / "a.wav"], tmp_path / "out.parquet")
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    assert list(frame.columns) == ["path", "content", "embedding"]
    assert frame["embedding"][0].shape == (6,)


def test_an_interrupted_run_continues_and_leaves_nothing_half_written(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    with pytest.raises(KeyboardInterrupt):
        embed_files(FakeEmbedder(fail_after=3), [music], out, workers=1)
    assert not out.exists()
    assert not sidecar(out).exists()
    (music / "b.wav").write_bytes((music / "c.wav").read_bytes() + b"changed")
    second = FakeEmbedder()
    result = embed_files(second, [music], out, workers=1)
    assert (result.files, result.resumed) == (6, 2)
    assert sorted(second.embedded) == ["a.wav", "b.wav", "d.wav", "e.wav"]
    with pytest.raises(KeyboardInterrupt):
        embed_files(FakeEmbedder(fail_after=1), [music], tmp_path / "other.npy", workers=1)
    other = embed_files(FakeEmbedder("fake-2"), [music], tmp_path / "other.npy")
    assert other.resumed == 0, "another network starts over"


def test_unusable_outputs_are_refused(music: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"unknown format '\.csv'; name a file that ends in \.npy or \.parquet"):
        embed_files(FakeEmbedder(), [music], tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"nothing could be embedded: .*not audio"):
        embed_files(FakeEmbedder(), [music / "bad.wav"], tmp_path / "out.npy")
    out = tmp_path / "out.npy"
    with pytest.raises(DataError, match="no such file; make it with: genretree embed"):
        read_embeddings(out)
    np.save(out, np.zeros((3, 2), np.float32))
    with pytest.raises(DataError, match=r"out.paths.json, is missing; embed the files again"):
        read_embeddings(out)
    sidecar(out).write_text(json.dumps({"format": 1, "model": "x", "rows": "files", "entries": []}))
    with pytest.raises(DataError, match=r"\(3, 2\) for 0 paths"):
        read_embeddings(out)
    (tmp_path / "out.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="can't be read"):
        read_embeddings(tmp_path / "out.parquet")


def test_copies_and_tracks_with_the_same_tags_are_named_and_do_not_count(music: Path, tmp_path: Path) -> None:
    from mutagen.wave import WAVE

    for name in ("a.wav", "b.wav"):
        file = WAVE(music / name)
        file.add_tags()
        from mutagen.id3 import TIT2, TPE1

        file.tags.add(TPE1(encoding=3, text=["Artist"]))
        file.tags.add(TIT2(encoding=3, text=["Title" if name == "a.wav" else "TITLE"]))
        file.save()
    (music / "copies" / "a.wav").write_bytes((music / "a.wav").read_bytes())
    embed_files(FakeEmbedder(), [music], tmp_path / "out.npy")
    index = TrackIndex.from_table(read_embeddings(tmp_path / "out.npy"))
    assert len(index) == 5
    song = music / "a.wav"
    row = index.find(song)
    assert row is not None
    tracks = find_similar(index, song, index.vectors[row], 3)
    assert (tracks[0].path, tracks[0].relation, tracks[0].artist) == (str(song), "same_file", "Artist")
    assert tracks[0].similarity == pytest.approx(1)
    assert tracks[0].copies == (str(music / "copies" / "a.wav"),)
    assert [Path(track.path).name for track in tracks if not track.relation] != []
    assert sum(not track.relation for track in tracks) == 3
    assert {track.relation for track in tracks if track.path.endswith("b.wav")} == {"same_tags"}
    outside = tmp_path / "renamed.wav"
    outside.write_bytes(song.read_bytes())
    assert find_similar(index, outside, index.vectors[row], 1)[0].relation == "same_content"


def test_the_commands(music: Path, tmp_path: Path, fake: FakeEmbedder) -> None:
    out = tmp_path / "out.parquet"
    result = _run("embed", music, "-o", out, "--quiet")
    assert result.exit_code == 1, "one file is not audio"
    assert "failed (not_audio)" in result.output
    assert "6 files; 6 x 6 float32 (fake-1)" in result.output
    result = _run("embed", music, "-o", out, "--quiet")
    assert "exists already; replace it with --overwrite" in result.output
    result = _run("embed", music / "a.wav", "-o", tmp_path / "one.npy", "--slices", "--json")
    assert json.loads(result.stdout)["shape"] == [2, 6]
    found = json.loads(_run("similar", music / "c.wav", "--in", out, "-n", 2, "--json").stdout)
    assert found["n_tracks"] == 5
    assert [item["relation"] for item in found["similar"]] == ["same_file", None, None]
    similarities = [item["similarity"] for item in found["similar"]]
    assert similarities == sorted(similarities, reverse=True)
    new = tmp_path / "new.wav"
    sf.write(new, np.random.default_rng(9).uniform(-0.5, 0.5, 4000), 8000)
    result = _run("similar", new, "--in", out, "-n", 1)
    assert result.exit_code == 0, result.output
    assert "new.wav" in fake.embedded
    assert "Similar to" in result.output
    assert _run("embed", tmp_path / "nothing.wav", "-o", tmp_path / "x.npy").exit_code == 1
    result = _run("similar", new, "--in", music)
    assert result.exit_code == 1
    assert "embed it first: genretree embed" in result.output


def test_mn04_embeds_windows_of_10_seconds(mn04: Mn04, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0, 0.1, 27 * 8000).astype(np.float32)
    y[9 * 8000 : 21 * 8000] = 0
    sf.write(tmp_path / "song.wav", y, 8000)
    embedder = load_embedder()
    assert isinstance(embedder, Mn04Embedder)
    assert embedder.key == f"mn04-{mn04_weights.DIGEST[:12]}"
    embedding = embedder.embed_file(tmp_path / "song.wav")
    assert embedding.starts.tolist() == [0.0, 20.0], "without the silent window; the last has 7 s"
    decoded = decode(tmp_path / "song.wav", 32000)
    with torch.inference_mode():
        for start, vector in zip((0, 640_000), embedding.vectors, strict=True):
            mel = torch.from_numpy(compute_mel_32k(decoded[start : start + 320_000]).copy())
            np.testing.assert_allclose(vector, mn04(mel[None, None]).embedding[0], atol=1e-5)
    np.testing.assert_allclose(embedding.mean, embedding.vectors.mean(axis=0), rtol=1e-5)
    sf.write(tmp_path / "short.wav", y[:12000], 8000)
    assert embedder.embed_file(tmp_path / "short.wav").starts.tolist() == [0.0]
    with pytest.raises(ArgumentError, match=r"made by other-1, not by mn04-\w+; name the bundle .* in `bundle`"):
        load_embedder_for("other-1")


def test_without_weights_the_error_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path))
    with pytest.raises(TrainingError, match="genretree weights get mn04"):
        load_embedder()


@pytest.mark.slow
def test_the_tracks_of_a_store_are_embedded_as_their_files(store: Store, tmp_path: Path, mn04: Mn04) -> None:
    settings = {"epochs": 2, "image_size": 16, "components": 8, "min_samples_leaf": 5}
    bundle = train(store, "boosting", tmp_path / "bundle", settings)
    embedder = BundleEmbedder(bundle)
    index = embed_store(store, embedder)
    assert len(index) == store.n_tracks
    song = store.tracks["file"][3]
    tracks = find_similar(index, song, embedder.embed_file(Path(song)).mean, 4)
    assert tracks[0].relation == "same_file"
    assert tracks[0].similarity == pytest.approx(1, abs=1e-4)
    other = tmp_path / "other.wav"
    sf.write(other, synthesise("Noise", 99, 5.0), 22050)
    result = _run("similar", other, "--in", store.folder, "--bundle", tmp_path / "bundle", "--quiet", "--json", "-n", 3)
    assert len(json.loads(result.stdout)["similar"]) == 3


@pytest.mark.slow
def test_a_store_is_embedded_by_mn04_if_it_has_its_feature(store: Store, mn04: Mn04) -> None:
    slices = [
        list(slice_feature_blocks(partial(iter_blocks, file), store.settings, ("mel_32k",)))
        for file in store.tracks["file"][:3]
    ]
    mel = np.stack([item.features["mel_32k"] for track in slices for item in track])
    small = copy(store)
    small.tracks = {name: values[:3] for name, values in store.tracks.items()}
    small.slice_tracks = store.slice_tracks[: len(mel)]
    small.images = store.images[: len(mel)]
    small.features = {"mel_32k": mel}
    small.silent = store.silent[: len(mel)]
    embedder = load_store_embedder(small)
    assert isinstance(embedder, Mn04Embedder)
    index = embed_store(small, embedder)
    with torch.inference_mode():
        expected = mn04(torch.from_numpy(mel[:, None].astype(np.float32))).embedding.numpy()
    means = [expected[small.slice_tracks == track].mean(axis=0) for track in range(3)]
    song = Path(store.tracks["file"][1])
    tracks = find_similar(index, song, embed_song(small, embedder, song), 2)
    assert (tracks[0].relation, round(tracks[0].similarity, 4)) == ("same_file", 1.0)
    np.testing.assert_allclose(index.vectors[1], means[1] / np.linalg.norm(means[1]), atol=1e-4)
    small.features = {}
    with pytest.raises(CorpusError, match=r"neither the feature mel_32k .* nor mel_16k .* name a bundle in `bundle`"):
        load_store_embedder(small)


@pytest.mark.slow
def test_musicnn_is_used_where_mn04_is_missing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path))
    torch.manual_seed(0)
    networks = {"msd": Musicnn().eval(), "mtt": Musicnn().eval()}
    monkeypatch.setattr(musicnn_features, "load_network", networks.__getitem__)
    embedder = load_embedder()
    assert embedder.key.startswith("pretrained-musicnn-")
    assert load_embedder_for(embedder.key).key == embedder.key
    sf.write(tmp_path / "song.wav", synthesise("Noise", 1, 12.0), 22050)
    embedding = embedder.embed_file(tmp_path / "song.wav")
    [track_slice] = iter_slices(tmp_path / "song.wav", ImageSettings(), features=("mel_16k",))
    layers = musicnn_features.extract_features(networks, track_slice.features["mel_16k"][None], 4)
    assert embedding.vectors.shape == (1, 400)
    np.testing.assert_array_equal(embedding.vectors[0, :200], layers["msd/penultimate"][0])
    with pytest.raises(CorpusError, match=r"MusiCNN needs slices of 11\.4 s, and these have 2\.0 s"):
        embed_store(store, embedder)
