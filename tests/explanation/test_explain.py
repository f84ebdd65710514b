"""Explanations: models with known attributions, every family, planted ground truth, and pages with a player."""

from __future__ import annotations

import csv
import html
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from click.testing import CliRunner
from torch import nn

from browsers import open_chromium
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.export import export_bundle
from genretree.cli import main
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.datasets.composed.compose import ComposeSettings
from genretree.datasets.composed.planted import compose_planted
from genretree.errors import BundleError, CorpusError, SettingsError, SoundError, TaxonomyError
from genretree.explanation import explain, perturb
from genretree.explanation.baseline import compute_baseline
from genretree.explanation.coordinates import STEPS, frequency_axis, gather_pixels, spread_mask
from genretree.explanation.evaluate.faithfulness import measure_curves, shuffle_weights
from genretree.explanation.genre.page import save_genre
from genretree.explanation.genre.view import view_genre
from genretree.explanation.methods import occlusion
from genretree.explanation.methods.band_occlusion import add_noise
from genretree.explanation.methods.gradients import gradcam, integrated_gradients
from genretree.explanation.methods.occlusion import cells, gather_cells, occlude, spread_cells
from genretree.explanation.methods.registry import choose_method
from genretree.explanation.methods.shapley import compute_shapley_values, shapley_weights, subsets
from genretree.explanation.render.clips import keep_bands, relevant_bands
from genretree.explanation.render.page import save_explanation
from genretree.explanation.similar.neighbours import build_index
from genretree.explanation.slices import TrackSlices, read_file, read_track, score
from genretree.explanation.survey import survey
from genretree.explanation.target import find_node, make_target, targets_of_path
from genretree.models import family_names
from genretree.models.families import efficientnet
from genretree.models.families.cnn import CnnSettings
from genretree.models.neural.network import GenreNetwork, NetworkModel, build_head
from genretree.models.pretrained import musicnn_features
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.encode import encode_ogg
from genretree.sound.features import Inputs
from genretree.sound.spectra import compute_spectra
from genretree.taxonomy import Taxonomy
from genretree.training.train import train
from small_checkpoints import write_checkpoint
from small_corpus import SETTINGS, TREE, synthesise
from small_weights import write_musicnn

pytestmark = pytest.mark.slow

QUICK: dict[str, dict[str, Any]] = {
    "cnn": {"epochs": 2, "image_size": 32, "learning_rate": 2e-3, "precision": "float32"},
    "efficientnet-b0": {
        "epochs": 2,
        "image_size": 32,
        "weights": "none",
        "learning_rate": 3e-3,
        "batch_size": 8,
        "precision": "float32",
    },
    "ast": {"epochs": 1, "image_size": 32, "batch_size": 64, "precision": "float32", "n_tta_shifts": 2},
    "boosting": {"epochs": 4, "image_size": 16, "components": 10, "min_samples_leaf": 5, "features": ["components"]},
    "musicnn": {"patches": 1, "layers": [["penultimate", "images"]], "Cs": [0.1]},
    "ensemble": {"folds": 2},
    "backbone": {"Cs": [0.1]},
}
EXPLAINED = [name for name in family_names() if name != "tagger"]  # its only input, mel_32k, has no view
PAIR = Taxonomy.from_nested(["With", "Without"])


