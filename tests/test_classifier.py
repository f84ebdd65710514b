"""One object that predicts for files, folders, arrays and images, data sets from records, and the estimator."""

from __future__ import annotations

import csv
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf

import genretree
from genretree import ArgumentError, Classifier, Dataset, GenreClassifier, GenretreeError, SoundError
from genretree.corpus.store import Store
from genretree.errors import CorpusError, TaxonomyError
from genretree.settings import SAMPLE_RATE
from small_corpus import SETTINGS, TREE, synthesise

pytestmark = pytest.mark.slow

_BOOSTING = {"components": 8, "epochs": 10, "image_size": 32}


@pytest.fixture(scope="module")
def model(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    out = tmp_path_factory.mktemp("classifier") / "bundle"
    genretree.train(store, "boosting", out, _BOOSTING)
    return genretree.load(out)


@pytest.fixture(scope="module")
def song(corpus: Path) -> Path:
    return corpus.parent / "Slow_beat-0-0.wav"


def test_a_file_a_folder_and_several_files(model: Classifier, song: Path, tmp_path: Path) -> None:
    one = model.predict(song)
    assert one == genretree.predict_file(model, song) == model.predict(str(song))
    assert model.predict([song, song]) == [one, one]
    (tmp_path / "a.wav").write_bytes(song.read_bytes())
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    first, second = model.predict(tmp_path)
    assert first.path == one.path  # type: ignore[union-attr]
    assert second.kind == "not_audio" or second.kind  # type: ignore[union-attr]


def test_a_path_as_text_is_one_file_not_its_characters(model: Classifier, song: Path) -> None:
    (prediction,) = genretree.predict(model, str(song))
    assert prediction == model.predict(song)


@pytest.mark.parametrize("sr", [SAMPLE_RATE, 44100, np.int64(48000), 32000.0])
def test_an_array_is_predicted_like_its_file(model: Classifier, tmp_path: Path, sr: float) -> None:
    y = np.resize(synthesise("Bells", 3), round(9 * float(sr))).astype(np.float32)
    stereo = np.stack([y, 0.5 * y])
    sf.write(tmp_path / "a.wav", stereo.T, int(sr), subtype="FLOAT")
    from_file, from_array = model.predict(tmp_path / "a.wav"), model.predict(stereo, sr=sr)
    assert from_array.path == from_file.path
    for one, other in zip(from_array.levels, from_file.levels, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=0.02)
    assert len(from_array.timeline) == len(from_file.timeline)


def test_images_of_slices(model: Classifier, store: Store, song: Path) -> None:
    rows = np.flatnonzero(store.slice_tracks == store.tracks["file"].index(str(song)))
    images = np.asarray(store.images[rows])
    assert model.predict(images).path == model.predict(song).path
    np.testing.assert_allclose(model.predict_proba(images).values, model.predict_proba(song).values, atol=1e-9)


def test_probabilities_of_all_nodes(model: Classifier, song: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_text("no audio")
    table = model.predict_proba([song, bad])
    assert table.labels[:2] == ("Calm", "Busy") and "Busy > Beat > Slow_beat" in table.labels
    assert len(set(table.nodes)) == len(table.nodes) == table.values.shape[1]
    assert table["Calm"][0] + table["Busy"][0] == pytest.approx(1)
    children = table["Busy > Beat > Slow_beat"] + table["Busy > Beat > Fast_beat"]
    assert children[0] == pytest.approx(table["Busy > Beat"][0])
    assert np.isnan(table.values[1]).all() and table.errors[0].file == str(bad)
    frame = table.to_pandas()
    assert frame.loc[str(song), "Calm"] == table["Calm"][0]
    with pytest.raises(ArgumentError, match="no node 'Polka'"):
        table["Polka"]


def test_embeddings(model: Classifier, song: Path, tmp_path: Path) -> None:
    vectors = model.embed(song)
    assert isinstance(vectors, np.ndarray) and vectors.dtype == np.float32
    y, sr = sf.read(song, dtype="float32")
    of_array = model.embed(y, sr=sr)
    assert isinstance(of_array, np.ndarray) and of_array.shape == vectors.shape
    (tmp_path / "a.wav").write_bytes(song.read_bytes())
    (tmp_path / "b.wav").write_text("no audio")
    of_folder = model.embed(tmp_path)
    assert isinstance(of_folder, dict) and list(of_folder) == [str(tmp_path / "a.wav")]
    np.testing.assert_array_equal(of_folder[str(tmp_path / "a.wav")], vectors)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (np.zeros(99, np.int16), {"sr": 22050}, "floating-point"),
        (np.zeros(99, np.float32), {}, "needs its sampling rate sr"),
        (np.zeros(99, np.float32), {"sr": True}, "sampling rate"),
        (np.zeros(99, np.float32), {"sr": 3}, "1000 to 768000"),
        (np.zeros((99999, 2), np.float32), {"sr": 22050}, "(n_channels, n_samples)"),
        (np.zeros(0, np.float32), {"sr": 22050}, "no audio samples"),
        (np.full(99, np.nan, np.float32), {"sr": 22050}, "NaN or infinity"),
        (np.zeros((2, 3, 8, 8), np.uint8), {}, "(n_slices, 3, 64, 64)"),
        (np.zeros((0, 3, 64, 64), np.uint8), {}, "(n_slices, 3, 64, 64)"),
        (np.zeros((1, 3, 64, 64), np.uint8), {"sr": 22050}, "sr is only for"),
        ("song.mp3", {"sr": 22050}, "sr is only for"),
        (7, {}, "path or a sequence"),
        ([7], {}, "inputs[0] must be a path, got int"),
    ],
)
def test_wrong_inputs_raise_genretree_errors(
    model: Classifier, inputs: Any, options: dict[str, Any], message: str
) -> None:
    for call in (model.predict, model.predict_proba, model.embed):
        with pytest.raises(GenretreeError) as caught:
            call(inputs, **options)
        assert message in str(caught.value)


