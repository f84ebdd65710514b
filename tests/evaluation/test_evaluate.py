from __future__ import annotations

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from genretree.bundle.bundle import Bundle
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.splits import split_slices
from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.evaluation import plots
from genretree.evaluation.evaluate import compare_evaluations, evaluate
from genretree.evaluation.report import data_url, save_evaluation, write_report
from genretree.metrics.calibration import average_by
from genretree.metrics.intervals import accuracy_interval
from genretree.metrics.scores import score_units
from genretree.settings import ImageSettings
from genretree.taxonomy import Taxonomy
from genretree.training.train import train
from small_corpus import SETTINGS, TREE, write_corpus

pytestmark = pytest.mark.slow

CCMUSIC = Taxonomy.builtin()


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = {"epochs": 15, "image_size": 16, "components": 20, "min_samples_leaf": 5}
    return train(store, "boosting", tmp_path_factory.mktemp("bundle") / "b", settings)


def _random_case(seed: int = 0, n: int = 300) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    leaves = rng.integers(0, 16, n)
    probabilities = rng.dirichlet(np.ones(16), n) + 0.4 * np.eye(16)[leaves]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return CCMUSIC.sum_levels(probabilities), leaves, np.repeat(np.arange(n // 10), 10)


def test_accuracy_and_macro_f1_are_scikit_learns() -> None:
    levels, leaves, groups = _random_case()
    found = score_units(CCMUSIC, "tree", levels, leaves, groups, 0)
    predicted = CCMUSIC.ancestors[CCMUSIC.decode(levels)]
    truth = CCMUSIC.ancestors[leaves]
    for i, level in enumerate(found.levels):
        assert level.accuracy == pytest.approx(accuracy_score(truth[:, i], predicted[:, i]))
        assert level.macro_f1 == pytest.approx(f1_score(truth[:, i], predicted[:, i], average="macro"))
        assert np.sum(level.confusion) == len(leaves)
        assert level.ci95[0] < level.accuracy < level.ci95[1]
    assert found.overall == pytest.approx(np.mean([level.accuracy for level in found.levels]))
    assert found.contradictions == 0


def test_independent_heads_are_caught_contradicting_themselves() -> None:
    rng = np.random.default_rng(0)
    levels = [rng.dirichlet(np.ones(width), 200) for width in (2, 9, 16)]
    leaves = rng.integers(0, 16, 200)
    found = score_units(CCMUSIC, "independent", levels, leaves, leaves, 0)
    assert found.contradictions > 0.5
    assert score_units(CCMUSIC, "tree", levels, leaves, leaves, 0).contradictions == 0


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _trial in range(120):
        chance = np.clip(rng.normal(0.7, 0.15, 40), 0, 1)  # artists differ
        groups = np.repeat(np.arange(40), 8)
        low, high = accuracy_interval(rng.random(320) < np.repeat(chance, 8), groups)
        covered.append(low <= 0.7 <= high)
    assert 0.88 <= np.mean(covered) <= 1.0


def test_tracks_of_one_artist_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    right = np.repeat(rng.random(20) < 0.6, 10)  # an artist is wholly right or wholly wrong
    by_artist = accuracy_interval(right, np.repeat(np.arange(20), 10))
    by_track = accuracy_interval(right, np.arange(200))
    assert by_artist[1] - by_artist[0] > 2 * (by_track[1] - by_track[0])


def test_an_interval_is_honest_where_all_tracks_are_right() -> None:
    groups = np.repeat(np.arange(10), 3)
    low, high = accuracy_interval(np.ones(30, bool), groups)
    assert 0.6 < low < 0.8
    assert high == pytest.approx(1)
    assert accuracy_interval(np.ones(30, bool), np.zeros(30, int)) == (0.0, 1.0)


def test_slices_are_averaged_by_track() -> None:
    values = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    np.testing.assert_allclose(average_by(values, np.array([0, 0, 1, 0]), 2), [[2 / 3, 1 / 3], [0.5, 0.5]])


def test_track_probabilities_are_means_that_are_calibrated(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    levels = [rng.dirichlet(np.ones(len(bundle.taxonomy.nodes(level))), 5) for level in range(bundle.taxonomy.depth)]
    together = bundle.average_slices(levels, np.array([1, 0, 1, 1, 0]))
    first = bundle.average_slices([level[[1, 4]] for level in levels])
    by_hand = bundle.calibrate([level[[1, 4]].mean(axis=0, keepdims=True) for level in levels], "track")
    for every, one, expected in zip(together, first, by_hand, strict=True):
        np.testing.assert_array_equal(every[:1], one)
        np.testing.assert_array_equal(one, expected)


def test_the_test_part_has_unseen_artists(bundle: Bundle, store: Store) -> None:
    found = evaluate(bundle, store)
    assert found.known_tracks == found.known_groups == 0
    assert "disjoint by artist" in found.protocol
    assert found.disjoint == "artist-disjoint"
    assert found.track.n == store.split().parts.count("test")
    assert found.slice.n == len(store.rows("test"))
    assert found.track.levels[0].accuracy > 0.7
    assert [level.name for level in found.track.levels] == ["level_1", "level_2", "level_3"]


def test_music_seen_in_training_is_called_out(bundle: Bundle, store: Store) -> None:
    assert evaluate(bundle, store, part="train").protocol.startswith("LEAKING")
    assert evaluate(bundle, store, part="train").disjoint == "LEAKING"
    assert evaluate(bundle, store, part="all").protocol.startswith("LEAKING")


def test_it_does_not_claim_what_it_cannot_know(bundle: Bundle, tmp_path: Path) -> None:
    csv_path = write_corpus(
        tmp_path / "music", artists=1, tracks=1, seconds=5.0
    )  # artists of the training, other files
    by_artist = prepare(read_manifest(csv_path, TREE, group="artist"), tmp_path / "a", SETTINGS, workers=1)
    assert "of their groups (artist) are in it" in evaluate(bundle, by_artist, part="all").protocol
    by_track = prepare(read_manifest(csv_path, TREE, group="track"), tmp_path / "t", SETTINGS, workers=1)
    assert "is unknown" in evaluate(bundle, by_track, part="all").protocol
    stripped = replace(bundle, training={})
    assert evaluate(stripped, by_artist, part="all").protocol.startswith("unknown")


def test_a_slice_level_split_is_called_out(store: Store, tmp_path: Path) -> None:
    split_slices(store.track_leaves[store.slice_tracks], name="leaky").save(store.folder / "splits")
    settings = {"epochs": 3, "image_size": 16, "components": 20}
    leaky = train(store, "boosting", tmp_path / "b", settings, split="leaky")
    found = evaluate(leaky, store)
    assert found.split == "leaky"
    assert found.protocol.startswith("LEAKING")


def test_another_store_is_scored_by_names(bundle: Bundle, tmp_path: Path) -> None:
    csv_path = write_corpus(tmp_path / "music", artists=1, tracks=1, seconds=4.0)
    text = csv_path.read_text().replace("artist 0", "stranger")
    csv_path.write_text(text)
    for tree in (TREE, None):  # without a tree the store's is flat, in another order
        other = prepare(read_manifest(csv_path, tree), tmp_path / f"store-{tree is None}", SETTINGS, workers=1)
        found = evaluate(bundle, other, part="all")
        assert found.track.n == 5
        assert found.track.levels[2].confusion == evaluate(bundle, other, part="all").track.levels[2].confusion
        assert [item.support for item in found.track.levels[2].classes] == [1, 1, 1, 1, 1]


def test_stores_that_do_not_fit_are_refused(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    csv_path = write_corpus(tmp_path / "music", artists=1, tracks=1, seconds=4.0)
    smaller = prepare(
        read_manifest(csv_path, TREE),
        tmp_path / "small",
        ImageSettings.build({"size": 32, "slice_seconds": 2}),
        workers=1,
    )
    with pytest.raises(CorpusError, match="prepare it again"):
        evaluate(bundle, smaller, part="all")
    csv_path.write_text(csv_path.read_text().replace(",Noise,", ",Polka,"))
    strange = prepare(read_manifest(csv_path), tmp_path / "strange", SETTINGS, workers=1)
    with pytest.raises(CorpusError, match="Polka"):
        evaluate(bundle, strange, part="all")
    with pytest.raises(CorpusError, match="no split named 'none'"):
        evaluate(bundle, store, split="none")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.alts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "img":
            self.alts.append(found.get("alt") or "")


def test_metrics_and_report_are_written(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    evaluation = evaluate(bundle, store)
    report = save_evaluation(evaluation, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for unit in ("slice", "track"):
        for level in metrics[unit]["levels"]:
            assert {"name", "accuracy", "macro_f1", "ci95"} <= set(level)
            assert len(level["ci95"]) == 2
    assert metrics["training"]["split"]["protocol"] == "group"
    page = _Page()
    page.feed(report.read_text(encoding="utf-8"))
    assert len(page.alts) >= 6
    assert all(page.alts)
    assert all(link.startswith(("data:", "#")) for link in page.links), "the page must work without a network"
    pngs = list((tmp_path / "out").glob("confusion-*.png"))
    assert len(pngs) == 6
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pngs)


def test_tracks_csv_lists_every_track_with_errors_first(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    evaluation = evaluate(bundle, store)
    save_evaluation(evaluation, tmp_path / "out", store)
    rows = list(csv.DictReader((tmp_path / "out" / "tracks.csv").open(encoding="utf-8")))
    assert len(rows) == evaluation.track.n
    assert [row["right"] for row in rows] == sorted(row["right"] for row in rows)
    assert np.mean([int(row["right"]) for row in rows]) == pytest.approx(evaluation.track.levels[-1].accuracy)
    wrong = [float(row["true_probability"]) for row in rows if row["right"] == "0"]
    assert wrong == sorted(wrong)
    assert {row["cut_by"] for row in rows} == {"artist-disjoint"}
    for outcome in evaluation.outcomes:
        assert store.tracks["path"][store.slice_tracks[outcome.row]] == outcome.name


def test_bundles_are_compared_on_the_same_music_only(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    worse = train(store, "boosting", tmp_path / "b", {"epochs": 1, "image_size": 16, "components": 3})
    first, second = evaluate(bundle, store), evaluate(worse, store)
    found = compare_evaluations(first, second)
    for unit in ("slice", "track"):
        for item, one, other in zip(
            found[unit], getattr(first, unit).levels, getattr(second, unit).levels, strict=True
        ):
            assert item.difference == pytest.approx(one.accuracy - other.accuracy)
    save_evaluation(first, tmp_path / "out", store, (second, found))
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["against"]["differences"]["track"][0]["name"] == "level_1"
    with pytest.raises(CorpusError, match="different music"):
        compare_evaluations(first, evaluate(worse, store, part="validation"))


def test_a_report_shows_several_models_and_escapes_names(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    evaluation = evaluate(bundle, store)
    report = write_report([evaluation, evaluation], tmp_path / "r.html", "<b>two</b>")
    text = report.read_text(encoding="utf-8")
    assert text.count(">b (boosting)</h2>") == 2
    assert "&lt;b&gt;two" in text


def test_artists_that_nobody_knows_are_not_called_disjoint(bundle: Bundle, tmp_path: Path) -> None:
    csv_path = write_corpus(tmp_path / "music", artists=1, tracks=1, seconds=5.0)
    csv_path.write_text(csv_path.read_text().replace("Drone artist 0", ""))
    nameless = prepare(read_manifest(csv_path, TREE, group="artist"), tmp_path / "s", SETTINGS, workers=1)
    csv_path.write_text(csv_path.read_text().replace("artist 0", "stranger"))
    strangers = prepare(read_manifest(csv_path, TREE, group="artist"), tmp_path / "t", SETTINGS, workers=1)
    for store in (nameless, strangers):
        found = evaluate(bundle, store, part="all")
        assert found.disjoint == "file-disjoint"
    assert "the artist of 1 of these tracks" in evaluate(bundle, strangers, part="all").protocol


def test_a_level_name_is_not_used_as_a_path(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    names = Taxonomy(bundle.taxonomy.leaves, ("../a", "b/c", "d"))
    save_evaluation(evaluate(replace(bundle, taxonomy=names), store), tmp_path / "out")
    assert not list(tmp_path.glob("*.png"))
    assert len(list((tmp_path / "out").glob("confusion-*.png"))) == 6


def test_a_plot_that_is_shown_twice_is_rendered_once(
    bundle: Bundle, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    draw = plots.to_png
    monkeypatch.setattr(plots, "to_png", lambda figure: drawn.append(figure) or draw(figure))
    for kept in ("counts", "history", "reliability", "coverage"):
        getattr(plots, f"_draw_{kept}").cache_clear()
    evaluation = evaluate(bundle, store)
    save_evaluation(evaluation, tmp_path, store)
    write_report([evaluation], tmp_path / "again.html", store=store)
    assert len(drawn) == 2 * len(TREE.levels) + 3  # by track and by slice; reliability, coverage and history
    assert data_url((tmp_path / f"confusion-track-{TREE.levels[0]}.png").read_bytes()) in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")