@pytest.fixture(scope="module", autouse=True)
def quick_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give pretrained families random weights, MusiCNN short patches, and EfficientNet fewer layers."""
    QUICK["musicnn"]["weights"] = str(write_musicnn(tmp_path_factory.mktemp("weights")))
    QUICK["backbone"]["backbone"] = str(write_checkpoint(tmp_path_factory.mktemp("backbones") / "maest", "maest"))
    QUICK["ensemble"]["members"] = {name: QUICK[name] for name in ("musicnn", "boosting")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicnn_features, "PATCH_FRAMES", 24)
        thin = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}
        patch.setattr(efficientnet, "_B0", {**efficientnet._B0, **thin})
        yield


@pytest.fixture(scope="module")
def bundles(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A briefly trained bundle of each family."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: train(store, name, folder / name, QUICK[name]) for name in EXPLAINED}


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    sf.write(path, np.concatenate([synthesise("Drone", 1, 5.0), synthesise("Fast_beat", 2, 4.5)]), SAMPLE_RATE)
    return path


class BrightnessModel:
    """A model with known attributions: log odds of the first of two genres are a weighted sum of pixels."""

    heads = "tree"
    input_features = ("images",)

    def __init__(self, weights: np.ndarray, constant: bool = False) -> None:
        self.weights = weights  # (3, size, size)
        self.constant = constant

    def predict_proba(self, inputs: Inputs) -> list[np.ndarray]:
        images = inputs["images"]
        odds = 0 * images.mean(axis=(1, 2, 3)) if self.constant else (images * self.weights).sum(axis=(1, 2, 3))
        probabilities = 1 / (1 + np.exp(-odds))
        return [np.stack([probabilities, 1 - probabilities], axis=1)]

    def save(self, folder: Path) -> list[str]:
        return []


def _bundle(model: Any, size: int = 64) -> Bundle:
    images = ImageSettings.build({"slice_seconds": 2.0, "size": size})
    return Bundle(
        folder=Path("nowhere"), family="known", taxonomy=PAIR, images=images, settings=CnnSettings.build(), model=model
    )


def make_slices(n: int = 2, size: int = 64, seed: int = 0) -> TrackSlices:
    images = np.random.default_rng(seed).integers(60, 256, (n, 3, size, size), dtype=np.uint8)
    images[:, :, :, ::2] //= 4
    return TrackSlices("noise", images, {}, np.arange(n) * 2.0, 2.0)


WHY = make_target(PAIR, 0, 0)


# -- axes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hertz", [220.0, 880.0, 3000.0])
def test_tone_peaks_in_the_row_of_its_frequency(hertz: float, tmp_path: Path) -> None:
    sf.write(
        tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * hertz * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE), SAMPLE_RATE
    )
    track_slices = read_file(_bundle(BrightnessModel(np.zeros((3, 64, 64)))), tmp_path / "tone.wav")
    for number, view in ((0, "mel"), (1, "cqt")):
        axis = frequency_axis(view)  # type: ignore[arg-type]
        rows = gather_pixels(track_slices.images[:1, number].astype(np.float32), view)[0].sum(axis=1)  # type: ignore[arg-type]
        peak = int((rows / np.diff(np.linspace(0, 1, axis.rows + 1))).argmax())
        a_pixel = axis.rows / 64 + 1  # an image of 64 pixels is no finer than that
        assert abs(np.searchsorted(axis.edges, hertz) - 1 - peak) <= a_pixel, view
    assert frequency_axis("cqt").names[45] == "A4"
    assert frequency_axis("cqt").edges[45] < 440 < frequency_axis("cqt").edges[46]
    assert track_slices.decibels is not None
    assert track_slices.decibels[0, 0, 1] == pytest.approx(0, abs=0.5)


def test_resampling_to_rows_and_parts_preserves_sums() -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 50, 50)).astype(np.float32)
    for view in ("mel", "cqt", "chroma"):
        rows = gather_pixels(pixels, view)  # type: ignore[arg-type]
        assert rows.shape == (2, frequency_axis(view).rows, STEPS)  # type: ignore[arg-type]
        np.testing.assert_allclose(rows.sum(axis=(1, 2)), pixels.sum(axis=(1, 2)), atol=1e-3)
        parts = gather_cells(rows, view)  # type: ignore[arg-type]
        np.testing.assert_allclose(gather_cells(spread_cells(parts, view), view), parts, atol=1e-4)  # type: ignore[arg-type]
        assert (cells(view).sum(axis=0) == 1).all()  # type: ignore[arg-type]
        assert spread_mask(cells(view), 50).sum(axis=0) == pytest.approx(1, abs=1e-5)  # type: ignore[arg-type]


# -- targets -------------------------------------------------------------------------------------------------------


def test_a_node_is_found_by_its_name_or_path() -> None:
    for name in (
        "slow beat",
        "Beat/Slow_beat",
        "Busy > Beat > slow-beat",
        ("Slow_beat",),
        ["Busy", "Beat", "Slow beat"],
    ):
        level, index = find_node(TREE, name)
        assert TREE.nodes(level)[index] == ("Busy", "Beat", "Slow_beat")
    tree = Taxonomy.from_nested({"Calm": ["Noise"], "Busy": ["Noise"]})
    assert find_node(tree, ("Busy", "Noise")) == find_node(tree, "Busy > Noise")
    for path in (("Calm", "Beat"), ()):
        with pytest.raises(TaxonomyError, match=f"'{' > '.join(path)}' is not a node of the tree"):
            find_node(TREE, path)


def test_node_is_contrasted_with_its_siblings() -> None:
    level, index = find_node(TREE, "slow beat")
    assert TREE.nodes(level)[index] == ("Busy", "Beat", "Slow_beat")
    assert make_target(TREE, level, index).question == "why Slow_beat and not Fast_beat"
    assert make_target(TREE, 0, 1, "Bells").against == (("Calm", "Bells"),)
    levels = [np.array([[0.25, 0.75]])]
    assert WHY.log_odds(levels)[0] == pytest.approx(np.log(1 / 3))
    assert [target.node for target in targets_of_path(TREE, [0, 0, 0])] == [("Calm",), ("Calm", "Drone")]


@pytest.mark.parametrize(
    ("node", "against", "message"),
    [
        ("Slow_baet", None, "did you mean 'Slow_beat'"),
        ("Beat", "Slow_beat", "one contains the other"),
        ("", None, "nodes"),
    ],
)
def test_invalid_nodes_are_rejected(node: str, against: str | None, message: str) -> None:
    with pytest.raises(TaxonomyError, match=message):
        make_target(TREE, *find_node(TREE, node), against)


# -- models with known attributions ----------------------------------------------------------------------------------


def test_shapley_values_match_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    views = ("mel", "cqt", "chroma")
    worth = dict(zip(subsets(views), np.random.default_rng(0).normal(size=8), strict=True))

    def play(players: torch.Tensor) -> torch.Tensor:
        return torch.tensor([worth[frozenset(np.array(views)[row.bool().numpy()].tolist())] for row in players])

    theirs = captum.ShapleyValues(play).attribute(torch.ones(1, 3))  # over all 6 orders
    ours = shapley_weights(views) @ np.array([worth[some] for some in subsets(views)])
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-6)
    assert ours.sum() == pytest.approx(worth[frozenset(views)] - worth[frozenset()])


def test_occlusion_recovers_linear_weights_and_is_additive() -> None:
    weights = np.zeros((3, 64, 64))
    weights[1, 16:32, 32:] = 2e-4  # CQT: second quarter of the rows from above, second half of the time
    bundle, track_slices = _bundle(BrightnessModel(weights)), make_slices()
    baseline = compute_baseline(track_slices)
    shapley_values = compute_shapley_values(bundle, track_slices, baseline, [WHY])
    assert shapley_values.views == ("cqt",)
    np.testing.assert_allclose(shapley_values.values.sum(axis=2), shapley_values.full - shapley_values.none, atol=1e-9)
    maps = occlude(bundle, track_slices, baseline, [WHY], ("mel", "cqt", "chroma"), exhaustive=True)
    assert not maps["mel"].any()
    assert not maps["chroma"].any()
    np.testing.assert_allclose(maps["cqt"].sum(axis=(2, 3)), shapley_values.full - shapley_values.none, rtol=0.02)
    magnitude = np.abs(maps["cqt"][0, 0])
    assert magnitude[36:72, 24:].sum() > 0.98 * magnitude.sum(), "third quarter of the rows, second half of the time"
    at_random = occlude(bundle, track_slices, baseline, [WHY], ("mel", "cqt", "chroma"), masks=300)
    assert np.corrcoef(at_random["cqt"].ravel(), maps["cqt"].ravel())[0, 1] > 0.8


def test_coarse_parts_are_divided_where_the_relevance_is(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.zeros((3, 64, 64))
    weights[0, 16:24, 24:32] = 3e-4  # one of 64 parts of mel: the sixth band, the fourth time
    bundle, track_slices = _bundle(BrightnessModel(weights)), make_slices(1)
    scored: list[int] = []
    log_odds = perturb.log_odds

    def count(*words: Any) -> Any:
        scored.append(len(words[-1]))
        return log_odds(*words)

    monkeypatch.setattr(perturb, "log_odds", count)
    views = ("mel", "cqt", "chroma")
    for exhaustive in (True, False):
        maps = occlude(bundle, track_slices, compute_baseline(track_slices), [WHY], views, exhaustive=exhaustive)  # type: ignore[arg-type]
        strongest = int(np.abs(gather_cells(maps["mel"][0, 0], "mel")).argmax())
        assert strongest == 5 * 8 + 3
    assert sum(scored) == (1 + 168) + (1 + 42) + (1 + 4)
    assert max(scored) <= 16, "threads would wait for the last part"
    assert (np.bincount(occlusion.parents("chroma")) == 4).all()


def test_map_of_constant_model_is_zero() -> None:
    bundle, track_slices = _bundle(BrightnessModel(np.zeros((3, 64, 64)), constant=True)), make_slices()
    maps = occlude(bundle, track_slices, compute_baseline(track_slices), [WHY], ("mel", "cqt", "chroma"))
    assert not any(values.any() for values in maps.values())


def test_true_map_beats_other_orders_in_deletion_and_insertion() -> None:
    weights = np.zeros((3, 64, 64))
    weights[0, 8:24, 8:24] = 5e-4
    bundle, track_slices = _bundle(BrightnessModel(weights)), make_slices()
    baseline = compute_baseline(track_slices)
    maps = occlude(bundle, track_slices, baseline, [WHY], ("mel", "cqt", "chroma"))
    curves = measure_curves(bundle, track_slices, baseline, WHY, maps)
    for order in ("random", "energy", "edges"):
        assert curves["map"][0].sum() < curves[order][0].sum()
        assert curves["map"][1].sum() > curves[order][1].sum()
        np.testing.assert_allclose(curves[order][:, [0, -1]], curves["map"][:, [0, -1]])
    np.testing.assert_allclose(curves["map"][0, [0, -1]], curves["map"][1, [-1, 0]])
    wrong = measure_curves(bundle, track_slices, baseline, WHY, {view: -values for view, values in maps.items()})
    assert wrong["map"][0].sum() > curves["random"][0].sum()


def test_deletion_and_insertion_curves_match_quantus() -> None:
    """Values of `benchmarks/faithfulness_reference.py`: probabilities after each part, in the order of the map."""
    reference = json.loads((Path(__file__).parents[1] / "data" / "quantus_pixel_flipping.json").read_text())
    size = reference["size"]
    parts = cells("chroma").astype(np.float64)
    weights = np.zeros((3, size, size))
    weights[2] = np.tensordot(reference["weights"], spread_mask(cells("chroma"), size), axes=1) / size**2
    images = np.full((1, 3, size, size), reference["slice"], np.uint8)
    track_slices = replace(make_slices(1, size), images=images)
    baseline = replace(track_slices, images=np.full_like(images, reference["baseline"]))
    relevance = np.tensordot(reference["relevance"], parts, axes=1)[None, None].astype(np.float32)
    curves = measure_curves(
        _bundle(BrightnessModel(weights), size), track_slices, baseline, WHY, {"chroma": relevance}
    )["map"]
    areas = parts.mean(axis=(1, 2))[np.argsort(reference["relevance"])[::-1]]
    removed = np.searchsorted(np.cumsum(areas), np.linspace(0, 1, len(curves[0])) + 1e-6)
    np.testing.assert_allclose(curves[0], np.array(reference["deletion"])[removed], atol=1e-6)
    np.testing.assert_allclose(curves[1], np.array(reference["insertion"])[removed], atol=1e-6)
    assert np.ptp(curves[0]) > 0.5


class Pooling(nn.Module):
    """A convolutional backbone whose last layer fires where the mel image is bright."""

    width = 1

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.AvgPool2d(8)
        self.norm = nn.Conv2d(3, 1, 1, bias=False)
        self.norm.weight.data = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.stages(images))).mean(dim=(2, 3))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([3 * features, -3 * features], dim=1)


@pytest.mark.parametrize("n_tta_shifts", [1, 2])
def test_gradcam_peaks_at_a_planted_pattern_and_is_additive(n_tta_shifts: int) -> None:
    pytest.importorskip("captum")
    settings = CnnSettings.build({"image_size": 64, "n_tta_shifts": n_tta_shifts})
    model = NetworkModel(GenreNetwork(Pooling(), build_head(PAIR, settings), settings))
    track_slices = make_slices(1)
    track_slices.images[:] = 140  # slightly above the value that the network maps to 0
    track_slices.images[0, 0, 8:16, 40:48] = 255
    baseline = replace(track_slices, images=np.full_like(track_slices.images, 140))
    found = gradcam(model, PAIR, track_slices, baseline, [WHY], False)
    row, step = np.unravel_index(found["mel"][0, 0].argmax(), found["mel"].shape[2:])
    assert 64 * (1 - 16 / 64) - 2 <= row <= 64 * (1 - 8 / 64) + 2
    assert 40 / 64 * STEPS - 2 <= step <= 48 / 64 * STEPS + 2
    assert abs(found["cqt"]).max() < 1e-6
    odds = [WHY.log_odds(model.predict_proba({"images": some.images}))[0] for some in (track_slices, baseline)]
    assert found["mel"].sum() == pytest.approx(odds[0] - odds[1], abs=1e-3)


# -- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_family_can_be_explained(name: str, bundles: dict[str, Bundle], store: Store) -> None:
    explanation = explain(bundles[name], "#3", store=store)
    assert explanation.method == "occlusion"
    assert [line.node for line in explanation.timelines] == [
        explanation.prediction.path[: cut + 1] for cut in range(len(explanation.prediction.path))
    ]
    for reason in explanation.reasons:
        parts = sum(reason.shares.values())
        np.testing.assert_allclose(parts, reason.log_odds - reason.baseline, atol=1e-5)
        for relevance in reason.maps:
            assert relevance.values.shape == (4, relevance.axis.rows, STEPS)
            assert np.isfinite(relevance.values).all()
        if max(np.abs(values).max() for values in reason.shares.values()) > 1e-4:  # more than rounding
            assert any(relevance.values.any() for relevance in reason.maps)
    views = {relevance.view for relevance in explanation.reasons[0].maps}
    assert ("mel_16k" in views) == (name in ("musicnn", "ensemble", "backbone"))
    assert json.loads(json.dumps(explanation.to_json()))["reasons"][0]["node"] == [explanation.prediction.path[0]]


def test_model_with_one_view_has_one_share(store: Store, tmp_path: Path) -> None:
    bundle = train(store, "boosting", tmp_path / "b", {**QUICK["boosting"], "modalities": ["cqt"]})
    assert set(explain(bundle, "#0", store=store).reasons[0].shares) == {"cqt"}


def test_integrated_gradients_are_complete(bundles: dict[str, Bundle], store: Store) -> None:
    pytest.importorskip("captum")
    bundle = bundles["cnn"]
    track_slices = read_track(bundle, store, 5).select(slice(0, 1))
    baseline = compute_baseline(track_slices)
    target = make_target(TREE, 0, 0)
    maps = integrated_gradients(bundle.model, TREE, track_slices, baseline, [target], False)
    odds = [target.log_odds(score(bundle, slices))[0] for slices in (track_slices, baseline)]
    assert sum(values.sum() for values in maps.values()) == pytest.approx(odds[0] - odds[1], rel=0.1, abs=0.02)


def test_rollout_sums_to_one(bundles: dict[str, Bundle], store: Store) -> None:
    explanation = explain(bundles["ast"], "#3", store=store, method="rollout")
    for reason in explanation.reasons:
        values = np.concatenate([relevance.values.reshape(4, -1) for relevance in reason.maps], axis=1)
        assert (values >= 0).all()
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-3)


def test_linear_probe_has_gradient_maps(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    settings = {**QUICK["cnn"], "epochs": 1, "classifier": "linear", "Cs": [0.01]}
    bundle = train(store, "cnn", tmp_path / "linear", settings)
    for method in ("gradcam", "integrated-gradients"):
        explanation = explain(bundle, "#3", store=store, method=method, level=1)
        assert len(explanation.reasons) == 1
        assert any(relevance.values.any() for relevance in explanation.reasons[0].maps)


def test_exported_bundle_matches_pytorch_where_weights_are_needed(
    bundles: dict[str, Bundle], store: Store, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("captum")
    folder = shutil.copytree(bundles["cnn"].folder, tmp_path / "cnn")
    export_bundle(folder, "openvino")
    assert build_index(folder, store) > 20
    exported = load_bundle(folder, "auto")
    assert "openvino" in exported.runtime
    by_torch = explain(load_bundle(folder), "#0", store=store, method="gradcam", check=True)
    explanation = explain(exported, "#0", store=store, method="gradcam", check=True)
    for one, other in zip(explanation.reasons, by_torch.reasons, strict=True):
        for mine, theirs in zip(one.maps, other.maps, strict=True):
            np.testing.assert_allclose(mine.values, theirs.values, atol=1e-3)
    assert explanation.neighbours == by_torch.neighbours
    assert explanation.check is not None and by_torch.check is not None
    # Shuffled weights give an unrelated map, up to chance; inaudible noise leaves the map unchanged.
    assert abs(explanation.check["randomised_weights"]) < 0.7 < explanation.check["inaudible_noise"]
    assert explanation.check["randomised_weights"] == pytest.approx(by_torch.check["randomised_weights"], abs=0.05)


def test_node_off_the_path_has_its_own_timeline_and_clips(
    bundles: dict[str, Bundle], song: Path, tmp_path: Path
) -> None:
    path = explain(bundles["boosting"], song).prediction.path
    other = "Calm" if path[0] == "Busy" else "Busy"
    explanation = explain(bundles["boosting"], song, node=other)
    assert explanation.line.node == (other,)
    of_path = explain(bundles["boosting"], song, node=path, against=[other])
    assert (of_path.reasons[0].target.node, of_path.reasons[0].target.against) == (path, ((other,),))
    assert [line.node for line in explanation.timelines[:-1]] == [path[:depth] for depth in range(1, len(path) + 1)]
    clips, out = tmp_path / "clips", tmp_path / "out"
    save_explanation(explain(bundles["boosting"], song), out, song, clips)
    (clips / "mine.flac").touch()
    save_explanation(replace(explanation, timelines=explanation.timelines[-1:]), out, song, clips)
    assert not (out / "reason-2.png").exists()  # from the earlier explanation
    assert (clips / "mine.flac").exists()
    names = {item.name for item in clips.glob("*typical-?.flac")}
    assert names == {f"typical-{n + 1}.flac" for n in range(len(explanation.line.typical))} | {
        f"untypical-{n + 1}.flac" for n in range(len(explanation.line.untypical))
    }


def test_parts_without_masks_have_no_relevance() -> None:
    track_slices = make_slices(1)
    maps = occlude(
        _bundle(BrightnessModel(np.full((3, 64, 64), 1e-4))),
        track_slices,
        compute_baseline(track_slices),
        [WHY],
        ("mel",),
        masks=1,
    )
    assert not maps["mel"].any()


@pytest.mark.parametrize(
    ("family", "method", "message"),
    [
        ("boosting", "gradcam", "use `method='occlusion'`"),
        ("ast", "gradcam", "`method='integrated-gradients'` or `method='occlusion'`"),
        ("cnn", "rollout", "needs a transformer"),
        ("cnn", "grad-cam", "did you mean 'gradcam'"),
    ],
)
def test_unsupported_methods_are_rejected(
    family: str, method: str, message: str, bundles: dict[str, Bundle], store: Store
) -> None:
    with pytest.raises(SettingsError, match=message):
        explain(bundles[family], "#0", store=store, method=method)


def test_shuffled_weights_change_predictions_but_not_the_bundle(bundles: dict[str, Bundle], store: Store) -> None:
    track_slices = read_track(bundles["cnn"], store, 5)
    for name in EXPLAINED:
        own = read_track(bundles[name], store, 5)
        before = score(bundles[name], own)[-1]
        other = shuffle_weights(bundles[name])
        assert (other is None) == (name == "boosting")
        if other is not None:
            assert np.abs(score(other, own)[-1] - before).max() > 1e-3, name
        np.testing.assert_array_equal(score(bundles[name], own)[-1], before)
    assert 0 < np.abs(add_noise(track_slices).images.astype(int) - track_slices.images).max() <= 8


# -- planted truth ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A store of tracks with and without a hi-hat, and the audio of both stems by file."""
    folder = tmp_path_factory.mktemp("planted")
    settings = ComposeSettings.build({"seconds": 12.0})
    rows, sounds = [], {}
    for number in range(8):
        music, instrument = compose_planted(number, settings, 2.0, 0.3)
        for genre, y in (("With", music + instrument), ("Without", music)):
            name = f"{genre}-{number}.wav"
            sf.write(folder / name, 0.5 * y / np.abs(y).max(), SAMPLE_RATE)
            rows.append({"path": name, "genre": genre, "artist": f"artist {number}"})
            sounds[name] = (music, instrument)
    with (folder / "tracks.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return prepare(read_manifest(folder / "tracks.csv", PAIR), folder / "store", SETTINGS, workers=1), sounds


def planted_region(music: np.ndarray, instrument: np.ndarray, track_slices: TrackSlices) -> dict[str, np.ndarray]:
    """Where the instrument lifts the spectrum by 10 dB or more: bool, (n_slices, rows, STEPS) by view."""
    music_spectra, mixed_spectra = (compute_spectra(y.astype(np.float32)) for y in (music, music + instrument))
    regions = {}
    for view in ("mel",):
        lifted = (getattr(mixed_spectra, view) - getattr(music_spectra, view) > 10).astype(np.float32)
        axis = frequency_axis(view)  # type: ignore[arg-type]
        parts = []
        for start in track_slices.starts:
            first_frame = round(float(start) * SAMPLE_RATE / 512)
            excerpt = lifted[:, first_frame : first_frame + round(track_slices.seconds * SAMPLE_RATE / 512)]
            rows = np.stack([band.mean(axis=0) for band in np.array_split(excerpt, axis.rows)])
            parts.append(np.stack([step.mean(axis=1) for step in np.array_split(rows, STEPS, axis=1)], axis=1) > 0.3)
        regions[view] = np.stack(parts)
    return regions


def test_map_localises_the_planted_instrument(planted: Any, tmp_path: Path) -> None:
    store, sounds = planted
    pytest.importorskip("captum")
    settings = {"epochs": 12, "image_size": 64, "modalities": ["mel"], "learning_rate": 2e-3, "mask_probability": 0}
    bundle = train(store, "cnn", tmp_path / "b", {**settings, "precision": "float32"})
    ratios: dict[str, list[float]] = {"integrated-gradients": [], "occlusion": []}
    for track in np.unique(store.slice_tracks[store.rows("test")]).tolist():
        name = Path(store.tracks["path"][track]).name
        if name.startswith("Without"):
            continue
        for method, values in ratios.items():
            explanation = explain(bundle, f"#{track}", store=store, method=method)
            if explanation.prediction.path == ("With",):
                region = planted_region(*sounds[name], explanation.track_slices)["mel"]
                positive = np.maximum(explanation.reasons[0].maps[0].values, 0)
                values.append(float(positive[region].sum() / positive.sum() / region.mean()))
    assert len(ratios["occlusion"]) >= 1
    assert np.mean(ratios["integrated-gradients"]) >= 3
    # Occlusion parts are longer than a burst and wider than its band, so only a share of a part can lie inside.
    assert np.mean(ratios["occlusion"]) >= 1.5


# -- neighbours, classes, checks --------------------------------------------------------------------------------------


def test_nearest_track_is_itself_and_index_belongs_to_bundle(
    bundles: dict[str, Bundle], store: Store, tmp_path: Path
) -> None:
    for name in ("boosting",):
        folder = shutil.copytree(bundles[name].folder, tmp_path / name)
        with pytest.raises(BundleError, match="genretree index"):
            explain(load_bundle(folder), "#0", store=store, neighbours=3)
        assert build_index(folder, store) > 20
        track = int(store.slice_tracks[store.rows("train")[0]])
        neighbours = explain(load_bundle(folder), f"#{track}", store=store, neighbours=3).neighbours
        assert neighbours is not None
        assert len(neighbours) == 3
        assert neighbours[0].track == store.tracks["path"][track]
        assert neighbours[0].distance < 0.01 <= neighbours[1].distance + 0.01
        with pytest.raises(BundleError, match="overwrite=True"):
            build_index(folder, store)
        build_index(folder, store, overwrite=True)
    (folder / "index" / "tracks.json").write_text("[]")
    with pytest.raises(BundleError, match="damaged"):
        load_bundle(folder)


def test_genre_view_has_bands_examples_and_confusions(bundles: dict[str, Bundle], store: Store, tmp_path: Path) -> None:
    view = view_genre(bundles["boosting"], store, "Busy", part="all", max_tracks=2)
    content = json.loads(json.dumps(view.to_json()))
    assert content["tracks"] == 30
    assert content["explained"] == 2
    assert len(content["by_band"]["cqt"]["relevance"]) == 84
    assert content["typical"][0]["probability"] >= content["untypical"][0]["probability"]
    assert all(path == ("Calm",) for path in view.taken_for)
    page = save_genre(view, store, tmp_path).read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"class.json", "class.png", "class.html"}
    listed = [name for name, _ in (*view.typical, *view.untypical)]
    assert page.count("data:image/png") == 1 + len(listed)
    assert all(html.escape(name) in page for name in listed)
    assert 'src="http' not in page
    best = max(content["bands"], key=lambda band: band["relevance"])
    assert f"{best['name']} <span" in page
    assert sum(band["relevance"] for band in content["bands"] if band["view"] == "cqt") == pytest.approx(
        view.bands["cqt"].sum(), abs=0.01
    )