def test_a_silent_array_is_refused(model: Classifier) -> None:
    with pytest.raises(genretree.SoundError, match="silent"):
        model.predict(np.zeros(9 * SAMPLE_RATE, np.float32), sr=SAMPLE_RATE)


def test_names_that_no_file_can_have_and_samples_too_short(model: Classifier) -> None:
    for call in (model.predict, model.embed):
        with pytest.raises(SoundError) as error:
            call("a" * 5000)
        assert error.value.kind in ("unreadable", "not_found")
    with pytest.raises(SoundError) as error:
        model.predict(np.ones(500), sr=SAMPLE_RATE)
    assert error.value.kind == "too_short"
    with pytest.raises(ArgumentError, match="node"):
        model.predict_proba([])[0]  # type: ignore[index]


def test_wrong_bundles_and_thresholds() -> None:
    with pytest.raises(ArgumentError, match="got str; load it"):
        genretree.predict("bundle", ["song.mp3"])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="got int"):
        genretree.load(3)  # type: ignore[arg-type]


def test_public_names_are_listed_and_a_model_shows_itself_in_one_line(model: Classifier) -> None:
    assert set(genretree.__all__) <= set(dir(genretree))
    assert repr(model) == f"Classifier('{model.folder}', family='boosting', n_leaves=5, runtime='{model.runtime}')"


def _records(corpus: Path) -> list[dict[str, Any]]:
    with corpus.open(encoding="utf-8") as stream:
        return [{**row, "path": str(corpus.parent / row["path"])} for row in csv.DictReader(stream)]


