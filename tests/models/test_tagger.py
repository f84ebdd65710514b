"""The tagger: probabilities from tags, content detection, windows, and bundles that need no training."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner
from safetensors.torch import load_file

from genretree.bundle.bundle import Bundle, load_bundle, save_bundle
from genretree.bundle.export import export_bundle
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import BundleError, SettingsError
from genretree.library.plan.mapping import Mapping
from genretree.models.base import FitContext
from genretree.models.families.tagger import model as tagger_model
from genretree.models.families.tagger.content import detect_content
from genretree.models.families.tagger.family import TaggerFamily
from genretree.models.families.tagger.model import EXPORTED, TaggerModel, _cut_windows, load_tagger
from genretree.models.families.tagger.settings import TaggerSettings
from genretree.models.families.tagger.tag_tree import TagTree
from genretree.models.pretrained import mn04_weights, musicnn_features
from genretree.models.pretrained.musicnn_weights import digest
from genretree.models.runtime.graph import run_torch
from genretree.prediction.predict import SliceScores, as_prediction, score_file
from genretree.prediction.untrained import untrained_bundle
from genretree.settings import ImageSettings
from genretree.sound.decode import decode
from genretree.sound.mel_32k import compute_mel_32k
from genretree.sound.slices import slice_feature_blocks, slice_track
from genretree.taxonomy import UNSPECIFIED, Taxonomy
from genretree.training.data import slice_dataset
from genretree.vocabulary import Vocabulary, tag_names
from small_corpus import synthesise
from small_weights import write_mn04, write_musicnn

FLOOR = 0.003
NAMES = tag_names("mn04")


def _tree(nested: object) -> TagTree:
    return TagTree.of(Vocabulary.builtin().match(Taxonomy.from_nested(nested)), FLOOR)


def _tags(**probabilities: float) -> np.ndarray:
    tags = np.zeros((1, 527))
    for name, probability in probabilities.items():
        tags[0, NAMES.index(name.replace("_", " "))] = probability
    return tags


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a random network in the place of the published one."""
    folder = write_mn04(tmp_path / "cache")
    monkeypatch.setenv("GENRETREE_CACHE", str(folder))
    monkeypatch.setattr(mn04_weights, "DIGEST", digest(load_file(folder / "mn04.safetensors")))
    return folder


# -- probabilities ---------------------------------------------------------------------------------------------


def test_siblings_share_in_proportion_to_their_tags() -> None:
    tree = _tree(["Rock", "Pop", "Jazz"])
    leaves = tree.leaf_probabilities({"mn04": _tags(Rock_music=0.2, Heavy_metal=0.1, Pop_music=0.1)})
    np.testing.assert_allclose(leaves[0], np.array([0.3 + FLOOR, 0.1 + FLOOR, FLOOR]) / (0.4 + 3 * FLOOR))


def test_a_branch_has_the_evidence_of_its_nodes_and_stops_where_none_stands_out() -> None:
    tree = _tree({"Rock": ["Metal", "Punk"], "Pop": None})
    assert tree.taxonomy.leaves == (("Rock", UNSPECIFIED), ("Rock", "Metal"), ("Rock", "Punk"), ("Pop",))
    leaves = tree.leaf_probabilities({"mn04": _tags(Rock_music=0.1, Heavy_metal=0.3, Pop_music=0.1)})[0]
    rock = (0.4 + FLOOR) / (0.5 + 2 * FLOOR)
    assert leaves[:3].sum() == pytest.approx(rock)
    # The stop has the branch's own tags and 0.3 of its siblings' evidence.
    evidence = np.array([0.1 + FLOOR + 0.3 * (0.3 + 2 * FLOOR), 0.3 + FLOOR, FLOOR])
    np.testing.assert_allclose(leaves[:3], rock * evidence / evidence.sum())
    assert tree.taxonomy.leaves[int(leaves.argmax())] == ("Rock", "Metal")
    unsure = tree.leaf_probabilities({"mn04": _tags(Rock_music=0.1, Heavy_metal=0.1, Punk_rock=0.1)})[0]
    assert tree.taxonomy.leaves[int(unsure.argmax())] == ("Rock", UNSPECIFIED)


