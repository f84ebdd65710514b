"""The published boosting against plain scikit-learn, built here from the study's description alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import IncrementalPCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import StandardScaler

from genretree.errors import SettingsError
from genretree.models.base import FitContext, FitResult, SliceDataset
from genretree.models.families.boosting.family import BoostingFamily, BoostingModel
from genretree.models.families.boosting.settings import BoostingSettings
from genretree.models.families.boosting.tree_files import fit_classifier
from genretree.taxonomy import Taxonomy
from genretree.training.recipes import Recipe

pytestmark = pytest.mark.slow

TREE = Taxonomy.builtin("ccmusic")
SMALL = {"image_size": 8, "components": 20, "batch_size": 64, "epochs": 7}


def make_examples(n: int = 200, seed: int = 0) -> SliceDataset:
    """Noise at 8x8 pixels, brighter for a higher leaf."""
    rng = np.random.default_rng(seed)
    leaves = np.arange(n) % len(TREE.leaves)
    images = rng.integers(0, 160, (n, 3, 8, 8)) + 5 * leaves[:, None, None, None]
    return SliceDataset(images.astype(np.uint8), np.arange(n), leaves, np.arange(n), np.arange(n))


def fit(folder: Path, train: SliceDataset, validation: SliceDataset | None = None, **changes: object) -> FitResult:
    settings = BoostingSettings.build({**Recipe.load("boosting-published").settings, **SMALL, **changes})
    return BoostingFamily.fit(train, validation, TREE, settings, FitContext(folder))


def test_published_settings() -> None:
    settings = BoostingSettings.build(Recipe.load("boosting-published").settings)
    published = {
        "modalities": ("mel", "cqt", "chroma"),
        "image_size": 128,
        "components": 512,
        "pca": "incremental",
        "batch_size": 512,
        "learning_rate": 0.05,
        "max_leaf_nodes": 63,
        "stopping": "random_tenth",
        "epochs": 100,
        "seed": 42,
        "heads": "independent",
        "features": ("components",),
    }
    found = settings.model_dump()
    assert {name: found[name] for name in published} == published
    # What the study left at scikit-learn's defaults.
    defaults = HistGradientBoostingClassifier().get_params()
    names = {"min_samples_leaf": "min_samples_leaf", "l2_regularization": "l2_regularization"}
    names |= {"max_features": "max_features", "epochs": "max_iter", "patience": "n_iter_no_change"}
    assert {name: found[name] for name in names} == {name: defaults[theirs] for name, theirs in names.items()}
    assert defaults["validation_fraction"] == 0.1
    assert found["class_weight_power"] == 0


def test_same_probabilities_as_plain_scikit_learn(tmp_path: Path) -> None:
    train, test = make_examples(), make_examples(40, seed=1)
    model = fit(tmp_path, train).model
    pipeline = StandardScaler(), IncrementalPCA(20, batch_size=64)
    pixels = {name: part.images.reshape(len(part), -1) / np.float32(255) for name, part in (("a", train), ("b", test))}
    reduced = pipeline[1].fit_transform(pipeline[0].fit_transform(pixels["a"]))
    unseen = pipeline[1].transform(pipeline[0].transform(pixels["b"]))
    found = model.predict_proba({"images": test.images})
    for level in range(3):
        plain = HistGradientBoostingClassifier(
            learning_rate=0.05, max_leaf_nodes=63, early_stopping=True, random_state=42, max_iter=SMALL["epochs"]
        )
        plain.fit(reduced, TREE.ancestors[train.leaves, level])
        np.testing.assert_allclose(found[level], plain.predict_proba(unseen), atol=1e-5)


def test_accuracies_of_every_round(tmp_path: Path) -> None:
    train, validation = make_examples(), make_examples(48, seed=1)
    for heads in ("tree", "independent"):
        folder = tmp_path / heads
        folder.mkdir()
        fitted = fit(folder, train, validation, heads=heads, stopping="validation")
        model = fitted.model
        assert isinstance(model, BoostingModel)
        last = fitted.history[-1]
        for part, examples in (("train", train), ("validation", validation)):
            levels = model.predict_proba({"images": examples.images})
            chosen = np.stack([level.argmax(axis=1) for level in levels], axis=1)
            if heads == "tree":
                chosen = TREE.ancestors[TREE.decode(levels)]
            right = (chosen == TREE.ancestors[examples.leaves]).mean(axis=0)
            assert [last[f"{part}_accuracy_{name}"] for name in TREE.levels] == pytest.approx(right.tolist())
        assert "train_accuracy_thr_level" not in fitted.history[0]  # before the first round
        assert "train_accuracy_thr_level" in (folder / "history.csv").read_text()


@pytest.mark.parametrize("stopping", ["random_tenth", "validation"])
def test_rounds_end_where_a_single_call_ends_them(stopping: str, tmp_path: Path) -> None:
    """Also where that is the last round of a call, as scikit-learn is called for a few rounds at a time."""
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 2, 300)
    held = rng.normal(size=(100, 4)).astype(np.float32), rng.integers(0, 2, 100)
    changes = {"seed": 3, "stopping": stopping, "learning_rate": 1.0, "min_samples_leaf": 1}  # overfits at once
    stopped = []
    for patience in (4, 5, 6):
        settings = BoostingSettings.build({**changes, "patience": patience})
        found = fit_classifier(features, truth, held, settings, None, tmp_path / "draft", lambda _: None)
        plain = HistGradientBoostingClassifier(
            learning_rate=1.0,
            max_leaf_nodes=63,
            min_samples_leaf=1,
            early_stopping=True,
            n_iter_no_change=patience,
            max_iter=200,
            random_state=3,
        )
        plain.fit(features, truth, **({"X_val": held[0], "y_val": held[1]} if stopping == "validation" else {}))
        assert found.n_iter_ == plain.n_iter_
        stopped.append(plain.n_iter_)
    assert stopped == [4, 5, 6]


def test_few_slices_of_a_class_are_learned_from(tmp_path: Path) -> None:
    train = make_examples(24)  # eight classes of a single slice, which scikit-learn can't divide
    fitted = fit(tmp_path, train, min_samples_leaf=1)
    assert [len(trees.classes_) for trees in fitted.model.classifiers] == [2, 9, 16]  # type: ignore[attr-defined]
    assert "held_out_loss" in fitted.history[-1]


def test_batches_smaller_than_the_components_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"batch_size is 64 and components is 65.*raise batch_size"):
        BoostingSettings.build({"pca": "incremental", "batch_size": 64, "components": 65})
    BoostingSettings.build({"batch_size": 64, "components": 65})