def test_records_frames_and_csv_give_the_same_tracks(corpus: Path) -> None:
    import pandas as pd

    records = _records(corpus)
    from_csv = Dataset.from_csv(corpus, taxonomy=TREE)
    nested = {"Calm": ["Drone", "Bells"], "Busy": {"Beat": ["Slow_beat", "Fast_beat"], "Noise": None}}
    frame = pd.DataFrame(records).rename(columns={"path": "file", "genre": "label", "artist": "who"})
    for data in (
        Dataset.from_records(records, taxonomy=nested),
        Dataset.from_dataframe(frame, audio="file", genre="label", group="who", taxonomy=TREE),
    ):
        assert [(track.path, track.leaf) for track in data.tracks] == [(t.path, t.leaf) for t in from_csv.tracks]
        assert [track.group.split(":")[1] for track in data.tracks] == [t.group.split(":")[1] for t in from_csv.tracks]
    assert repr(from_csv) == "Dataset(50 tracks, 5 genres, grouped by artist)"
    assert from_csv.count_genres()["Busy > Noise"] == 10


def test_level_columns_and_missing_values() -> None:
    rows = [
        {"path": "a.mp3", "l1": "Rock", "l2": "Punk", "artist": None},
        {"path": "b.mp3", "l1": "Jazz", "l2": float("nan"), "artist": "B"},
        {"path": "c.mp3", "l1": "", "l2": "Lost", "artist": "C"},
    ]
    data = Dataset.from_records(rows, genre=["l1", "l2"], root="/music")
    assert data.taxonomy.leaves == (("Jazz",), ("Rock", "Punk")) and data.taxonomy.levels == ("l1", "l2")
    assert [str(track.path) for track in data.tracks] == ["/music/a.mp3", "/music/b.mp3"]
    assert data.tracks[0].group == "track:a.mp3" and data.rejected[0].path == "c.mp3"
    named = Dataset.from_records([{"path": "a.mp3", "genre": ("Rock", "Punk")}, {"path": "b.mp3", "genre": ["Jazz"]}])
    assert named.taxonomy.leaves == data.taxonomy.leaves
    import pandas as pd

    assert len(Dataset.from_records([*rows, {**rows[1], "path": "d.mp3", "artist": pd.NA}], genre=["l1", "l2"])) == 3
    with pytest.raises(genretree.GenretreeError, match="record 0 has no 'genre'"):
        Dataset.from_records(rows)
    with pytest.raises(ArgumentError, match="record 0 must be a mapping"):
        Dataset.from_records(["a.mp3"])  # type: ignore[list-item]


def test_a_data_set_of_mirdata() -> None:
    tracks = {
        "1": SimpleNamespace(audio_path="/a.wav", genre="blues", artist="A"),
        "2": SimpleNamespace(audio_path="/b.wav", genre="rock", artist=None),
    }
    data = Dataset.from_mirdata(SimpleNamespace(load_tracks=lambda: tracks))
    assert data.taxonomy.leaves == (("blues",), ("rock",)) and data.tracks[0].metadata["track_id"] == "1"
    assert data.tracks[0].group == "artist:A"


def test_tracks_of_mirdata_that_lack_something() -> None:
    tracks = {
        "1": SimpleNamespace(audio_path="/a.wav", genre="blues"),
        "2": SimpleNamespace(audio_path="/b.wav", genre=["rock", "punk"]),
        "3": SimpleNamespace(genre="rock"),
        "4": SimpleNamespace(audio_path=None, genre="rock"),
        "5": SimpleNamespace(audio_path="/e.wav", genre=None),
        "6": SimpleNamespace(audio_path="/f.wav", genre="blues", album="A"),
    }
    mirdata = SimpleNamespace(load_tracks=lambda: tracks)
    with pytest.raises(CorpusError, match=r"no track has the attribute 'artist'.*`group=None`"):
        Dataset.from_mirdata(mirdata)
    with pytest.raises(CorpusError, match=r"no track has the attribute 'style'$"):
        Dataset.from_mirdata(mirdata, genre="style")
    with pytest.raises(CorpusError, match=r"^track 1: cannot read its group \(ZeroDivisionError: "):
        Dataset.from_mirdata(mirdata, group=lambda track: str(1 / 0))
    with pytest.raises(CorpusError, match=r"^track 1: cannot read its genre \(AttributeError: "):
        Dataset.from_mirdata(mirdata, genre=lambda track: track.style)
    with pytest.raises(CorpusError, match="no track can be used; the first problem: track 4: has no audio file"):
        Dataset.from_mirdata(SimpleNamespace(load_tracks=lambda: {"4": tracks["4"]}), group=None)
    data = Dataset.from_mirdata(mirdata, group=None)
    assert repr(data) == "Dataset(3 tracks, 2 genres, grouped by track, 3 rejected)"
    assert data.taxonomy.leaves == (("blues",), ("rock", "punk"))
    assert [failure.message for failure in data.rejected] == [
        "track 3: has no audio file",
        "track 4: has no audio file",
        "track 5: has no genre",
    ]
    by_album = Dataset.from_mirdata(mirdata, group="album")
    assert [track.group for track in by_album.tracks] == ["track:/a.wav", "track:/b.wav", "album:A"]


