"""Prediction for files and folders: paths, thresholds, time lines, bad files, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from genretree.bundle.bundle import Bundle
from genretree.corpus.store import Store
from genretree.errors import SoundError
from genretree.prediction.predict import Prediction, PredictionError, choose_genres, format_csv, predict, predict_file
from genretree.settings import SAMPLE_RATE
from genretree.sound.features import Inputs
from genretree.taxonomy import UNSPECIFIED, Taxonomy
from genretree.training.train import train
from other_files import canary
from small_corpus import TREE, synthesise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = {"epochs": 15, "image_size": 16, "components": 20, "min_samples_leaf": 5}
    return train(store, "boosting", tmp_path_factory.mktemp("bundle") / "b", settings)


def test_a_file_and_its_images_in_a_store_get_equal_probabilities(bundle: Bundle, store: Store) -> None:
    track = 13
    prediction = predict_file(bundle, store.tracks["file"][track])
    images = np.asarray(store.images[store.slice_tracks == track])
    raw = [
        probabilities.mean(axis=0, keepdims=True) for probabilities in bundle.model.predict_proba({"images": images})
    ]
    levels = [probabilities[0] for probabilities in bundle.calibrate(raw, "track")]
    assert prediction.slices == len(images)
    for level, probabilities in zip(prediction.levels, levels, strict=True):
        index = bundle.taxonomy.labels(bundle.taxonomy.levels.index(level.name)).index(level.label)
        assert level.probability == pytest.approx(probabilities[index], abs=1e-6)


def test_the_path_is_in_the_tree_and_probabilities_decrease_along_it(bundle: Bundle, store: Store) -> None:
    results = list(predict(bundle, store.tracks["file"][::7]))
    for prediction in results:
        assert isinstance(prediction, Prediction)
        assert prediction.path in bundle.taxonomy.leaves
        probabilities = [level.probability for level in prediction.levels]
        assert probabilities == sorted(probabilities, reverse=True)
        for level in prediction.levels:
            tops = [item.probability for item in level.top]
            assert tops == sorted(tops, reverse=True)
    assert [prediction.file for prediction in results] == store.tracks["file"][::7]


def test_most_files_of_held_out_artists_are_classified_correctly(bundle: Bundle, store: Store) -> None:
    held_out = [i for i, part in enumerate(store.split().parts) if part == "test"]
    results = list(predict(bundle, [store.tracks["file"][i] for i in held_out]))
    correct = [
        prediction.path == bundle.taxonomy.leaves[store.track_leaves[i]]
        for i, prediction in zip(held_out, results, strict=True)
    ]
    assert np.mean(correct) > 0.5


class _ConstantModel:
    """Predicts the same leaf probabilities for every slice."""

    heads = "tree"
    input_features = ("images",)

    def __init__(self, *leaves: float) -> None:
        self.leaves = np.array([leaves])

    def predict_proba(self, inputs: Inputs) -> list[np.ndarray]:
        images = inputs["images"]
        return TREE.sum_levels(np.repeat(self.leaves, len(images), axis=0))


@pytest.mark.parametrize(
    ("leaves", "min_confidence", "shown"),
    [
        ((0.1, 0.1, 0.2, 0.5, 0.1), 0.0, "Busy > Beat > Fast_beat"),
        ((0.1, 0.1, 0.2, 0.5, 0.1), 0.5, "Busy > Beat > Fast_beat"),
        ((0.1, 0.1, 0.2, 0.5, 0.1), 0.6, "Busy > Beat > ?"),
        ((0.1, 0.1, 0.2, 0.5, 0.1), 0.75, "Busy > ?"),
        ((0.1, 0.1, 0.2, 0.5, 0.1), 0.9, "?"),
        ((0.1, 0.1, 0.0, 0.0, 0.8), 0.8, "Busy > Noise"),  # a leaf that ends above
        # The other branch has the leaf with most levels correct in expectation; only the likelier branch is confident.
        ((0.45, 0.0, 0.19, 0.18, 0.18), 0.0, "Calm > Drone"),
        ((0.45, 0.0, 0.19, 0.18, 0.18), 0.5, "Busy > ?"),
    ],
)
def test_the_path_ends_above_the_first_improbable_node(
    bundle: Bundle, store: Store, leaves: tuple[float, ...], min_confidence: float, shown: str
) -> None:
    constant = replace(bundle, model=_ConstantModel(*leaves), calibration=None)
    prediction = predict_file(constant, store.tracks["file"][0], min_confidence=min_confidence)
    assert prediction.shown == shown
    assert prediction.complete == ("?" not in shown)
    assert prediction.to_json()["path"] == [name for name in shown.split(" > ") if name != "?"]
    assert len(prediction.levels) == TREE.depth


class _BrightnessModel:
    """Predicts Noise for slices whose highest mel bands are bright, otherwise Drone."""

    heads = "tree"
    input_features = ("images",)

    def predict_proba(self, inputs: Inputs) -> list[np.ndarray]:
        images = inputs["images"]
        bright = images[:, 0, : images.shape[2] // 4].mean(axis=(1, 2)) > 100
        return TREE.sum_levels(np.where(bright[:, None], [0.0, 0, 0, 0, 1], [1.0, 0, 0, 0, 0]))


def test_the_time_line_follows_the_music(bundle: Bundle, tmp_path: Path) -> None:
    y = np.concatenate([synthesise("Drone", 900, 6.1), synthesise("Noise", 901, 6.1)])
    sf.write(tmp_path / "both.wav", y, SAMPLE_RATE)
    prediction = predict_file(replace(bundle, model=_BrightnessModel()), tmp_path / "both.wav")
    assert prediction.timeline[0].path[0] == "Calm"
    assert prediction.timeline[-1].path[0] == "Busy"
    starts = [item.start for item in prediction.timeline]
    assert starts == sorted(starts)
    assert len(starts) == prediction.slices == 6


def test_a_short_file_is_padded_and_marked(bundle: Bundle, tmp_path: Path) -> None:
    sf.write(tmp_path / "short.wav", synthesise("Drone", 5, 0.7), SAMPLE_RATE)
    prediction = predict_file(bundle, tmp_path / "short.wav")
    assert prediction.padded
    assert prediction.slices == 1
    assert prediction.to_json()["padded"] is True


def test_silent_slices_are_left_out(bundle: Bundle, tmp_path: Path) -> None:
    y = np.concatenate([synthesise("Drone", 7, 4.1), np.zeros(4 * SAMPLE_RATE, np.float32)])
    sf.write(tmp_path / "half.wav", y, SAMPLE_RATE)
    assert predict_file(bundle, tmp_path / "half.wav").slices < 4


def test_bad_files_are_reported_in_their_place(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    good = store.tracks["file"][0]
    (tmp_path / "text.mp3").write_text("no music\n" * 99)
    results = list(predict(bundle, [good, tmp_path / "text.mp3", tmp_path / "gone.wav", good]))
    assert [type(result) for result in results] == [Prediction, PredictionError, PredictionError, Prediction]
    assert [result.kind for result in results[1:3]] == ["not_audio", "not_found"]
    assert results[1].to_json()["error"]["kind"] == "not_audio"
    with pytest.raises(SoundError):
        predict_file(bundle, tmp_path / "gone.wav")


def test_an_internal_error_in_one_file_does_not_stop_the_others(
    bundle: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_module = import_module("genretree.prediction.predict")

    original = predict_module.iter_blocks
    monkeypatch.setattr(
        predict_module,
        "iter_blocks",
        lambda path, *a, **k: 1 / 0 if "Drone-0-0" in str(path) else original(path, *a, **k),
    )
    first, second = predict(bundle, store.tracks["file"][:2])
    assert first.kind == "internal"
    assert isinstance(second, Prediction)


def test_folders_are_searched_for_audio(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    sf.write(tmp_path / "a" / "b" / "x.flac", synthesise("Drone", 5, 3.0), SAMPLE_RATE)
    (tmp_path / "a" / "cover.jpg").write_bytes(b"x")
    assert [Path(prediction.file).name for prediction in predict(bundle, [tmp_path])] == ["x.flac"]


def test_a_named_pipe_in_a_folder_is_reported_and_not_opened(bundle: Bundle, tmp_path: Path) -> None:
    with canary(tmp_path / "pipes") as pipe:
        (found,) = predict(bundle, [tmp_path])
        assert isinstance(found, PredictionError)
        assert found.kind == "unreadable"
        assert "is a named pipe, not an audio file" in found.message
        assert not pipe.opened


def test_json_and_csv_have_the_documented_fields(bundle: Bundle, store: Store) -> None:
    results = list(predict(bundle, [store.tracks["file"][0], "gone.wav"]))
    content = json.loads(json.dumps(results[0].to_json()))
    assert {"file", "path", "levels", "slices"} <= set(content)
    for level in content["levels"]:
        assert set(level) == {"name", "label", "probability", "sure", "top"}
        assert set(level["top"][0]) == {"label", "probability"}
    rows = list(csv.DictReader(io.StringIO(format_csv(results, bundle.taxonomy.levels))))
    assert rows[0]["path"] == " > ".join(results[0].path)
    assert float(rows[0]["level_1_probability"]) == pytest.approx(results[0].levels[0].probability, abs=1e-6)
    assert rows[1]["error"] == "not_found"


def tree_path(leaf: tuple[str, ...], level: int) -> str:
    """Name of a leaf's ancestor at a level."""
    return leaf[min(level, len(leaf) - 1)]


