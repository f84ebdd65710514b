"""One contract over every registered family."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import read_description, write_description
from genretree.corpus.store import Store
from genretree.errors import BundleError, SettingsError
from genretree.files import sha256_file
from genretree.models import family_names, get_family
from genretree.models.base import FitContext, Model
from genretree.models.families.tagger import model as tagger_model
from genretree.models.neural.network import GenreNetwork
from genretree.taxonomy import Taxonomy
from genretree.training.data import slice_dataset
from genretree.training.train import train
from small_checkpoints import write_checkpoint
from small_corpus import TREE
from small_weights import shrink_networks, write_mn04, write_musicnn

pytestmark = pytest.mark.slow

QUICK: dict[str, dict[str, Any]] = {
    "cnn": {"epochs": 4, "image_size": 32, "warmup_epochs": 1, "learning_rate": 2e-3, "precision": "float32"},
    "efficientnet-b0": {
        "epochs": 8,
        "image_size": 32,
        "weights": "none",
        "learning_rate": 3e-3,
        "batch_size": 8,
        "precision": "float32",
    },
    "ast": {"epochs": 8, "image_size": 32, "batch_size": 16, "learning_rate": 1e-3, "precision": "float32"},
    "boosting": {"epochs": 15, "image_size": 16, "components": 20, "min_samples_leaf": 5},
    "ensemble": {"folds": 2, "members": {}},
    "tagger": {"Cs": [30.0]},
    "backbone": {"Cs": [1.0]},
    "musicnn": {"patches": 1, "layers": [["penultimate"], ["tags", "penultimate", "images"]], "Cs": [0.1]},
}

NETWORKS = [name for name in family_names() if name not in ("boosting", "tagger", "musicnn", "ensemble", "backbone")]
TREE_CASES = [(name, "tree") for name in family_names()]
# The cases with a tree come first: pytest trains a bundle once if its place is the same in both lists.
CASES = TREE_CASES + [(name, "independent") for name in family_names() if name != "ensemble"]  # that pools leaves
WITHOUT_EPOCHS = ("tagger", "musicnn", "ensemble", "backbone")


@pytest.fixture(scope="module", autouse=True)
def _quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give pretrained families random weights, and make networks small."""
    QUICK["musicnn"]["weights"] = str(write_musicnn(tmp_path_factory.mktemp("weights")))
    QUICK["backbone"]["backbone"] = str(write_checkpoint(tmp_path_factory.mktemp("backbones") / "maest", "maest"))
    QUICK["tagger"]["weights"] = str(write_mn04(tmp_path_factory.mktemp("weights")))
    QUICK["ensemble"]["members"] = {name: QUICK[name] for name in ("musicnn", "boosting")}
    with pytest.MonkeyPatch.context() as patch:
        shrink_networks(patch)
        patch.setattr(tagger_model, "WINDOW_FRAMES", 100)
        yield


def _score(model: Model, store: Store, rows: Any) -> list[np.ndarray]:
    """Predict slices of a store, by index or slice."""
    return model.predict_proba(
        {"images": np.asarray(store.images[rows])}
        | {name: np.asarray(values[rows]) for name, values in store.features.items()}
    )