def test_a_genre_as_a_sequence_of_names() -> None:
    for names in (["Rock", "Punk"], ("Rock", "Punk"), np.array(["Rock", "Punk"]), deque(["Rock", "Punk"])):
        data = Dataset.from_records([{"path": "a.mp3", "genre": names}, {"path": "b.mp3", "genre": np.array("Jazz")}])
        assert data.taxonomy.leaves == (("Jazz",), ("Rock", "Punk"))
    for name in ("Hip/Hop", "Hip > Hop"):
        with pytest.raises(TaxonomyError, match=f"'genre' of record 0: the genre name '{name}' contains"):
            Dataset.from_records([{"path": "a.mp3", "genre": [name, "Rap"]}, {"path": "b.mp3", "genre": "Jazz"}])
        with pytest.raises(TaxonomyError, match=f"the genre name '{name}' contains"):
            GenreClassifier().fit(["a.mp3", "b.mp3"], [(name, "Rap"), "Jazz"])
    for wrong in ({"Rock": 1}, {"Rock"}, b"Rock", ["Rock", None]):
        with pytest.raises(ArgumentError, match="'genre' of record 0"):
            Dataset.from_records([{"path": "a.mp3", "genre": wrong}, {"path": "b.mp3", "genre": "Jazz"}])


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_bytes(b"\xff\xfb")
    with pytest.raises(CorpusError, match=r"song\.mp3: is not a folder; use Dataset\.from_csv"):
        Dataset.from_folder(tmp_path / "song.mp3")


def test_training_from_dicts_with_a_custom_tree(corpus: Path, tmp_path: Path) -> None:
    records = [row for row in _records(corpus) if row["genre"] in ("Drone", "Noise")]
    data = Dataset.from_records(records, taxonomy={"Tone": ["Drone"], "No_tone": ["Noise"]})
    store = data.prepare(tmp_path / "store", SETTINGS, workers=1)
    genretree.train(store, "boosting", tmp_path / "bundle", _BOOSTING)
    prediction = genretree.load(tmp_path / "bundle").predict(corpus.parent / "Drone-4-1.wav")
    assert prediction.path == ("Tone", "Drone")