def test_survey_counts_tracks_with_a_better_map(bundles: dict[str, Bundle], store: Store) -> None:
    content = survey(bundles["boosting"], store, "occlusion", part="train", max_tracks=3).to_json()
    assert content["looked_at"] == 3
    assert set(content["deletion"]) == {"map", "random", "energy", "edges"}
    assert content["randomised_weights"] is None
    assert content["inaudible_noise"] > 0.3


# -- files, sound, pages ---------------------------------------------------------------------------------------------


def test_filter_keeps_the_band_without_time_shift() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    low, high = np.sin(2 * np.pi * 300 * time), np.sin(2 * np.pi * 3000 * time)
    filtered = keep_bands((low + high).astype(np.float32), [(2500, 3500)])
    middle = slice(SAMPLE_RATE // 4, 3 * SAMPLE_RATE // 4)
    assert np.abs(filtered[middle] - high[middle]).max() < 0.05


def test_bad_input_is_reported(bundles: dict[str, Bundle], store: Store, tmp_path: Path) -> None:
    bundle = bundles["boosting"]
    sf.write(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    sf.write(tmp_path / "short.wav", synthesise("Drone", 0, 0.05), SAMPLE_RATE)
    for name, kind in (("silent.wav", "silence"), ("short.wav", "too_short"), ("none.wav", "not_found")):
        with pytest.raises(SoundError) as caught:
            explain(bundle, tmp_path / name)
        assert caught.value.kind == kind
    with pytest.raises(CorpusError, match="did you mean"):
        explain(bundle, "Drone-0-9.wav", store=store)
    with pytest.raises(CorpusError, match="50 tracks"):
        explain(bundle, "#99", store=store)
    with pytest.raises(TaxonomyError, match="did you mean 'Noise'"):
        explain(bundle, "#1", store=store, node="Nosie")
    for options, message in (
        ({"level": 7}, "no level"),
        ({"level": 1, "node": "Calm"}, "not both"),
        ({"against": "Calm"}, "`node`"),
        ({"masks": 9, "method": "gradcam"}, "masks"),
    ):
        with pytest.raises(SettingsError, match=message):
            explain(bundle, "#1", store=store, **options)  # type: ignore[arg-type]
    assert choose_method(None) == "occlusion"


def test_short_file_is_repeated_and_marked(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    sf.write(tmp_path / "short.wav", synthesise("Bells", 0, 1.0), SAMPLE_RATE)
    explanation = explain(bundles["boosting"], tmp_path / "short.wav")
    assert explanation.prediction.padded
    page = save_explanation(explanation, tmp_path / "out", tmp_path / "short.wav", tmp_path / "clips")
    assert page.is_file()
    assert sf.info(tmp_path / "clips" / "typical-1.flac").duration == pytest.approx(1.0, abs=0.01)


def test_command_writes_all_files(bundles: dict[str, Bundle], store: Store, song: Path, tmp_path: Path) -> None:
    bundle = str(bundles["boosting"].folder)
    out, clips = tmp_path / "out", tmp_path / "clips"
    call = ["explain", bundle, str(song), "--node", "Calm", "--against", "Busy", "--out", str(out)]
    result = CliRunner().invoke(main, [*call, "--clips", str(clips), "--check", "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["reasons"][0]["question"] == "why Calm and not Busy"
    assert set(content["check"]["deletion"]) == {"map", "random", "energy", "edges"}
    written = {path.name for path in out.iterdir()}
    assert written == {"explanation.json", "explanation.html", "relevance.npz", "tree.png", "reason-1.png"}
    with np.load(out / "relevance.npz", allow_pickle=False) as arrays:
        assert arrays["reason_0.mel"].shape == (4, 64, STEPS)
    y, sr = sf.read(clips / "typical-1.flac")
    assert len(y) / sr == pytest.approx(2.0, abs=0.05)
    runs = [
        (["--track", "#2"], 0, "why"),
        (["--class", "Calm", "--part", "all", "--most", "1"], 0, "typical"),
        ([], 2, "--track NAME"),
        (["--track", "#2", "--clips", str(clips)], 1, "no audio"),
        (["--track", "#2", "--neighbours", "2"], 1, "genretree index"),
    ]
    for options, status, message in runs:
        result = CliRunner().invoke(main, ["explain", bundle, str(store.folder), *options, "--quiet"])
        assert result.exit_code == status, result.output
        assert message in result.output
    result = CliRunner().invoke(main, ["explain", bundle, str(song), "--class", "Calm"])
    assert result.exit_code == 1
    assert "--class" in result.output


def test_relevant_bands_cover_positive_relevance(bundles: dict[str, Bundle], song: Path) -> None:
    reason = explain(bundles["boosting"], song).reasons[-1]
    bands = relevant_bands(reason)
    assert bands
    assert all(low < high for low, high in bands)
    assert all(one[1] < other[0] for one, other in pairwise(bands))
    nothing = replace(reason, maps=tuple(replace(item, values=-np.abs(item.values)) for item in reason.maps))
    assert relevant_bands(nothing) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_page_plays_and_cursor_follows(
    width: int, scheme: str, bundles: dict[str, Bundle], song: Path, tmp_path: Path
) -> None:
    page_file = save_explanation(explain(bundles["boosting"], song), tmp_path, song)
    with open_chromium("--autoplay-policy=no-user-gesture-required") as browser:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(page_file.as_uri())
        page.wait_for_function("sound.readyState >= 2")
        assert page.evaluate("sound.duration") == pytest.approx(9.5, abs=0.1)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
        assert page.locator("svg.tree").is_visible() == (width == 1280)  # narrow screens have a list instead
        assert page.locator(".nodes li").first.is_visible() == (width == 390)
        outside = "performance.getEntriesByType('resource').map(e => e.name).filter(name => !name.startsWith('data:'))"
        assert page.evaluate(outside) == []
        # Cursor position, as a time on the axis, against the playback time.
        measure = """() => [sound.currentTime, [...document.querySelectorAll('.cursor')].map(cursor => {
            const box = cursor.parentElement.getBoundingClientRect(), line = cursor.getBoundingClientRect();
            return END * ((line.left + line.right) / 2 - box.left) / box.width; })]"""
        page.keyboard.press(" ")
        for after in (0.4, 0.9):
            page.wait_for_function(f"sound.currentTime > {after}")
            at, shown = page.evaluate(measure)
            assert len(shown) > 2
            # The cursor moves once per frame, and a busy machine renders few frames.
            assert shown == pytest.approx([at] * len(shown), abs=0.25)
        page.keyboard.press(" ")
        page.wait_for_function("sound.paused")
        page.wait_for_timeout(50)
        at, shown = page.evaluate(measure)
        assert shown == pytest.approx([at] * len(shown), abs=0.05)
        page.locator(".plot.cqt, .plot.mel, .plot.chroma").first.click(position={"x": width * 0.3, "y": 20})
        page.wait_for_function("!sound.seeking")
        page.wait_for_timeout(50)
        at, shown = page.evaluate(measure)
        assert at > 1
        assert shown == pytest.approx([at] * len(shown), abs=0.05)
        page.locator("[data-from]").last.click()
        page.wait_for_function("!sound.paused && !sound.seeking")
        start = float(page.locator("[data-from]").last.get_attribute("data-from") or "nan")
        assert page.evaluate("sound.currentTime") == pytest.approx(start, abs=0.7)
        assert problems == []


def test_encoding_preserves_length() -> None:
    import io

    y = synthesise("Drone", 0, 3.3)
    decoded, sr = sf.read(io.BytesIO(encode_ogg(y)))
    assert sr == SAMPLE_RATE
    assert len(decoded) == pytest.approx(len(y), abs=SAMPLE_RATE * 0.02)
