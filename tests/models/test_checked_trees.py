"""Boosted trees as checked arrays: the same predictions, and nothing wrong gets through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from genretree.bundle.bundle import load_bundle
from genretree.errors import BundleError
from genretree.models.families.boosting.checked_trees import CheckedTrees

OLD = Path(__file__).parents[1] / "data" / "v0.1" / "boosting"


def grow(n_classes: int, missing: bool = False) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(n_classes)
    features = rng.standard_normal((300, 6)).astype(np.float32)
    if missing:
        features[rng.random(features.shape) < 0.2] = np.nan
    truth = np.digitize(np.nan_to_num(features[:, 0]), np.linspace(-1, 1, n_classes - 1)) * 2
    return HistGradientBoostingClassifier(max_iter=12, min_samples_leaf=3).fit(features, truth), features


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {name: value.copy() for name, value in CheckedTrees.from_classifier(grow(3)[0]).arrays.items()}


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("missing", [False, True])
def test_they_predict_to_the_last_digit_what_scikit_learn_does(tmp_path: Path, n_classes: int, missing: bool) -> None:
    classifier, features = grow(n_classes, missing)
    CheckedTrees.from_classifier(classifier).save(tmp_path / "trees.safetensors")
    trees = CheckedTrees.load(tmp_path / "trees.safetensors")
    np.testing.assert_array_equal(trees.classes_, classifier.classes_)
    np.testing.assert_array_equal(trees.predict_proba(features), classifier.predict_proba(features))


def test_a_split_that_sets_missing_values_apart_is_taken(tmp_path: Path) -> None:
    features = np.where(np.arange(200)[:, None] % 2, np.nan, np.arange(200)[:, None]).astype(np.float32)
    classifier = HistGradientBoostingClassifier(max_iter=3).fit(features, np.arange(200) % 2)
    trees = CheckedTrees.from_classifier(classifier)
    assert np.isposinf(trees.arrays["threshold"]).any()
    np.testing.assert_array_equal(trees.predict_proba(features), classifier.predict_proba(features))


def test_bundles_of_0_1_keep_opening_and_say_the_same() -> None:
    expected = np.load(OLD / "expected.npz")
    bundle = load_bundle(OLD / "tree")
    assert (OLD / "tree" / "classifier-0.skops").exists()
    for level, found in enumerate(bundle.model.predict_proba({"images": expected["images"]})):
        np.testing.assert_array_equal(found, expected[f"level_{level}"])


def test_another_number_of_features_is_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(BundleError, match="grown on 6 features, and there are 5"):
        CheckedTrees(arrays).predict_proba(np.zeros((2, 5), dtype=np.float32))


def put(name: str, index: Any, value: Any) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][index] = value

    return change


def swap(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = make(arrays[name])

    return change


def join(arrays: dict[str, np.ndarray]) -> None:
    arrays["right"][0] = arrays["left"][0]


def drop(arrays: dict[str, np.ndarray]) -> None:
    del arrays["value"]


WRONG = {
    "far child": (put("left", 0, 2**32 - 1), "left child of a node lies outside"),
    "child in the next tree": (lambda a: put("right", 0, a["starts"][1])(a), "right child of a node lies outside"),
    "cycle": (put("left", 0, 0), "a cycle"),
    "cycle back": (lambda a: put("right", np.flatnonzero(a["leaf"] == 0)[1], 0)(a), "a cycle"),
    "two parents": (join, "no parent or several"),
    "far feature": (put("feature", 0, 6), "not among the 6"),
    "negative feature": (put("feature", 0, -1), "not among the 6"),
    "NaN threshold": (put("threshold", 0, np.nan), "threshold contains NaN"),
    "-inf threshold": (put("threshold", 0, -np.inf), "threshold contains NaN"),
    "NaN leaves": (put("value", slice(None), np.nan), "leaf contains NaN"),
    "inf leaves": (put("value", slice(None), np.inf), "leaf contains NaN"),
    "NaN baseline": (put("baseline", 0, np.nan), "baseline contains NaN"),
    "no leaf": (put("leaf", slice(None), 0), "child"),
    "strange leaf": (put("leaf", 0, 7), "neither 0 nor 1"),
    "classes fall": (put("classes", 0, 99), "classes don't rise"),
    "negative class": (put("classes", 0, -5), "classes don't rise"),
    "short nodes": (swap("left", lambda a: a[:-1]), "differ in length"),
    "no nodes": (swap("starts", lambda a: a[:1]), "0 trees"),
    "starts late": (put("starts", 0, 1), "don't begin"),
    "starts fall": (put("starts", 1, 10**9), "don't begin"),
    "other type": (swap("left", lambda a: a.astype(np.int64)), "'left' is int64"),
    "two dimensions": (swap("value", lambda a: a[:, None]), "2 dimensions"),
    "missing": (drop, "value"),
    "no features": (put("n_features", 0, 0), "number of features"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_with_the_name_of_the_file(
    tmp_path: Path, arrays: dict[str, np.ndarray], case: str
) -> None:
    from safetensors.numpy import save_file

    change, said = WRONG[case]
    change(arrays)
    with pytest.raises(ValueError, match=said):
        CheckedTrees(arrays)
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, tmp_path / "t.safetensors")
    with pytest.raises(BundleError, match=r"t\.safetensors") as raised:
        CheckedTrees.load(tmp_path / "t.safetensors")
    assert "\n" not in str(raised.value)


def test_splits_by_categories_are_refused() -> None:
    classifier, _ = grow(3)
    classifier._predictors[0][0].nodes["is_categorical"][0] = 1
    with pytest.raises(ValueError, match="categories"):
        CheckedTrees.from_classifier(classifier)