def test_the_estimator_cross_validates_by_artists(corpus: Path, tmp_path: Path) -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GroupKFold, cross_val_score

    records = [row for row in _records(corpus) if row["genre"] in ("Drone", "Noise", "Fast_beat")]
    paths = [row["path"] for row in records]
    labels = [{"Drone": "Calm/Drone", "Noise": "Busy/Noise", "Fast_beat": "Busy/Beat"}[row["genre"]] for row in records]
    artists = [row["artist"] for row in records]
    estimator = GenreClassifier(
        settings=_BOOSTING, slice_seconds=2.0, size=64, memory=tmp_path / "cache", workers=1, random_state=1
    )
    assert clone(estimator).get_params() == estimator.get_params()
    scores = cross_val_score(estimator, paths, labels, groups=artists, cv=GroupKFold(2))
    assert scores.mean() > 0.5
    cached = sorted((tmp_path / "cache").glob("*.json"))
    assert len(cached) == len(paths)  # each file is decoded once for all folds
    estimator.fit(paths, labels, groups=artists)
    probabilities = estimator.predict_proba(paths)
    assert list(estimator.classes_) == ["Busy/Beat", "Busy/Noise", "Calm/Drone"]
    assert estimator.score(paths, labels) == np.mean(estimator.predict(paths) == np.array(labels)) > 0.5
    tuples = [tuple(label.split("/")) for label in labels]
    assert estimator.score(paths, tuples) == estimator.score(paths, labels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    loaded = genretree.load(estimator.save(tmp_path / "bundle"))
    assert loaded.predict(paths[0]).path == tuple(estimator.predict(paths[:1])[0].split("/"))
    assert replace(loaded, folder=estimator.model_.folder).training == estimator.model_.training


def test_predictions_are_spelled_as_the_labels_and_classes_are_sorted(corpus: Path, tmp_path: Path) -> None:
    """As scikit-learn's metrics expect: they compare text, and read the columns in the order of sorted labels."""
    from sklearn.metrics import log_loss

    records = [row for row in _records(corpus) if row["genre"] in ("Drone", "Noise")]
    paths, labels = [row["path"] for row in records], [row["genre"] for row in records]
    estimator = GenreClassifier(
        settings=_BOOSTING,
        slice_seconds=2.0,
        size=64,
        workers=1,
        taxonomy={"Tone": {"Still": ["Drone"]}, "No_tone": ["Noise", "Hum"]},
        random_state=None,
    )
    with pytest.raises(ArgumentError, match="two ways, 'Drone' and 'Tone/Still/Drone'"):
        estimator.fit(paths, ["Tone/Still/Drone" if i == 9 else label for i, label in enumerate(labels)])
    estimator.fit(paths, labels, groups=[row["artist"] for row in records])
    assert list(estimator.classes_) == ["Drone", "No_tone > Hum", "Noise"]
    predicted = estimator.predict(paths)
    assert set(predicted) <= set(labels) and np.mean(predicted == np.array(labels)) > 0.8
    probabilities = estimator.predict_proba(paths)
    assert log_loss(labels, probabilities, labels=estimator.classes_) < 0.7
    assert estimator.predict([]).dtype == estimator.classes_.dtype


@pytest.fixture(scope="module")
def three_genres(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths, integer labels and artists of three genres, and an estimator that computes their images once."""
    records = [row for row in _records(corpus) if row["genre"] in ("Drone", "Noise", "Fast_beat")]
    estimator = GenreClassifier(
        settings=_BOOSTING,
        slice_seconds=2.0,
        size=64,
        memory=tmp_path_factory.mktemp("estimator") / "cache",
        workers=1,
        random_state=2,
    )
    return SimpleNamespace(
        X=[row["path"] for row in records],
        y=np.array([{"Drone": 10, "Noise": 2, "Fast_beat": -1}[row["genre"]] for row in records]),
        names=[row["genre"] for row in records],
        groups=[row["artist"] for row in records],
        estimator=estimator,
    )


def test_integer_labels(three_genres: SimpleNamespace) -> None:
    X, y, estimator = three_genres.X, three_genres.y, three_genres.estimator
    estimator.fit(X, y, groups=three_genres.groups)
    assert estimator.classes_.tolist() == [-1, 2, 10] and estimator.classes_.dtype == y.dtype
    predicted = estimator.predict(X)
    assert predicted.dtype == y.dtype and estimator.predict([]).dtype == y.dtype
    assert estimator.score(X, y) == np.mean(predicted == y) > 0.5
    assert (estimator.classes_[estimator.predict_proba(X).argmax(axis=1)] == predicted).all()
    assert set(estimator.model_.taxonomy.leaves) == {("-1",), ("2",), ("10",)}


@pytest.mark.parametrize("dtype", [bool, np.float64, np.uint8, object])
def test_other_labels_that_are_not_text(three_genres: SimpleNamespace, dtype: type) -> None:
    y = (three_genres.y == 2).astype(dtype)
    estimator = three_genres.estimator.fit(three_genres.X, y, groups=three_genres.groups)
    assert estimator.classes_.tolist() == [0, 1] and estimator.classes_.dtype == dtype
    assert estimator.predict(three_genres.X[:2]).dtype == dtype
    assert estimator.score(three_genres.X, y) > 0.5


def test_estimators_of_scikit_learn_that_encode_labels(three_genres: SimpleNamespace) -> None:
    from sklearn.ensemble import StackingClassifier, VotingClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict

    X, names, estimator = three_genres.X, np.array(three_genres.names), three_genres.estimator
    folds = {"groups": three_genres.groups, "cv": GroupKFold(2)}
    probabilities = cross_val_predict(estimator, X, names, method="predict_proba", **folds)
    labels = cross_val_predict(estimator, X, names, **folds)  # fits with names
    assert len(set(labels)) > 1 and (np.unique(names)[probabilities.argmax(axis=1)] == labels).all()
    voting = VotingClassifier([("a", estimator), ("b", estimator)], voting="soft").fit(X, names)
    assert (voting.predict(X) == estimator.fit(X, names).predict(X)).all()
    stacking = StackingClassifier([("a", estimator)], cv=2).fit(X, names)
    assert set(stacking.predict(X)) <= set(names)


def test_files_without_a_group_are_not_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    manifests: list[genretree.Manifest] = []

    def stop(manifest: genretree.Manifest, *_: Any, **__: Any) -> None:
        manifests.append(manifest)
        raise InterruptedError

    monkeypatch.setattr("genretree.estimator.prepare", stop)
    groups = ["A", None, None, float("nan"), np.nan, "", pd.NA, "A", 7]
    files = [f"{number}.mp3" for number in range(len(groups))]
    with pytest.raises(InterruptedError):
        GenreClassifier().fit(files, ["Rock", *["Jazz"] * 8], groups=groups)
    found = [track.group for track in manifests[0].tracks]
    assert found[0] == found[7] == "artist:A" and found[8] == "artist:7"
    assert len(set(found)) == 8 and all(group.startswith("track:") for group in found[1:7])


def test_numbers_in_place_of_names() -> None:
    tree = {"Tone": ["Drone"], "No_tone": ["Noise"]}
    with pytest.raises(ArgumentError, match="y has numbers, such as 0, which are not genres of `taxonomy`"):
        GenreClassifier(taxonomy=tree).fit(["a.mp3", "b.mp3"], [0, 1])
    with pytest.raises(ArgumentError, match="both text and numbers"):
        GenreClassifier().fit(["a.mp3", "b.mp3"], ["Rock", 1])
    for wrong in (0.5, float("nan"), None, b"Rock"):
        with pytest.raises(ArgumentError, match="each of y must be the name or path of a genre, or an integer"):
            GenreClassifier().fit(["a.mp3", "b.mp3"], [wrong, wrong])  # type: ignore[list-item]


def test_the_estimator_refuses_wrong_arguments_and_files(tmp_path: Path) -> None:
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        GenreClassifier().predict(["a.mp3"])
    with pytest.raises(ArgumentError, match="X has 1 files and y has 2 values"):
        GenreClassifier().fit(["a.mp3"], ["Rock", "Jazz"])
    with pytest.raises(ArgumentError, match="a single path"):
        GenreClassifier().fit("a.mp3", ["Rock"])
    (tmp_path / "bad.wav").write_text("no audio")
    sf.write(tmp_path / "good.wav", synthesise("Noise", 1), SAMPLE_RATE)
    with pytest.raises(genretree.SoundError, match=r"bad\.wav"):
        GenreClassifier(workers=1).fit([tmp_path / "bad.wav", tmp_path / "good.wav"], ["Rock", "Jazz"])