@pytest.fixture(scope="module", params=CASES)
def bundle(request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    name, heads = request.param
    settings = {**QUICK[name], "heads": heads}
    if heads == "independent" and "epochs" in settings:
        settings["epochs"] = 2  # they share everything but the head; whether it learns is asked of the tree
    return train(store, name, tmp_path_factory.mktemp("bundles") / name, settings)


def test_every_family_has_a_summary() -> None:
    assert set(QUICK) == set(family_names()), "a new family needs its quick settings here"
    for name in family_names():
        family = get_family(name)
        assert family.name == name
        assert family.summary


def test_levels_are_distributions(bundle: Bundle, store: Store) -> None:
    levels = _score(bundle.model, store, slice(9))
    assert [level.shape for level in levels] == [(9, 2), (9, 4), (9, 5)]
    for level in levels:
        assert np.isfinite(level).all()
        assert (level >= 0).all()
        np.testing.assert_allclose(level.sum(axis=1), 1, atol=1e-5)


def test_tree_head_levels_are_consistent(bundle: Bundle, store: Store) -> None:
    levels = _score(bundle.model, store, slice(50))
    expected = TREE.sum_levels(levels[-1])
    if bundle.model.heads == "tree":
        for found, summed in zip(levels, expected, strict=True):
            np.testing.assert_allclose(found, summed, atol=1e-5)
    else:
        assert not np.allclose(expected[0], levels[0], atol=1e-3)


@pytest.mark.parametrize("bundle", TREE_CASES, indirect=True)  # the others are trained too briefly
def test_accuracy_on_held_out_artists_exceeds_chance(bundle: Bundle, store: Store) -> None:
    rows = store.rows("test")
    levels = _score(bundle.model, store, rows)
    truth = store.track_leaves[store.slice_tracks[rows]]
    assert (levels[-1].argmax(axis=1) == truth).mean() > 0.5  # chance is 0.2


def test_predictions_are_independent_of_batching_and_order(bundle: Bundle, store: Store) -> None:
    rows = np.arange(40)
    whole = _score(bundle.model, store, rows)[-1]
    single = np.concatenate([_score(bundle.model, store, rows[i : i + 1])[-1] for i in range(5)])
    np.testing.assert_allclose(whole[:5], single, atol=1e-5)
    np.testing.assert_allclose(_score(bundle.model, store, rows[::-1])[-1][::-1], whole, atol=1e-5)


def test_empty_input_gives_empty_output(bundle: Bundle, store: Store) -> None:
    assert [level.shape for level in _score(bundle.model, store, slice(0))] == [
        (0, 2),
        (0, 4),
        (0, 5),
    ]


def test_reloaded_bundle_gives_identical_scores(bundle: Bundle, store: Store) -> None:
    again = load_bundle(bundle.folder)
    rows = slice(20)
    for before, after in zip(_score(bundle.model, store, rows), _score(again.model, store, rows), strict=True):
        np.testing.assert_array_equal(before, after)


def test_no_file_of_a_bundle_is_a_pickle(bundle: Bundle) -> None:
    suffixes = {path.suffix for path in bundle.folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    assert suffixes <= {".json", ".safetensors", ".csv"}


def test_every_file_of_weights_with_nan_or_infinity_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for number, path in enumerate(sorted(bundle.folder.rglob("*.safetensors"))):
        copy = Path(shutil.copytree(bundle.folder, tmp_path / str(number)))
        own = copy / path.relative_to(bundle.folder)
        weights = load_file(own)
        name = next(name for name, value in weights.items() if value.is_floating_point())
        weights[name].view(-1)[-1] = float("nan") if number % 2 else float("inf")
        if name == "threshold":
            weights["value"][:] = float("nan")
        save_file(weights, own)
        content = read_description(copy)
        files = {**content["files"], str(path.relative_to(bundle.folder)): sha256_file(own)}
        write_description(copy, {**content, "files": files})
        with pytest.raises(BundleError, match=f"{path.name}.*contains NaN or infinity"):
            load_bundle(copy)


@pytest.mark.parametrize("name", family_names())
def test_the_same_seed_gives_the_same_model(name: str, store: Store, tmp_path: Path) -> None:
    settings = {**QUICK[name], "seed": 5, **({} if name in WITHOUT_EPOCHS else {"epochs": 1})}
    first, second = (_score(train(store, name, tmp_path / out, settings).model, store, slice(10))[-1] for out in "ab")
    np.testing.assert_allclose(first, second, atol=1e-5)
    if name in NETWORKS:
        other = _score(train(store, name, tmp_path / "c", {**settings, "seed": 6}).model, store, slice(10))[-1]
        assert np.abs(first - other).max() > 1e-3


def test_a_bundle_of_another_family_is_refused(bundle: Bundle) -> None:
    other = next(name for name in family_names() if name != bundle.family)
    family = get_family(other)
    with pytest.raises(BundleError):
        family.load(bundle.folder, bundle.taxonomy, family.settings_type.build())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("heads", ["tree", "independent"])
def test_every_parameter_of_a_network_gets_a_gradient(name: str, heads: str, store: Store) -> None:
    network = _build(name, store, heads=heads, dropout=0.0).train()
    images = torch.from_numpy(np.array(store.images[:32]))
    labels = torch.from_numpy(store.track_leaves[store.slice_tracks[:32]])
    network(images, labels)["loss"].backward()
    still = [name for name, item in network.named_parameters() if item.grad is None or not item.grad.any()]
    assert not still


def _build(name: str, store: Store, **changes: Any) -> GenreNetwork:
    """Build a family's untrained network."""
    family = get_family(name)
    torch.manual_seed(0)
    settings = family.settings_type.build({**QUICK[name], **changes})
    network: GenreNetwork = import_module(family.__module__).build_network(store.taxonomy, settings)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_network_overfits_32_slices(name: str, store: Store) -> None:
    plain = {"dropout": 0.0, "label_smoothing": [0.0], "mask_probability": 0.0}
    network = _build(name, store, **plain).train()
    chosen = np.arange(0, 192, 6)
    images = torch.from_numpy(np.asarray(store.images[chosen]))
    labels = torch.from_numpy(store.track_leaves[store.slice_tracks[chosen]])
    optimizer = torch.optim.AdamW(network.parameters(), 3e-4 if name == "ast" else 2e-3)
    for _ in range(100):
        loss = network(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.05:
            return
    pytest.fail(f"the loss is still {loss.item():.2f}")


@pytest.mark.parametrize("name", [name for name in family_names() if name not in NETWORKS])
def test_family_overfits_32_slices(name: str, store: Store, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "boosting": {"min_samples_leaf": 2, "epochs": 40},
        "musicnn": {"Cs": [10.0]},
        "tagger": {"Cs": [10000.0]},
        "backbone": {"Cs": [1000.0]},
        "ensemble": {"members": {"musicnn": {**QUICK["musicnn"], "Cs": [10.0]}}},
    }[name]
    learn = slice_dataset(store, store.split(), "train")
    few = learn.select(np.linspace(0, len(learn) - 1, 32).astype(int))
    settings = get_family(name).settings_type.build({**QUICK[name], **changes})
    fitted = get_family(name).fit(few, None, store.taxonomy, settings, FitContext(tmp_path))
    leaves = _score(fitted.model, store, few.rows)[-1]
    assert (leaves.argmax(axis=1) == few.leaves).all()


def test_unknown_family_suggests_a_similar_name() -> None:
    with pytest.raises(SettingsError, match="did you mean 'boosting'"):
        get_family("bosting")


@pytest.mark.parametrize(("name", "heads"), CASES)
def test_a_level_with_a_single_node_is_certain(name: str, heads: str, store: Store, tmp_path: Path) -> None:
    taxonomy = Taxonomy.from_nested({"music": ["a", "b"]})
    learn = slice_dataset(store, store.split(), "train")
    halved = replace(learn, leaves=(learn.leaves > 2).astype(np.int64))
    short = {} if name in WITHOUT_EPOCHS else {"epochs": 2}
    settings = get_family(name).settings_type.build({**QUICK[name], "heads": heads, **short})
    fitted = get_family(name).fit(halved, None, taxonomy, settings, FitContext(tmp_path))
    levels = _score(fitted.model, store, slice(5))
    np.testing.assert_allclose(levels[0], 1, atol=1e-6)
    assert levels[1].shape == (5, 2)


@pytest.mark.parametrize("heads", ["tree", "independent"])
def test_interrupted_boosting_resumes_with_the_same_result(
    heads: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genretree.models.families.boosting import family, tree_files

    settings = {**QUICK["boosting"], "epochs": 30, "patience": 30, "heads": heads}
    whole = train(store, "boosting", tmp_path / "whole", settings)
    monkeypatch.setattr(tree_files, "_SECONDS_BETWEEN_DRAFTS", -1.0)
    write, drafts = tree_files.write_draft, []

    def interrupt(classifier: Any, draft: Path) -> None:
        write(classifier, draft)
        drafts.append(draft)
        if len(drafts) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(tree_files, "write_draft", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(store, "boosting", tmp_path / "cut", settings)
    grown = []
    monkeypatch.setattr(family, "_fit_projection", None)  # must not be fitted again
    read = family.read_draft
    monkeypatch.setattr(family, "read_draft", lambda *a: grown.append(read(*a)) or grown[-1])
    resumed = train(store, "boosting", tmp_path / "cut", settings)
    assert grown[0].n_iter_ >= 15
    images = np.asarray(store.images[:20])
    for expected, found in zip(
        whole.model.predict_proba({"images": images}), resumed.model.predict_proba({"images": images}), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (resumed.folder / "history.csv").exists()
