"""Arguments of the wrong type end in an ArgumentError that names them, whatever public function they are passed to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import genretree
from genretree import ArgumentError, Bundle, Classifier, Dataset, GenreClassifier, Manifest, Store, Taxonomy

# Enough to pass a check of the type; nothing behind it is reached.
BUNDLE: Any = object.__new__(Bundle)
CLASSIFIER: Any = object.__new__(Classifier)
STORE: Any = object.__new__(Store)
MANIFEST = Manifest(source=Path("music"), tracks=(), taxonomy=Taxonomy.from_nested(["Rock", "Jazz"]), group_by="track")
RECORDS: Any = [{"path": "a.mp3", "genre": "Rock"}]
MIRDATA = SimpleNamespace(load_tracks=lambda: {"1": SimpleNamespace(audio_path="a.mp3", genre="Rock", artist="A")})
WRONG: Any = 7


def frame() -> Any:
    import pandas as pd

    return pd.DataFrame({"path": ["a.mp3"]})


def fitted() -> GenreClassifier:
    estimator = GenreClassifier()
    estimator.model_ = CLASSIFIER
    return estimator


TEXT: Any = "text"

CASES: dict[str, tuple[str, Callable[[], Any]]] = {
    "load": ("source", lambda: genretree.load(WRONG)),
    "load empty": ("source is empty", lambda: genretree.load("")),
    "load_bundle": ("folder", lambda: genretree.load_bundle(WRONG)),
    "load_bundle none": ("folder", lambda: genretree.load_bundle(None)),  # type: ignore[arg-type]
    "predict bundle": ("bundle", lambda: genretree.predict(TEXT, ["a.mp3"])),
    "predict files": ("files", lambda: genretree.predict(BUNDLE, WRONG)),
    "predict file": ("files", lambda: genretree.predict(BUNDLE, [WRONG])),
    "predict no file": ("files is empty", lambda: genretree.predict(BUNDLE, "")),
    "predict samples": (r"files\[0\]", lambda: genretree.predict(BUNDLE, [0.1, 0.2])),  # type: ignore[list-item]
    "predict top": ("top", lambda: genretree.predict(BUNDLE, "a.mp3", top=TEXT)),
    "predict no top": ("top", lambda: genretree.predict(BUNDLE, "a.mp3", top=0)),
    "predict workers": ("workers", lambda: genretree.predict(BUNDLE, "a.mp3", workers=TEXT)),
    "predict min_confidence": ("min_confidence", lambda: genretree.predict(BUNDLE, "a.mp3", min_confidence=TEXT)),
    "predict_file bundle": ("bundle", lambda: genretree.predict_file(TEXT, "a.mp3")),
    "predict_file file": ("file", lambda: genretree.predict_file(BUNDLE, WRONG)),
    "predict_file range": ("min_confidence", lambda: genretree.predict_file(BUNDLE, "a.mp3", min_confidence=3)),
    "explain bundle": ("bundle", lambda: genretree.explain(TEXT, "a.mp3")),
    "explain file": ("file", lambda: genretree.explain(BUNDLE, WRONG)),
    "explain method": ("method", lambda: genretree.explain(BUNDLE, "a.mp3", method=WRONG)),
    "explain store": ("store", lambda: genretree.explain(BUNDLE, "a.mp3", store=TEXT)),
    "explain images": ("images", lambda: genretree.explain(BUNDLE, "a.mp3", images=WRONG)),
    "explain image": ("each of images", lambda: genretree.explain(BUNDLE, "a.mp3", images=["a.png"])),  # type: ignore[list-item]
    "explain image_form": ("image_form", lambda: genretree.explain(BUNDLE, "a.mp3", image_form="x")),  # type: ignore[arg-type]
    "explain node": ("node", lambda: genretree.explain(BUNDLE, "a.mp3", node=WRONG)),
    "explain names": ("node", lambda: genretree.explain(BUNDLE, "a.mp3", node=["Rock", WRONG])),
    "explain against": ("against", lambda: genretree.explain(BUNDLE, "a.mp3", node="Rock", against=WRONG)),
    "explain level": ("level", lambda: genretree.explain(BUNDLE, "a.mp3", level=[1])),  # type: ignore[arg-type]
    "explain seed": ("seed", lambda: genretree.explain(BUNDLE, "a.mp3", seed=-3)),
    "explain no seed": ("seed", lambda: genretree.explain(BUNDLE, "a.mp3", seed=None)),  # type: ignore[arg-type]
    "explain masks": ("masks", lambda: genretree.explain(BUNDLE, "a.mp3", masks=-1)),
    "explain masks text": ("masks", lambda: genretree.explain(BUNDLE, "a.mp3", masks="9")),  # type: ignore[arg-type]
    "explain neighbours": ("neighbours", lambda: genretree.explain(BUNDLE, "a.mp3", neighbours=0)),
    "read_manifest group": ("group", lambda: genretree.read_manifest("music", group=["artist"])),  # type: ignore[arg-type]
    "read_manifest source": ("source", lambda: genretree.read_manifest(WRONG)),
    "read_manifest tree": ("tree", lambda: genretree.read_manifest("music", tree=TEXT)),
    "read_manifest levels": ("levels", lambda: genretree.read_manifest("music", levels="level_1")),
    "read_manifest depth": ("depth", lambda: genretree.read_manifest("music", depth=TEXT)),
    "prepare manifest": ("manifest", lambda: genretree.prepare(TEXT, "store")),
    "prepare out": ("out", lambda: genretree.prepare(MANIFEST, WRONG)),
    "prepare settings": ("settings", lambda: genretree.prepare(MANIFEST, "store", {"size": 64})),  # type: ignore[arg-type]
    "prepare features": ("features", lambda: genretree.prepare(MANIFEST, "store", features="mel_16k")),
    "prepare no features": ("features", lambda: genretree.prepare(MANIFEST, "store", features=None)),  # type: ignore[arg-type]
    "prepare workers": ("workers", lambda: genretree.prepare(MANIFEST, "store", workers=0)),
    "prepare seed": ("seed", lambda: genretree.prepare(MANIFEST, "store", seed=TEXT)),
    "prepare negative seed": ("seed", lambda: genretree.prepare(MANIFEST, "store", seed=-1)),
    "prepare large seed": ("seed", lambda: genretree.prepare(MANIFEST, "store", seed=2**32)),
    "train store": ("store", lambda: genretree.train(TEXT, "cnn", "bundle")),
    "train family": ("family", lambda: genretree.train(STORE, WRONG, "bundle")),
    "train out": ("out", lambda: genretree.train(STORE, "cnn", WRONG)),
    "train settings": ("settings", lambda: genretree.train(STORE, "cnn", "bundle", WRONG)),
    "train other settings": ("settings", lambda: genretree.train(STORE, "cnn", "b", genretree.ImageSettings())),
    "train split": ("split", lambda: genretree.train(STORE, "cnn", "bundle", split=WRONG)),
    "train callbacks": ("callbacks", lambda: genretree.train(STORE, "cnn", "bundle", callbacks=WRONG)),
    "evaluate bundle": ("bundle", lambda: genretree.evaluate(TEXT, STORE)),
    "evaluate store": ("store", lambda: genretree.evaluate(BUNDLE, TEXT)),
    "evaluate part": ("part", lambda: genretree.evaluate(BUNDLE, STORE, part=[])),  # type: ignore[arg-type]
    "evaluate part name": (
        r"got 'tset'; did you mean 'test'\?",
        lambda: genretree.evaluate(BUNDLE, STORE, part="tset"),
    ),
    "evaluate split": ("split", lambda: genretree.evaluate(BUNDLE, STORE, split=WRONG)),
    "evaluate seed": ("seed", lambda: genretree.evaluate(BUNDLE, STORE, seed=TEXT)),
    "pull": ("name", lambda: genretree.pull(WRONG)),
    "pull to": ("to", lambda: genretree.pull("user/name", to=WRONG)),
    "push folder": ("folder", lambda: genretree.push(WRONG, "user/name")),
    "push name": ("name", lambda: genretree.push("bundle", WRONG)),
    "Store": ("folder", lambda: Store(WRONG)),
    "Store rows": ("part must be one of train, validation, test, all, got 'tset'", lambda: STORE.rows("tset")),
    "Store rows type": ("part", lambda: STORE.rows(WRONG)),
    "Store rows split": ("split", lambda: STORE.rows("test", TEXT)),
    "Store split": ("name", lambda: STORE.split(WRONG)),
    "Classifier": ("bundle", lambda: Classifier.from_bundle(WRONG)),
    "Classifier predict": ("inputs", lambda: CLASSIFIER.predict(WRONG)),
    "Classifier predict no file": ("inputs is empty", lambda: CLASSIFIER.predict("")),
    "Classifier predict none": (r"inputs\[0\]", lambda: CLASSIFIER.predict([None])),
    "Classifier sr of several": ("one track's", lambda: CLASSIFIER.predict([np.zeros(9)], sr=22050)),
    "Classifier transposed": ("y.T", lambda: CLASSIFIER.predict(np.zeros((900, 2)), sr=22050)),
    "Classifier loud": ("full scale", lambda: CLASSIFIER.predict(np.full(9000, 1e30), sr=22050)),
    "Classifier image": ("n_slices, 3", lambda: CLASSIFIER.predict(np.zeros((3, 32, 32), np.uint8))),
    "Classifier predict top": ("top", lambda: CLASSIFIER.predict("a.mp3", top=TEXT)),
    "Classifier predict_proba": ("inputs", lambda: CLASSIFIER.predict_proba(WRONG)),
    "Classifier predict_proba workers": ("workers", lambda: CLASSIFIER.predict_proba("a.mp3", workers=TEXT)),
    "Classifier embed workers": ("workers", lambda: CLASSIFIER.embed("a.mp3", workers=TEXT)),
    "Classifier array": ("audio samples", lambda: CLASSIFIER.predict(np.zeros(9, np.int64), sr=22050)),
    "Dataset": ("manifest", lambda: Dataset(WRONG)),
    "Dataset records": ("records", lambda: Dataset.from_records(WRONG)),
    "Dataset record": ("record 0", lambda: Dataset.from_records([WRONG])),
    "Dataset genre": ("genre", lambda: Dataset.from_records(RECORDS, genre=WRONG)),
    "Dataset no genre": ("genre is empty", lambda: Dataset.from_records(RECORDS, genre=[])),
    "Dataset group": ("group", lambda: Dataset.from_records(RECORDS, group=["artist"])),  # type: ignore[arg-type]
    "Dataset audio": ("audio", lambda: Dataset.from_records(RECORDS, audio=WRONG)),
    "Dataset root": ("root", lambda: Dataset.from_records(RECORDS, root=WRONG)),
    "Dataset mirdata genre": ("genre", lambda: Dataset.from_mirdata(MIRDATA, genre=WRONG)),
    "Dataset mirdata group": ("group", lambda: Dataset.from_mirdata(MIRDATA, group=WRONG)),
    "Dataset mirdata label": ("genre of track 1", lambda: Dataset.from_mirdata(MIRDATA, genre=lambda _: 3)),  # type: ignore[arg-type,return-value]
    "Dataset dataframe": ("df", lambda: Dataset.from_dataframe(WRONG)),
    "Dataset folder": ("folder", lambda: Dataset.from_folder(WRONG)),
    "Dataset csv": ("path", lambda: Dataset.from_csv(WRONG)),
    "Dataset mirdata": ("dataset", lambda: Dataset.from_mirdata(WRONG)),
    "Taxonomy paths": ("paths", lambda: Taxonomy.from_paths(WRONG)),
    "Taxonomy path": ("a path", lambda: Taxonomy.from_paths([WRONG])),
    "Taxonomy leaf": ("genre", lambda: Taxonomy.from_nested(["Rock", "Jazz"]).find_leaf(WRONG)),
    "Taxonomy level": ("level", lambda: MANIFEST.taxonomy.nodes(WRONG)),
    "Taxonomy level name": ("level must be one of level_1, got 'level_2'", lambda: MANIFEST.taxonomy.nodes("level_2")),
    "Taxonomy labels": ("level", lambda: MANIFEST.taxonomy.labels(None)),  # type: ignore[arg-type]
    "Taxonomy yaml": ("path", lambda: Taxonomy.from_yaml(WRONG)),
    "Taxonomy load": ("name_or_path", lambda: Taxonomy.load(WRONG)),
    "GenreClassifier X": ("X", lambda: GenreClassifier().fit(WRONG, ["Rock"])),
    "GenreClassifier frame": ("X must be a list of paths", lambda: GenreClassifier().fit(frame(), ["Rock"])),
    "GenreClassifier array": (r"of shape \(1, 1\)", lambda: GenreClassifier().fit(np.array([["a.mp3"]]), ["Rock"])),  # type: ignore[arg-type]
    "GenreClassifier memory": ("memory", lambda: GenreClassifier(memory=WRONG).fit(["a.mp3"], ["Rock"])),
    "GenreClassifier y": ("y", lambda: GenreClassifier().fit(["a.mp3"], WRONG)),
    "GenreClassifier label": ("y", lambda: GenreClassifier().fit(["a.mp3"], [None])),  # type: ignore[list-item]
    "GenreClassifier groups": ("groups", lambda: GenreClassifier().fit(["a.mp3"], ["Rock"], WRONG)),
    "GenreClassifier seed": ("random_state", lambda: GenreClassifier(random_state=-1).fit(["a.mp3"], ["Rock"])),
    "GenreClassifier score": ("X has 2 files and y has 1", lambda: fitted().score(["a.mp3", "b.mp3"], ["Rock"])),
    "GenreClassifier weight": ("sample_weight", lambda: fitted().score(["a.mp3"], ["Rock"], [TEXT])),
    "ImageSettings value": ("'size'.*32", lambda: genretree.ImageSettings(size=3)),
    "ImageSettings name": ("unknown setting", lambda: genretree.ImageSettings(sise=64)),  # type: ignore[call-arg]
    "ImageSettings": ("settings", lambda: genretree.ImageSettings.build(WRONG)),
}
# What only genretree itself makes, and what is raised.
_RESULTS = {"Bundle", "Evaluation", "Explanation", "Manifest", "Prediction", "PredictionError", "Probabilities"}
_ERRORS = {"ArgumentError", "GenretreeError", "SoundError"}


@pytest.mark.parametrize("name", CASES)
def test_an_argument_of_the_wrong_type_is_named(name: str) -> None:
    argument, call = CASES[name]
    with pytest.raises(ArgumentError, match=rf"^(each of )?{argument}\b" if argument.isidentifier() else argument):
        call()


def test_every_public_function_has_a_case() -> None:
    assert set(genretree.__all__) - _RESULTS - _ERRORS == {name.split()[0] for name in CASES}
