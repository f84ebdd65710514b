"""Shortcut audits: planted in the composed corpus and found; a clean corpus is not accused."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner

from genretree.audit import audit as run_audit
from genretree.audit import neutralise, neutralise_audio, shortcuts
from genretree.audit.cues import STEEP_EDGE, Cue, matched_statistics, measure_samples, read_cues
from genretree.audit.shortcut_page import save_shortcuts
from genretree.audit.shortcuts import CueResult, Shortcut, ShortcutAudit, audit_shortcuts, permute_over_groups
from genretree.cli import main
from genretree.cli.audit import show_shortcuts
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.errors import ArgumentError, CorpusError
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.taxonomy import Taxonomy

pytest.importorskip("pretty_midi")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import shortcuts as planting

from genretree.datasets.composed import ComposeSettings, compose_track

pytestmark = pytest.mark.slow

LEAVES = ("Acoustic_pop", "Opera", "Contemporary_dance_pop", "Soft_rock", "Teen_pop")
CODEC, EQUALISED, ONE_ARTIST = "Acoustic_pop", "Soft_rock", "Teen_pop"
ARTISTS, TRACKS, SECONDS, RATE = 6, 2, 12.0, 22050


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """A clean store, and one with three planted shortcuts."""
    tree = Taxonomy.from_nested({"Music": list(LEAVES)})
    settings = ComposeSettings.build({"seconds": SECONDS, "rate": RATE})
    made = []
    sounds = {
        (leaf, artist, track): compose_track(leaf, artist, track, settings)[0][0]
        for leaf in LEAVES
        for artist in range(ARTISTS)
        for track in range(TRACKS)
    }
    for name in ("clean", "planted"):
        folder = tmp_path_factory.mktemp(name)
        rows = []
        for (leaf, artist, track), y in sounds.items():
            owner = f"{leaf} {artist}"
            if name == "planted" and leaf == CODEC:
                y = planting.encode(y, RATE)
            if name == "planted" and leaf == EQUALISED:
                y = planting.equalise(y, RATE)
            if name == "planted" and leaf == ONE_ARTIST:
                owner = f"{leaf} 0"
            path = f"{leaf}-{artist}-{track}.wav"
            sf.write(folder / path, y, RATE)
            rows.append({"path": path, "genre": leaf, "artist": owner})
        with (folder / "tracks.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["path", "genre", "artist"])
            writer.writeheader()
            writer.writerows(rows)
        manifest = read_manifest(folder / "tracks.csv", tree, "artist")
        images = ImageSettings.build({"slice_seconds": 11.4, "size": 112})
        made.append(prepare(manifest, folder / "store", images, workers=1))
    return made[0], made[1]


@pytest.fixture(scope="module")
def audits(stores: tuple[Store, Store]) -> tuple[ShortcutAudit, ShortcutAudit]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortcuts, "_PERMUTATIONS", 8)
        return audit_shortcuts(stores[0]), audit_shortcuts(stores[1])


def test_planted_shortcuts_are_found_and_named(audits: tuple[ShortcutAudit, ShortcutAudit]) -> None:
    found = {(item.cue, item.leaf.split(" > ")[-1]) for item in audits[1].shortcuts}
    assert {("bandwidth", CODEC), ("spectrum", EQUALISED), ("artist", ONE_ARTIST)} <= found
    assert {leaf for _, leaf in found} == {CODEC, EQUALISED, ONE_ARTIST}
    for leaf in (CODEC, EQUALISED, ONE_ARTIST):
        assert leaf in audits[1].verdict


def test_a_clean_corpus_is_not_accused(audits: tuple[ShortcutAudit, ShortcutAudit]) -> None:
    assert audits[0].shortcuts == (), audits[0].shortcuts
    assert audits[0].verdict.startswith("No shortcut found")
    assert [item.effective_artists for item in audits[0].classes] == [ARTISTS] * len(LEAVES)
    position = next((item for item in audits[0].cues if item.name == "slice position"), None)
    assert position is None or position.p_value > 0.01


def _spectra_of_instruments(seed: int, artists: int = 10) -> tuple[Cue, Cue, np.ndarray, np.ndarray]:
    """Ten classes by some artists each, whose spectra follow from statistics of the music and each artist's taste."""
    rng = np.random.default_rng(seed)
    n = 20 * artists
    classes = np.repeat(np.arange(10), 2 * artists)
    groups = np.arange(n) // 2
    music = rng.normal(0, 1, (10, 6))[classes] + rng.normal(0, 1, (n, 6))
    tracks = music @ rng.normal(0, 2, (6, 30)) + rng.normal(0, 2, (n // 2, 30))[groups] + rng.normal(0, 2, (n, 30))
    names = tuple(f"level of band {band} (dB)" for band in range(30))
    return Cue("spectrum", "", names, tracks, "audio"), Cue("music", "", (), music, "images"), classes, groups


GENRES = [f"genre {number}" for number in range(10)]


def _cue_results() -> list[CueResult]:
    template = CueResult(
        name="", description="", source="", accuracy=0.0, chance=0.0, p_value=0.0, separation=(0.0,) * 10
    )
    return [replace(template, name=name) for name in ("spectrum", "music")]


@pytest.mark.parametrize("seed", range(5))
def test_a_filter_on_one_class_is_named_and_music_is_not(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_PERMUTATIONS", 10)
    spectrum, music, classes, groups = _spectra_of_instruments(seed)
    arguments = (_cue_results(), classes, groups, GENRES, seed, ())
    assert shortcuts._find_filtered([spectrum, music], *arguments) == []
    values = spectrum.values.copy()
    values[classes == seed, 20:25] += 9
    values[classes == seed, 5:10] -= 8
    found = shortcuts._find_filtered([replace(spectrum, values=values), music], *arguments)
    assert [item.leaf for item in found] == [f"genre {seed}"]
    assert "its music does not explain" in found[0].text


@pytest.mark.parametrize("artists", [3, 5])
def test_classes_of_few_artists_are_not_accused_of_a_filter(artists: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_PERMUTATIONS", 10)
    for seed in range(10):
        spectrum, music, classes, groups = _spectra_of_instruments(seed, artists)
        assert shortcuts._find_filtered([spectrum, music], _cue_results(), classes, groups, GENRES, seed, ()) == []


def test_a_filter_does_not_accuse_a_similar_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "_PERMUTATIONS", 10)
    rng = np.random.default_rng(0)
    spectrum, music, classes, groups = _spectra_of_instruments(0)
    statistics = np.concatenate([music.values, rng.normal(0, 0.3, (200, 1))], axis=1)
    statistics[classes < 2, 6] += 3  # only these two have this kind of music
    values = spectrum.values + 0.0
    values[classes == 0, 20:25] += 9
    values[classes == 0, 5:10] -= 8
    cues = [replace(spectrum, values=values), replace(music, values=statistics)]
    mirrored = shortcuts.unexplained_spectrum(values, statistics, classes == 1)[1]
    assert np.sqrt((mirrored**2).mean()) > 1  # the other class seems to have the inverse filter
    found = shortcuts._find_filtered(cues, _cue_results(), classes, groups, GENRES, 0, ())
    assert [item.leaf for item in found] == ["genre 0"]


def test_the_command_writes_the_page(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcuts, "_PERMUTATIONS", 2)
    words = ["audit", str(stores[1].folder), "--shortcuts", "--out", str(tmp_path), "--quiet"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "cues without music" in result.output and "nearest is same artist" in result.output
    page = (tmp_path / "shortcuts.html").read_text()
    content = json.loads((tmp_path / "shortcuts.json").read_text())
    assert content["verdict"] in result.output.replace("\n", " ").replace("  ", " ") or content["verdict"][:40] in page
    assert page.count("data:image/png") == 2
    wrong = CliRunner().invoke(main, ["audit", str(stores[1].folder), "--bundle", str(tmp_path)])
    assert wrong.exit_code == 1 and "--shortcuts" in wrong.output


def test_a_bundle_of_other_images_and_a_negative_seed_are_refused_first(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("measured before the check")

    monkeypatch.setattr(shortcuts, "read_cues", fail)
    monkeypatch.setattr("genretree.audit.audit", fail)
    bundle = SimpleNamespace(images=ImageSettings.build({"size": 64}), folder=tmp_path)
    with pytest.raises(CorpusError, match="has image settings"):
        audit_shortcuts(stores[0], bundle)  # type: ignore[arg-type]
    monkeypatch.setattr("genretree.bundle.bundle.load_bundle", lambda folder: bundle)
    words = ["audit", str(stores[0].folder), "--shortcuts", "--out", str(tmp_path), "--quiet"]
    result = CliRunner().invoke(main, [*words, "--bundle", str(tmp_path)])
    assert result.exit_code == 1 and "has image settings" in result.output
    with pytest.raises(ArgumentError, match="seed must be 0 or more, got -1"):
        audit_shortcuts(stores[0], seed=-1)
    monkeypatch.undo()
    with pytest.raises(ArgumentError, match="seed must be 0 or more, got -1"):
        run_audit(stores[0], seed=-1)
    assert CliRunner().invoke(main, [*words, "--seed", "-1"]).exit_code == 2


def test_a_bundle_that_uses_a_codec_loses_by_a_low_pass(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genretree.training.train import train

    settings = {"components": 12, "epochs": 15, "image_size": 32, "min_samples_leaf": 2}
    bundle = train(stores[1], "boosting", tmp_path / "b", settings)
    results, note = neutralise.neutralise_cues(bundle, stores[1])
    assert note == ""
    assert {item.cue for item in results} == {"spectrum", "level", "bandwidth", "noise floor", "encoding"}
    assert all(0 <= item.recall <= 1 and 0 <= item.changed <= 1 for item in results)
    assert any(item.changed > 0 for item in results)
    without = Store(stores[1].folder)
    monkeypatch.setitem(without.tracks, "file", ["/no/such/file"] * without.n_tracks)
    in_images, note = neutralise.neutralise_cues(bundle, without)
    assert note == ""
    assert {item.cue for item in in_images} == {"spectrum", "level", "bandwidth", "noise floor", "image artefacts"}
    assert sum(item.tracks for item in in_images) == sum(item.tracks for item in results)


def test_cues_are_neutralised_in_audio() -> None:
    rng = np.random.default_rng(0)
    y = (0.05 * rng.standard_normal(10 * SAMPLE_RATE) * np.linspace(0.2, 1, 10 * SAMPLE_RATE)).astype(np.float32)
    hertz = np.fft.rfftfreq(len(y), 1 / SAMPLE_RATE)

    def share_above(signal: np.ndarray[tuple[int], np.dtype[np.float32]], frequency: float) -> float:
        power = np.abs(np.fft.rfft(signal)) ** 2
        return float(power[hertz > frequency].sum() / power.sum())

    assert share_above(y, 5000) > 0.4
    assert share_above(neutralise_audio.low_pass(y), 5010) < 1e-6
    tilted = np.linspace(12.0, -12.0, 30)
    matched = neutralise_audio.match_spectrum(tilted, y)
    np.testing.assert_allclose(neutralise_audio.band_levels(matched), tilted, atol=1.5)
    level = neutralise_audio.match_level(0.1, y)
    assert np.sqrt((level.astype(float) ** 2).mean()) == pytest.approx(0.1, rel=1e-3)
    noise = neutralise_audio.add_noise(y) - y
    assert 20 * np.log10(np.sqrt((noise.astype(float) ** 2).mean()) / np.abs(y).max()) == pytest.approx(-60, abs=0.5)
    encoded = neutralise_audio.encode(y)
    assert len(encoded) == len(y)
    assert share_above(encoded, 10000) < 0.5 * share_above(y, 10000)  # what a low bit rate leaves out


def test_classes_that_depend_on_a_cue_are_named() -> None:
    def item(leaf: str, recall: float, after: float, predicted: float) -> neutralise.Neutralisation:
        return neutralise.Neutralisation(
            cue="bandwidth",
            description="",
            leaf=leaf,
            tracks=20,
            recall=recall,
            neutralised_recall=after,
            changed=0.0,
            predicted=0.0,
            neutralised_predicted=predicted,
            loss_p_value=0.5 ** round(20 * (recall - after)) if recall > after else 1.0,
            gain_p_value=0.5 ** round(60 * predicted),
        )

    usual = [item("A", 0.9, 0.8, 0.02), item("B", 0.8, 0.75, 0.03), item("C", 0.7, 0.7, 0.0)]
    assert neutralise.find_dependences(usual) == []
    (lost,) = neutralise.find_dependences([*usual, item("D", 0.9, 0.2, 0.0)])
    assert (lost.leaf, lost.cue) == ("D", "bandwidth")
    assert lost.text.startswith("recall of D falls from 90% to 20% when bandwidth is neutralised")
    (gained,) = neutralise.find_dependences([*usual, item("D", 0.9, 1.0, 0.5)])
    assert gained.text == "D is predicted for 50% of the other tracks when bandwidth is neutralised, and for 0% before"
    assert neutralise.find_dependences([item(name, 0.9, 0.1, 0.1) for name in "ABCD"]) == []  # all alike
    by_chance = replace(item("D", 0.9, 0.2, 0.0), tracks=3, loss_p_value=0.25)
    assert neutralise.find_dependences([*usual, by_chance]) == []


def test_the_verdict_names_what_a_bundle_depends_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cue = CueResult(
        name="bandwidth", description="edge", source="audio", accuracy=0.1, chance=0.1, p_value=0.5, separation=(0.0, 0)
    )
    results = [cue, replace(cue, name="music", description="music", accuracy=0.6)]
    depends = neutralise.Dependence(leaf="Pop > Teen_pop", cue="bandwidth", text="B: recall of Pop > Teen_pop falls")
    alone = shortcuts._verdict((), results, [depends], "B")
    assert alone.startswith("Shortcuts found: B depends on bandwidth (Teen_pop), although no cue")
    found = Shortcut(leaf="Classic > Solo", cue="level", separation=2.0, music_separation=1.0, text="")
    both = shortcuts._verdict([found], results, [depends], "B")
    assert both.startswith("Shortcuts found: level (Solo); B depends on bandwidth (Teen_pop); edge alone")
    result = ShortcutAudit(
        store="S",
        group_by="artist",
        leaves=("Pop > Teen_pop", "Classic > Solo"),
        verdict=alone,
        classes=(),
        cues=tuple(results),
        shortcuts=(),
        neutralised=(),
        dependences=(depends,),
        notes=(),
        seed=0,
        version="0",
    )
    page = save_shortcuts(result, tmp_path).read_text()
    assert '<p class="warn">Shortcuts found: B depends' in page and "<li>B: recall of Pop" in page
    show_shortcuts(result)
    assert "warning: B: recall of Pop > Teen_pop falls." in capsys.readouterr().out


def test_an_edge_is_measured() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal(10 * RATE).astype(np.float32) * 0.1
    plain = measure_samples(y, RATE)["bandwidth"]
    assert plain[0] == 0 and plain[1] == 0
    spectrum = np.fft.rfft(y)
    spectrum[np.fft.rfftfreq(len(y), 1 / RATE) > 8000] *= 1e-3
    steep, edge, height, rate = measure_samples(np.fft.irfft(spectrum, len(y)).astype(np.float32), RATE)["bandwidth"]
    assert steep == 1 and edge == pytest.approx(8, abs=0.1) and height > STEEP_EDGE and rate == RATE / 1000


def test_levels_and_spectra_are_in_decibels() -> None:
    time = np.arange(5 * RATE) / RATE
    measured = measure_samples((0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32), RATE)
    peak, level, crest = measured["level"][:3]
    assert peak == pytest.approx(-6.02, abs=0.01)
    assert level == pytest.approx(-9.03, abs=0.01)
    assert crest == pytest.approx(3.01, abs=0.02)


def test_matched_statistics_ignore_an_equaliser() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(60, 160, (3, 112, 112)).astype(np.uint8)
    other = image.copy()
    other[:2] += np.linspace(0, 60, 112).astype(np.uint8)[None, :, None]
    np.testing.assert_allclose(matched_statistics(image), matched_statistics(other), atol=1e-4)


def test_labels_are_permuted_with_whole_groups() -> None:
    groups = np.repeat(np.arange(6), 3)
    classes = groups % 3
    permuted = permute_over_groups(classes, groups, np.random.default_rng(0))
    assert all(len(set(permuted[groups == group].tolist())) == 1 for group in range(6))
    assert np.bincount(permuted).tolist() == [6, 6, 6]


def test_stores_without_files_are_tested_by_their_images(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(stores[0].folder)
    monkeypatch.setitem(store.tracks, "file", ["/no/such/file"] * store.n_tracks)
    cues = {cue.name: cue for cue in read_cues(store)}
    assert "bandwidth" not in cues
    assert cues["spectrum"].source == "images"
    assert "image artefacts" not in cues
    store.metadata = replace(store.metadata, engine="drawn")
    assert read_cues(store)[-2].name == "image artefacts"


def test_one_missing_or_damaged_file_does_not_end_the_tests_of_the_audio(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(stores[1].folder)
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF")
    files = list(store.tracks["file"])
    monkeypatch.setitem(store.tracks, "file", ["/no/such/gone.wav", str(damaged), *files[2:]])
    monkeypatch.setattr(shortcuts, "_PERMUTATIONS", 4)
    found = audit_shortcuts(store)
    assert {"spectrum", "bandwidth", "file format"} <= {cue.name for cue in found.cues if cue.source == "audio"}
    (note,) = [note for note in found.notes if "left out" in note]
    assert note.startswith(f"2 of {store.n_tracks} audio files") and "gone.wav, damaged.wav" in note
    assert sum(each.tracks for each in found.classes) == store.n_tracks - 2


def test_a_store_of_one_genre_is_refused(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(stores[0].folder)
    monkeypatch.setitem(store.tracks, "leaf", [0] * store.n_tracks)
    with pytest.raises(CorpusError, match="at least two genres"):
        audit_shortcuts(store)


def test_the_page_escapes_names(audits: tuple[ShortcutAudit, ShortcutAudit], tmp_path: Path) -> None:
    page = save_shortcuts(replace(audits[1], store="<b>store</b>"), tmp_path)
    assert "<b>store" not in page.read_text()