def test_independent_heads_still_give_a_label_for_each_level(store: Store, tmp_path: Path) -> None:
    settings = {"epochs": 3, "image_size": 16, "components": 20, "heads": "independent"}
    prediction = predict_file(train(store, "boosting", tmp_path / "b", settings), store.tracks["file"][0])
    assert len(prediction.path) == 3
    assert prediction.consistent == (
        list(prediction.path) in [[tree_path(leaf, i) for i in range(3)] for leaf in TREE.leaves]
    )
    assert [level.label for level in prediction.levels] == list(prediction.path)


def test_several_genres_are_nodes_of_one_level(bundle: Bundle, store: Store) -> None:
    file = store.tracks["file"][7]
    plain = predict_file(bundle, file)
    assert plain.genres is None
    assert "genres" not in plain.to_json()
    prediction = predict_file(bundle, file, n_genres=3)
    assert prediction.genres is not None
    assert prediction.genres[0].path == prediction.path
    assert prediction.genres[0].probability == prediction.levels[-1].probability
    assert replace(prediction, genres=None) == plain
    json_genres = prediction.to_json()["genres"]
    assert json_genres[0] == {"path": list(plain.path), "probability": round(plain.levels[-1].probability, 6)}
    assert "genres" in format_csv([prediction], bundle.taxonomy.levels).splitlines()[0].split(",")


