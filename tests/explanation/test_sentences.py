"""Explanations in plain words: planted sound yields the sentence of its band, and noise yields none."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from genretree.bundle.bundle import Bundle
from genretree.explanation import explain
from genretree.explanation.bands import NOTE_BANDS, SOUND_BANDS, BandRelevance, band_hertz, band_rows
from genretree.explanation.coordinates import frequency_axis
from genretree.explanation.methods.occlusion import GRID
from genretree.explanation.render.page import save_explanation
from genretree.explanation.result import Explanation
from genretree.explanation.sentences import LEVELS, PHRASES, describe_level, write_sentences
from genretree.explanation.slices import TrackSlices
from genretree.models.families.cnn import CnnSettings
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.features import Inputs
from genretree.taxonomy import Taxonomy
from genretree.vocabulary import tag_names

SIZE = 64
PAIR = Taxonomy.from_nested(["Bright", "Dull"])
Score = Callable[[np.ndarray], np.ndarray]


class ScoreModel:
    """A model whose log odds of "Bright" are a function of the images, (n, 3, size, size)."""

    heads = "tree"
    input_features = ("images",)

    def __init__(self, score: Score) -> None:
        self.score = score

    def predict_proba(self, inputs: Inputs) -> list[np.ndarray]:
        probabilities = 1 / (1 + np.exp(-self.score(inputs["images"])))
        return [np.stack([probabilities, 1 - probabilities], axis=1)]

    def save(self, folder: Path) -> list[str]:
        return []


def look_at(image: int, low: float, high: float, weight: float = 0.03) -> Score:
    """Score the brightness of some rows of one image, from `low` to `high` of its height, 0 at the bottom."""
    rows = slice(SIZE - round(SIZE * high), SIZE - round(SIZE * low))
    return lambda images: weight * images[:, image, rows].astype(float).mean(axis=(1, 2)) - 2


def score_changes(images: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(images[:, 0].astype(float), axis=2)).mean(axis=(1, 2)) / 4


def score_noise(images: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(image.tobytes()) / 2**32 * 4 - 2 for image in images])


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of chords from C2 to C6 with short low tones, and bursts of hiss above 6 kHz from 6 to 8 s."""
    time = np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    chords = sum(np.sin(2 * np.pi * hertz * time) for hertz in (65.4, 196.0, 523.3, 1046.5, 3136.0))
    clicks = (time % 0.5 < 0.03) * np.sin(2 * np.pi * 300 * time)
    hiss = np.diff(np.random.default_rng(1).standard_normal(len(time) + 2), n=2) * (
        (time > 6) & (time < 8) & (time % 0.5 < 0.2)
    )
    path = tmp_path_factory.mktemp("song") / "song.wav"
    sf.write(path, 0.1 * np.asarray(chords) + 0.3 * clicks + 0.15 * hiss, SAMPLE_RATE)
    return path


def explain_with(score: Score, song: Path) -> Explanation:
    bundle = Bundle(
        folder=Path("nowhere"),
        family="known",
        taxonomy=PAIR,
        images=ImageSettings.build({"slice_seconds": 2.0, "size": SIZE}),
        settings=CnnSettings.build(),
        model=ScoreModel(score),
    )
    return explain(bundle, song, node="Bright")


@pytest.mark.parametrize("band", [name for name, _ in SOUND_BANDS])
def test_a_model_that_looks_at_a_band_of_the_sound_yields_its_sentence(band: str, song: Path) -> None:
    rows, n_rows = band_rows("mel", band), frequency_axis("mel").rows  # type: ignore[arg-type]
    reason = explain_with(look_at(0, rows.start / n_rows, rows.stop / n_rows), song).reasons[0]
    assert [(item.aspect, item.band) for item in reason.sentences if item.aspect != "onsets"] == [("sound", band)]
    sentence = next(item for item in reason.sentences if item.aspect == "sound")
    assert sentence.supports
    assert PHRASES["sound", band][0][4:] in sentence.text  # type: ignore[index]
    assert sentence.relevance > 4 * sentence.noise
    assert sentence.hertz == band_hertz("sound", band)  # type: ignore[arg-type]
    if band == "cymbals and hiss":
        assert sentence.passage is not None
        assert 5.3 < sentence.passage[0] < 8
        assert "0:0" in sentence.text


@pytest.mark.parametrize("band", [name for name, _ in NOTE_BANDS])
def test_a_model_that_looks_at_notes_yields_their_sentence(band: str, song: Path) -> None:
    rows, n_rows = band_rows("cqt", band), frequency_axis("cqt").rows  # type: ignore[arg-type]
    sentences = explain_with(look_at(1, rows.start / n_rows, rows.stop / n_rows), song).reasons[0].sentences
    assert ("notes", band) in [(item.aspect, item.band) for item in sentences]
    assert {item.aspect for item in sentences} <= {"notes", "onsets"}