def test_hints_decide_between_siblings_only() -> None:
    tree = _tree({"Classical": ["Orchestral", "Chamber music"], "Pop": None})
    with_violin = tree.leaf_probabilities({"mn04": _tags(Classical_music=0.2, Pop_music=0.05, Cello=0.5)})[0]
    without = tree.leaf_probabilities({"mn04": _tags(Classical_music=0.2, Pop_music=0.05)})[0]
    assert with_violin[-1] == pytest.approx(without[-1])  # Pop
    assert tree.taxonomy.leaves[int(with_violin.argmax())] == ("Classical", "Chamber music")


@pytest.mark.parametrize(
    ("tag", "path"),
    [
        ("Classical music", ("Classic",)),
        ("Opera", ("Classic", "Opera")),
        ("Heavy metal", ("Non_classic", "Rock")),
        ("Soul music", ("Non_classic", "Soul_or_RnB")),
        ("Techno", ("Non_classic", "Dance_and_house")),
        ("Independent music", ("Non_classic", "Indie")),
    ],
)
def test_a_tag_leads_to_its_node_of_the_ccmusic_tree(tag: str, path: tuple[str, ...]) -> None:
    bundle = untrained_bundle("ccmusic")
    assert isinstance(bundle.model, TaggerModel)
    leaves = bundle.model.tree.leaf_probabilities({"mn04": _tags(**{tag.replace(" ", "_"): 0.9})})
    scores = SliceScores(bundle.taxonomy.sum_levels(leaves), [0.0], False)
    found = as_prediction(bundle, "x", scores)
    assert found.path == path
    assert found.complete == (path != ("Classic",))


def test_a_path_never_ends_in_the_stop() -> None:
    bundle = untrained_bundle("general")
    assert isinstance(bundle.model, TaggerModel)
    leaves = bundle.model.tree.leaf_probabilities({"mn04": _tags(Rock_music=0.9)})
    found = as_prediction(bundle, "x", SliceScores(bundle.taxonomy.sum_levels(leaves), [0.0], False))
    assert found.path == ("Rock",)
    assert found.shown == "Rock > ?"
    assert found.timeline[0].path == ("Rock",)
    assert Mapping().genres(("Rock", UNSPECIFIED)) == ("Rock",)
    assert Mapping().min_written_depth(bundle.taxonomy) == 1  # its top level has genres
    assert Mapping().min_written_depth(untrained_bundle("ccmusic").taxonomy) == 2


# -- content ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"Music": 0.8, "Speech": 0.05}, "music"),
        ({"Music": 0.6, "Speech": 0.6, "Rapping": 0.5}, "music"),  # rap
        ({"Music": 0.1, "Singing": 0.5, "A_capella": 0.3}, "music"),
        ({"Music": 0.2, "Opera": 0.4, "Speech": 0.1}, "music"),
        ({"Choir": 0.5}, "music"),
        ({"Speech": 0.8, "Narration,_monologue": 0.4, "Music": 0.02}, "speech"),
        ({"Speech": 0.7, "Music": 0.45}, "speech"),  # a podcast with music in the background
        ({"Silence": 0.5, "Music": 0.05}, "silence"),
        ({"White_noise": 0.3, "Static": 0.2}, "noise"),
        ({"Dog": 0.7, "Inside,_small_room": 0.8}, "sound effect"),
    ],
)
def test_content_is_named(tags: dict[str, float], expected: str) -> None:
    found = detect_content(_tags(**tags).astype(np.float32))
    assert found.type == expected
    assert found.probability == pytest.approx(tags[found.tag.replace(" ", "_")])
    assert found.is_music == (expected == "music")


def test_no_genre_is_predicted_for_speech_unless_asked() -> None:
    bundle = untrained_bundle("general")
    leaves = np.full((2, len(bundle.taxonomy.leaves)), 1 / len(bundle.taxonomy.leaves))
    tags = np.concatenate([_tags(Speech=0.9), _tags(Speech=0.6, Music=0.1)]).astype(np.float32)
    scores = SliceScores(bundle.taxonomy.sum_levels(leaves), [0.0, 10.0], False, tags)
    found = as_prediction(bundle, "x", scores)
    assert found.path == ()
    assert found.shown == "not music: speech"
    content = found.to_json()
    assert content["not_music"] == {"type": "speech", "tag": "Speech", "probability": 0.75}
    assert [item["path"] for item in content["timeline"]] == [[], []]
    forced = as_prediction(bundle, "x", scores, music_only=False)
    assert forced.path
    assert forced.to_json()["not_music"]["type"] == "speech"