def test_genres_are_chosen_by_probability_at_the_level_of_the_path() -> None:
    # Drone, Bells, Slow_beat, Fast_beat, Noise
    averaged = TREE.sum_levels(np.array([[0.05, 0.3, 0.35, 0.25, 0.05]]))
    nodes = TREE.ancestors[TREE.find_leaf("Slow_beat")]
    path = ("Busy", "Beat", "Slow_beat")

    def choose(n_levels: int, n_genres: int) -> list[tuple[str, float]]:
        genres = choose_genres(TREE, path[:n_levels], averaged, nodes, n_levels, n_genres)
        return [(genre.path[-1], round(genre.probability, 6)) for genre in genres]

    assert choose(3, 5) == [("Slow_beat", 0.35), ("Bells", 0.3), ("Fast_beat", 0.25)], "from 0.1 on"
    assert choose(3, 2) == [("Slow_beat", 0.35), ("Bells", 0.3)]
    assert choose(2, 3) == [("Beat", 0.6), ("Bells", 0.3)], "of one level: no node is above another"
    assert choose(1, 3) == [("Busy", 0.65), ("Calm", 0.35)]
    assert choose(0, 3) == []
    less_probable = TREE.ancestors[TREE.find_leaf("Bells")]
    genres = choose_genres(TREE, ("Calm", "Bells"), averaged, less_probable, 3, 2)
    assert [genre.path[-1] for genre in genres] == ["Bells", "Slow_beat"], "the path comes first, whatever it is"


def test_a_path_that_stops_is_no_further_genre_above_another() -> None:
    tree = Taxonomy.from_nested({"Rock": ["Metal", UNSPECIFIED], "Jazz": ["Bebop", UNSPECIFIED]})
    averaged = tree.sum_levels(np.array([[0.4, 0.3, 0.1, 0.2]]))
    genres = choose_genres(tree, ("Rock", "Metal"), averaged, tree.ancestors[0], 2, 4)
    assert [genre.path for genre in genres] == [("Rock", "Metal"), ("Jazz",)]
