"""Plain and nested cross-validation over artists."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import CorpusError, SettingsError
from genretree.evaluation import cross_validate as module
from genretree.evaluation.cross_validate import (
    FoldPredictions,
    build_candidates,
    cross_validate,
    format_cross_validation,
)
from genretree.metrics.scores import decode_levels
from genretree.models.base import predict_dataset
from genretree.models.neural import trainer
from genretree.training.data import slice_dataset
from small_weights import shrink_networks

QUICK = {"epochs": 3, "image_size": 16, "components": 6, "min_samples_leaf": 2}


class _StoppedError(Exception):
    pass


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record each training: the tracks that a model saw, and its settings."""
    runs: list[tuple[Any, ...]] = []
    real = module.train_once

    def record(store: Store, family: str, out: Path, settings: Any, *, split: str) -> Any:
        parts = np.array(store.split(split).parts)
        runs.append((split, np.flatnonzero(np.isin(parts, ["train", "validation"])), settings.seed, settings))
        return real(store, family, out, settings, split=split)

    monkeypatch.setattr(module, "train_once", record)
    return runs


def test_every_track_is_predicted_without_its_artist(store: Store, tmp_path: Path, trained: list) -> None:
    before = sorted(path.name for path in (store.folder / "splits").iterdir())
    result = cross_validate(store, tmp_path, ["boosting"], settings=QUICK, folds=3, seeds=[0, 1])
    assert (result.tracks, result.groups, result.disjoint) == (store.n_tracks, 25, "artist-disjoint")
    assert len(trained) == 6 and {run[2] for run in trained} == {0, 1}
    row = result.rows[0]
    assert len(row.levels[0].by_seed) == 2
    assert row.levels[0].accuracy == pytest.approx(np.mean(row.levels[0].by_seed))
    assert row.levels[0].ci95[0] <= row.levels[0].accuracy <= row.levels[0].ci95[1]
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(result.to_json()))
    assert sorted(path.name for path in (store.folder / "splits").iterdir()) == before  # the store is unchanged
    assert not list(tmp_path.rglob("bundle.json"))
    again = cross_validate(store, tmp_path, ["boosting"], settings=QUICK, folds=3, seeds=[0, 1])
    assert len(trained) == 6 and again == result
    other = cross_validate(store, tmp_path, ["boosting"], settings={**QUICK, "epochs": 2}, folds=3)
    assert len(trained) == 9 and other != result  # saved predictions of other settings are not used