def test_harmony_and_onsets_have_sentences(song: Path) -> None:
    harmony = explain_with(look_at(2, 0, 1), song).reasons[0].sentences
    assert [item.aspect for item in harmony] == ["harmony"]
    assert re.search(r": the notes? (C|G)\b.* \(in any octave\)", harmony[0].text)
    onsets = explain_with(score_changes, song).reasons[0].sentences
    assert onsets[0].aspect == "onsets"
    assert onsets[0].text.startswith("The strongest evidence for Bright: the drum hits")


def test_evidence_against_is_said(song: Path) -> None:
    sentences = explain_with(look_at(0, 0.0, 0.125, -0.03), song).reasons[0].sentences
    assert {item.supports for item in sentences} == {False}
    against = next(item for item in sentences if item.aspect == "sound")
    assert "suggests Dull instead" in against.text
    assert against.relevance < 0


def test_sentences_are_in_the_text_the_json_and_the_page(
    song: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explanation = explain_with(look_at(0, 0.75, 1), song)
    sentence = explanation.reasons[0].sentences[0]
    show = import_module("genretree.cli.explain")._show
    show(explanation)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.index(sentence.text[:40]) < shown.index("log odds")
    assert explanation.to_json()["reasons"][0]["sentences"][0]["text"] == sentence.text
    page = save_explanation(explanation, tmp_path, song).read_text(encoding="utf-8")
    assert sentence.text in page
    assert "repeat this passage" in page
    assert page.count("data:audio/ogg") == 1 + sum(each.hertz is not None for each in explanation.reasons[0].sentences)
    silent = replace(explanation, reasons=(replace(explanation.reasons[0], sentences=()),))
    show(silent)
    assert "stands out from the noise" in capsys.readouterr().out


@pytest.mark.parametrize("score", [score_noise, lambda images: 0.5 * np.ones(len(images))])
def test_noise_and_constants_have_no_sentences(score: Score, song: Path) -> None:
    assert explain_with(score, song).reasons[0].sentences == ()


def test_bands_are_whole_parts_of_the_maps() -> None:
    for view, bands in (("mel", SOUND_BANDS), ("cqt", NOTE_BANDS)):
        rows, parts = frequency_axis(view).rows, GRID[view][0]  # type: ignore[index, arg-type]
        edges = {part[-1] + 1 for part in np.array_split(np.arange(rows), parts)}
        assert {band_rows(view, name).stop for name, _ in bands} <= edges  # type: ignore[arg-type]
        assert {(("sound" if view == "mel" else "notes"), name) for name, _ in bands} <= set(LEVELS)


def test_levels_outside_the_middle_half_are_described() -> None:
    assert describe_level("sound", "bass", -10.0, 5.0) == "louder and steadier"
    assert describe_level("sound", "bass", -40.0, 30.0) == "quieter and more changeable"
    assert describe_level("sound", "bass", -22.0, 12.0) == ""
    assert describe_level("harmony", "all", None, None) == ""


def test_tags_of_the_strongest_passage_are_named(song: Path) -> None:
    tags = np.zeros((2, 527), np.float32)
    tags[1, [tag_names("mn04").index(name) for name in ("Electric guitar", "Musical instrument", "Music")]] = 0.8
    values = np.zeros((2, 64, 57), np.float32)
    values[1, 60, 30] = 1.0
    track = TrackSlices("song", np.zeros((2, 3, 8, 8), np.uint8), {}, np.array([0.0, 45.0]), 11.4)
    band = BandRelevance(
        aspect="sound", band="cymbals and hiss", values=np.array([[1.0], [1.1]]), noise=np.array([0.01])
    )
    first, second = write_sentences("Rock", [band], 0, {"mel": values}, track, tags)
    assert first.aspect == "sound"
    assert "a second model, which names instruments, detects electric guitar (80%)." in second.text
    assert second.passage == first.passage
    assert second.tags == {"Electric guitar": pytest.approx(0.8)}
    assert [each.aspect for each in write_sentences("Rock", [band], 0, {"mel": values}, track)] == ["sound"]


def test_stronger_evidence_against_a_favoured_node_is_admitted() -> None:
    track = TrackSlices("song", np.zeros((3, 3, 8, 8), np.uint8), {}, np.array([0.0, 11.4, 22.8]), 11.4)
    maps = {"mel": np.zeros((3, 64, 57), np.float32)}
    noise = np.array([0.01])
    bands = [
        BandRelevance(aspect="sound", band="bass", values=np.full((3, 1), 1.2), noise=noise),
        BandRelevance(aspect="notes", band="bass", values=np.full((3, 1), -4.0), noise=noise),
    ]
    texts = [item.text for item in write_sentences("Rock", bands, 0, maps, track, log_odds=0.8)]
    assert texts[0].startswith("The strongest evidence for Rock: the deep sound")
    assert "speak against Rock" in texts[1]
    assert texts[1].endswith("It is the strongest single clue, but all clues together favour Rock.")
    texts = [item.text for item in write_sentences("Rock", bands, 0, maps, track, log_odds=-0.8)]
    assert not any("all clues" in text for text in texts)