# -- windows and slices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "n_windows"), [(300, 1), (1000, 1), (1141, 1), (3000, 3), (2600, 3)])
def test_slices_are_cut_into_windows_of_ten_seconds(frames: int, n_windows: int) -> None:
    mel = np.broadcast_to(np.arange(frames, dtype=np.float32), (2, 128, frames))
    windows = _cut_windows(mel)
    assert windows.shape == (2, n_windows, 128, 1000)
    if frames < 1000:
        np.testing.assert_array_equal(windows[0, 0, 0], np.resize(np.arange(frames), 1000))
    else:
        starts = windows[0, :, 0, 0]
        assert starts[0] == (0 if n_windows > 1 else (frames - 1000) // 2)
        assert n_windows == 1 or starts[-1] == frames - 1000


def test_slices_without_images_are_those_with_images(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", np.tile(synthesise("Noise", 1, 7.3), 2), 22050)
    y = decode(tmp_path / "a.flac")
    y[22050 * 4 : 22050 * 8] = 0
    sf.write(tmp_path / "b.flac", y, 22050)
    settings = ImageSettings(slice_seconds=2.0, size=32)
    from functools import partial

    from genretree.sound.decode import iter_blocks

    decode_at = partial(iter_blocks, tmp_path / "b.flac")
    without = list(slice_feature_blocks(decode_at, settings, ["mel_32k", "mel_16k"]))
    with_images = list(slice_track(decode(tmp_path / "b.flac"), settings, features=["mel_16k"]))
    assert [item.start for item in without] == [item.start for item in with_images]
    assert [item.silent for item in without] == [item.silent for item in with_images]
    assert any(item.silent for item in without)
    for one, other in zip(without, with_images, strict=True):
        np.testing.assert_array_equal(one.features["mel_16k"], other.features["mel_16k"])
    at_32k = decode(tmp_path / "b.flac", 32000)
    start = round(without[1].start * 32000)
    n = round((settings.slice_frames - 1) * 512 * 32000 / 22050)
    np.testing.assert_allclose(
        without[1].features["mel_32k"], compute_mel_32k(at_32k[start : start + n]), atol=2e-3, rtol=1e-3
    )


# -- bundles and the command line ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bundle_is_written_exported_and_loaded_without_training(cache: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    result = CliRunner().invoke(main, ["vocabulary", "general", "--out", str(bundle)], catch_exceptions=False)
    assert "Heavy metal" in result.output
    sf.write(tmp_path / "noise.wav", synthesise("Noise", 1, 12.0), 22050)
    in_torch = score_file(load_bundle(bundle), tmp_path / "noise.wav")
    unsaved = score_file(untrained_bundle("general"), tmp_path / "noise.wav")
    for one, other in zip(in_torch.levels, unsaved.levels, strict=True):
        np.testing.assert_array_equal(one, other)
    assert in_torch.tags is not None
    assert in_torch.tags.shape == (1, 527)
    export_bundle(bundle, "openvino")
    exported = load_bundle(bundle, "auto", "auto")
    assert exported.runtime == "openvino float32"
    again = score_file(exported, tmp_path / "noise.wav")
    np.testing.assert_allclose(again.levels[-1], in_torch.levels[-1], atol=1e-4)
    (bundle / "tags.json").write_text((bundle / "tags.json").read_text().replace("Rock music", "Rok"))
    with pytest.raises(BundleError, match=r"tags\.json"):
        load_tagger(bundle, None, exported.taxonomy, TaggerSettings())


@pytest.mark.slow
def test_musicnn_adds_features_to_a_trained_bundle(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(musicnn_features, "PATCH_FRAMES", 24)
    monkeypatch.setattr(tagger_model, "WINDOW_FRAMES", 100)
    rows = slice_dataset(store, store.split(), "train")
    few = replace(rows.select(np.arange(0, len(rows), 8)), cache=None)
    weights = {
        "weights": str(write_mn04(tmp_path / "weights")),
        "musicnn_weights": str(write_musicnn(tmp_path / "weights")),
    }
    settings = TaggerSettings.build({"musicnn": ["msd"], "patches": 1, **weights})
    model = TaggerFamily.fit(few, None, store.taxonomy, settings, FitContext(tmp_path)).model
    assert model.input_features == settings.input_features == ("mel_32k", "mel_16k")
    folder = tmp_path / "bundle"
    save_bundle(
        Bundle(
            folder=folder,
            family="tagger",
            taxonomy=store.taxonomy,
            images=store.settings,
            settings=settings,
            model=model,
            training={},
        )
    )
    expected = model.predict_proba(few.inputs())[-1]
    loaded = load_bundle(folder)
    np.testing.assert_array_equal(loaded.model.predict_proba(few.inputs())[-1], expected)
    assert isinstance(loaded.model, TaggerModel)
    by_tags = replace(loaded, model=TaggerModel(loaded.model.tree, settings, lambda: loaded.model.network))
    assert not np.allclose(by_tags.model.predict_proba(few.inputs())[-1], expected, atol=1e-3)
    with pytest.raises(SettingsError, match="at most once"):
        TaggerSettings.build({"musicnn": ["msd", "msd"]})
    runners = {name: run_torch(graph, bf16=False) for name, graph in loaded.model.graphs(64).items()}
    assert set(runners) == {"network", "musicnn-msd"}
    loaded.model.set_backend(runners)
    np.testing.assert_allclose(loaded.model.predict_proba(few.inputs())[-1], expected, atol=1e-5)
    assert EXPORTED.is_standalone({})
    assert not EXPORTED.is_standalone(settings.model_dump(mode="json"))  # its pooling runs in torch


def test_prediction_without_a_bundle(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = tmp_path / "noise.wav"
    sf.write(song, synthesise("Noise", 1, 12.0), 22050)
    tree = tmp_path / "mine.yaml"
    tree.write_text("Old: [Jazz, Polka]\nNew: [Rap, Techno]\n", encoding="utf-8")
    run = CliRunner().invoke
    result = run(main, ["predict", str(song), "--json", "--force"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert [level["name"] for level in found["levels"]] == ["genre", "subgenre"]
    assert "untrained" in found["note"]
    assert "not_music" in found
    own = json.loads(run(main, ["predict", str(song), "--json", "--force", "--tree", str(tree)]).stdout)
    assert own["path"][0] in ("Old", "New")
    assert "no tag indicates Old > Polka" in own["note"]
    assert "untrained" in run(main, ["predict", str(tmp_path), "--force"]).output
    bundle = tmp_path / "bundle"
    run(main, ["vocabulary", str(tree), "--out", str(bundle)])
    refused = run(main, ["predict", str(bundle), str(song), "--tree", "general"])
    assert "has its own tree" in refused.output
    matches = json.loads(run(main, ["vocabulary", str(tree), "--json"]).stdout)
    assert [item["reached"] for item in matches] == [True, True, False, True, True, True]
    monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path))
    without = run(main, ["predict", str(song)])
    assert without.exit_code == 1
    assert "genretree weights get mn04" in without.output


def test_a_silent_file_is_named_and_no_error(cache: Path, tmp_path: Path) -> None:
    sf.write(tmp_path / "silent.wav", np.zeros(22050 * 3), 22050)
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "silent.wav"), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["path"] == [] and found["not_music"]["type"] == "silence"
    shown = CliRunner().invoke(main, ["predict", str(tmp_path / "silent.wav")], catch_exceptions=False)
    assert "not music: silence" in shown.stdout
    table = CliRunner().invoke(main, ["predict", str(tmp_path / "silent.wav"), "--csv", "-"]).stdout.splitlines()
    assert next(csv.DictReader(table))["content"] == "silence"
    forced = CliRunner().invoke(main, ["predict", str(tmp_path / "silent.wav"), "--force"])
    assert forced.exit_code == 0
    assert "not music: silence" in forced.stdout


def test_a_library_leaves_speech_alone(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genretree.library.scan.classifier import load_file_classifier

    bundle = tmp_path / "bundle"
    CliRunner().invoke(main, ["vocabulary", "general", "--out", str(bundle)], catch_exceptions=False)
    sf.write(tmp_path / "talk.wav", synthesise("Noise", 1, 12.0), 22050)
    tags = _tags(Speech=0.9).astype(np.float32)
    monkeypatch.setattr(
        TaggerModel, "predict_with_tags", lambda self, inputs: (self.tree.taxonomy.sum_levels(np.ones((1, 65))), tags)
    )
    result = load_file_classifier(bundle, "torch", "float32").score_file(tmp_path / "talk.wav")
    assert (result.error, result.message) == ("not_music", "speech: an audiobook or podcast? (Speech 90%)")