def test_an_interrupted_run_continues(store: Store, tmp_path: Path, trained: list, monkeypatch: Any) -> None:
    real = module.train_once

    def stop(*words: Any, **options: Any) -> Any:
        if len(trained) == 2:
            raise _StoppedError
        return real(*words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_once", stop)
        with pytest.raises(_StoppedError):
            cross_validate(store, tmp_path, ["boosting"], settings=QUICK, folds=3)
    cross_validate(store, tmp_path, ["boosting"], settings=QUICK, folds=3)
    assert [run[0] for run in trained] == ["cv0-0", "cv0-1", "cv0-2"]


def test_nested_choices_see_no_test_track(store: Store, tmp_path: Path, trained: list) -> None:
    choices = {"epochs": [1, 4]}
    fixed = {name: value for name, value in QUICK.items() if name != "epochs"}
    result = cross_validate(
        store, tmp_path, ["boosting"], settings=fixed, choices=choices, folds=2, inner_folds=2, nested=True
    )
    outer = {f"cv0-{fold}": store.with_splits(module.make_folds(store, 2, 0)).split(f"cv0-{fold}") for fold in (0, 1)}
    assert len(trained) == 2 * (2 * 2 + 1)
    for name, tracks, _, _ in trained:
        tested = np.flatnonzero(np.array(outer[name[:5]].parts) == "test")
        groups = store.track_groups
        assert not set(groups[tracks]) & set(groups[tested])
    assert [row.name for row in result.rows] == ["nested"]
    for selection in result.selected:
        assert selection.inner[selection.chosen] == max(selection.inner.values())
    final = {run[0]: run[3].epochs for run in trained if "inner" not in run[0]}
    assert [f"boosting epochs={final[f'cv0-{each.fold}']}" for each in result.selected] == [
        each.chosen for each in result.selected
    ]
    text = format_cross_validation(result)
    assert "| nested | artist-disjoint |" in text and "Chosen within the training folds" in text
    assert result.rows[0].expected == pytest.approx(np.mean([each.inner[each.chosen] for each in result.selected]))


def test_predictions_are_those_of_a_model_trained_by_hand(store: Store, tmp_path: Path) -> None:
    from genretree.training.train import train

    split = module.make_folds(store, 3, 0)[1]
    candidate = build_candidates(["boosting"], QUICK)[0]
    found = module.predict_fold(store, split, candidate, 0, tmp_path, lambda count: None)
    view = store.with_splits([split])
    bundle = train(view, "boosting", tmp_path / "b", {**QUICK, "seed": 0}, split=split.name)
    data = slice_dataset(view, split, "test")
    levels = bundle.average_slices(predict_dataset(bundle.model, data), np.unique(data.tracks, return_inverse=True)[1])
    for one, other in zip(found.levels, levels, strict=True):
        np.testing.assert_allclose(one, other)


@pytest.fixture
def changing_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each trial of the precision `auto` choose another one than the trial before, as on a machine under load."""
    choices = cycle(["bf16", "float32"])
    monkeypatch.setattr(trainer, "choose_by_trial", lambda given, *_: next(choices) if given == "auto" else given)
    shrink_networks(monkeypatch)


NETWORK = {"epochs": 1, "image_size": 32, "batch_size": 64}


@pytest.mark.usefixtures("changing_trials")
def test_all_folds_are_trained_in_the_precision_of_the_first(
    store: Store, tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(_StoppedError):
        patch.setattr(module, "_make_row", _stop)
        cross_validate(store, tmp_path, ["cnn"], settings=NETWORK, folds=2)
    result = cross_validate(store, tmp_path, ["cnn"], settings=NETWORK, folds=2, seeds=[0, 1])
    assert [run[3].precision for run in trained] == ["auto", "bf16", "bf16", "bf16"]
    assert result.precision == {"cnn": ("bf16",)}
    assert json.loads((tmp_path / "results.json").read_text())["precision"] == {"cnn": ["bf16"]}
    assert "Precision of the training: cnn in bf16." in (tmp_path / "results.md").read_text()
    cross_validate(store, tmp_path, ["cnn"], settings={**NETWORK, "batch_size": 32}, folds=2)
    assert [run[3].precision for run in trained[4:]] == ["auto", "float32"], "the choice is of other settings"


def _stop(*arguments: Any) -> None:
    raise _StoppedError


def test_the_precision_of_members_is_fixed() -> None:
    members = {"cnn": {}, "ast": {"precision": "bf16"}, "boosting": {"epochs": 2}}
    settings = build_candidates(["ensemble"], {"members": members})[0].settings
    metadata = {"cnn": {"precision": "float32"}, "ast": {"precision": "bf16"}, "boosting": {}, "weights": {"cnn": 1.0}}
    chosen = module._trained_precision(metadata)
    assert chosen == {"cnn": "float32", "ast": "bf16"}
    fixed = module._fix_precision(settings, chosen)
    assert fixed.members == {**members, "cnn": {"precision": "float32"}}  # type: ignore[attr-defined]


def test_mistakes_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least one recipe"):
        cross_validate(store, tmp_path, [])
    with pytest.raises(SettingsError, match="must be a list"):
        build_candidates(["boosting"], choices={"epochs": 3})  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match="unknown setting"):
        build_candidates(["boosting"], choices={"epoch": [3]})
    with pytest.raises(SettingsError, match="inner_folds"):
        cross_validate(store, tmp_path, ["boosting"], nested=True, inner_folds=1)
    with pytest.raises(CorpusError, match="26 folds need"):
        cross_validate(store, tmp_path, ["boosting"], folds=26)


def test_candidates_of_one_name_are_refused(store: Store, tmp_path: Path) -> None:
    files = [tmp_path / name / "same.yaml" for name in ("a", "b")]
    for components, path in enumerate(files, 6):
        path.parent.mkdir()
        described = "summary: s\ndata: d\ncommand: [c]\ntime: t\n"
        path.write_text(f"{described}family: boosting\nsettings:\n  components: {components}\n")
    with pytest.raises(SettingsError, match="several candidates would be named 'same'"):
        cross_validate(store, tmp_path / "CV", [str(path) for path in files], settings=QUICK)
    with pytest.raises(SettingsError, match="several candidates would be named 'boosting epochs=3'"):
        build_candidates(["boosting"], choices={"epochs": [3, 3]})
    assert not list((tmp_path / "CV").rglob("*"))


@pytest.mark.parametrize("seeds", [[], [-1], [0, 0], [2**32]])
def test_seeds_are_different_numbers(store: Store, tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(SettingsError, match="different whole numbers"):
        cross_validate(store, tmp_path, ["boosting"], seeds=seeds)


@pytest.mark.parametrize("given", [{"settings": {"seed": 3}}, {"choices": {"seed": [1, 2]}}])
def test_the_seed_is_not_a_setting_to_choose(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="sets 'seed'; name the seeds in `seeds`"):
        build_candidates(["boosting"], **given)


def test_each_fold_is_decoded_with_its_own_heads(store: Store) -> None:
    rng = np.random.default_rng(0)
    tracks = np.arange(store.n_tracks)
    levels = [
        rng.dirichlet(np.full(len(store.taxonomy.nodes(i)), 0.2), len(tracks)) for i in range(store.taxonomy.depth)
    ]
    halves = [tracks[::2], tracks[1::2]]
    parts = [
        FoldPredictions(half, [level[half] for level in levels], np.full(len(half), heads == "independent"))
        for half, heads in zip(halves, ("independent", "tree"), strict=True)
    ]
    predicted = FoldPredictions.join(parts).predicted(store)
    for half, heads in zip(halves, ("independent", "tree"), strict=True):
        expected = decode_levels(store.taxonomy, heads, [level[half] for level in levels])
        np.testing.assert_array_equal(predicted[half], expected)


def test_the_command_prints_json_and_a_table(store: Store, tmp_path: Path) -> None:
    words = ["cross-validate", str(store.folder), "--recipe", "boosting", "--out", str(tmp_path), "--folds", "2"]
    words += [text for name, value in QUICK.items() for text in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(main, [*words, "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["rows"][0]["name"] == "boosting"
    result = CliRunner().invoke(main, [*words, "--quiet"])
    assert "| boosting | artist-disjoint |" in result.output
    result = CliRunner().invoke(main, [*words, "--seeds", "a"])
    assert result.exit_code == 1 and "--seeds must be whole numbers" in result.output
    result = CliRunner().invoke(main, [*words, "--choose", "seed=[1,2]"])
    assert result.exit_code == 1 and "name the seeds in --seeds" in result.output
    for seed in ("-1", "0,4294967296"):
        result = CliRunner().invoke(main, [*words, "--seeds", seed])
        assert result.exit_code == 1 and "seeds must be different whole numbers from 0 to 4294967295" in result.output
