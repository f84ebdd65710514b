"""The composed corpus: files, adherence to the style rules, and difficulty of unseen artists."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genretree.datasets.composed import COLUMNS, ComposeSettings, compose_corpus, compose_score, compose_track
from genretree.datasets.composed.artists import sample_artist
from genretree.datasets.composed.names import artist_name
from genretree.datasets.composed.sampler import Sampler
from genretree.datasets.composed.soundfont import SoundFont
from genretree.datasets.composed.styles import find_style, leaves, style_book
from genretree.datasets.composed.theory import SCALES, parse_chord, voicing
from genretree.errors import CorpusError, MissingExtraError, SettingsError, TaxonomyError
from genretree.taxonomy import Taxonomy

pytestmark = pytest.mark.slow

pytest.importorskip("pretty_midi")

ARTISTS, TRACKS, SECONDS = 5, 2, 16.0
SMALL = ComposeSettings.build({"artists": 1, "tracks": 1, "seconds": 12.0})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose_corpus(tmp_path_factory.mktemp("corpus"), SMALL, workers=2, progress=False).parent


@pytest.fixture(scope="module")
def tracks() -> dict[tuple[str, int, int], np.ndarray]:
    """Every leaf, several artists, two tracks each, at half the sample rate to save time."""
    settings = ComposeSettings.build({"seconds": SECONDS, "rate": 11025})
    keys = [(leaf, artist, track) for leaf in leaves() for artist in range(ARTISTS) for track in range(TRACKS)]
    return {key: compose_track(*key, settings)[0][0] for key in keys}


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "tracks.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- the folder ---------------------------------------------------------------------------------------------------


def test_table_lists_every_file_with_its_path_in_the_tree(corpus: Path) -> None:
    rows = read_rows(corpus)
    tree = Taxonomy.builtin("ccmusic")
    assert tuple(rows[0]) == COLUMNS
    assert {row["path"] for row in rows} == {p.relative_to(corpus).as_posix() for p in corpus.glob("audio/*/*")}
    assert [tree.find_leaf(row["genre"]) for row in rows] == list(range(16))
    for row in rows:
        given = (row["level_1"], row["level_2"], row["level_3"])
        assert tree.find_leaf(given) == tree.find_leaf(row["genre"])
    opera = next(row for row in rows if row["genre"] == "Opera")
    assert (opera["level_1"], opera["level_2"], opera["level_3"]) == ("Classic", "Opera", "Opera")


def test_files_have_the_requested_length(corpus: Path) -> None:
    for path in corpus.glob("audio/*/*.flac"):
        info = soundfile.info(path)
        assert (info.frames, info.samplerate, info.channels) == (12 * 22050, 22050, 1)


def test_output_is_independent_of_workers(corpus: Path, tmp_path: Path) -> None:
    compose_corpus(tmp_path, SMALL, workers=1, progress=False)
    for path in corpus.glob("audio/*/*.flac"):
        assert path.read_bytes() == (tmp_path / path.relative_to(corpus)).read_bytes()
    assert (corpus / "tracks.csv").read_bytes() == (tmp_path / "tracks.csv").read_bytes()


def test_repeated_call_renders_only_missing_tracks(corpus: Path) -> None:
    files = sorted(corpus.glob("audio/*/*.flac"))
    lost, before = files[3], files[3].read_bytes()
    times = {path: path.stat().st_mtime_ns for path in files}
    lost.unlink()
    compose_corpus(corpus, SMALL, workers=1, progress=False)
    assert lost.read_bytes() == before
    assert [path for path in files if path.stat().st_mtime_ns != times[path]] == [lost]
    assert not list(corpus.rglob("*.part"))


def test_other_settings_are_rejected_in_the_same_folder(corpus: Path) -> None:
    with pytest.raises(CorpusError, match="other settings; choose another folder"):
        compose_corpus(corpus, ComposeSettings.build({**SMALL.model_dump(), "seed": 1}), progress=False)


def test_damaged_record_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "composed.json").write_text("{")
    with pytest.raises(CorpusError, match="not readable"):
        compose_corpus(tmp_path, SMALL, progress=False)


def test_zero_workers_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="workers is 0"):
        compose_corpus(tmp_path, SMALL, workers=0, progress=False)


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot be written"):
        compose_corpus(tmp_path / "file", SMALL, progress=False)


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"genretree\[compose\]"):
        compose_corpus(tmp_path, SMALL, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values", [{"artists": 0}, {"tracks": 0}, {"seconds": 11}, {"format": "mp3"}, {"channels": 3}, {"artist": 2}]
)
def test_settings_out_of_range_are_rejected(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        ComposeSettings.build(values)


def test_unknown_leaf_is_rejected() -> None:
    with pytest.raises(TaxonomyError, match="did you mean 'Soft_rock'"):
        compose_track("Soft_rok", 0, 0, SMALL)


# -- the sound ----------------------------------------------------------------------------------------------------


def test_every_track_is_audible_and_within_full_scale(tracks: dict[tuple[str, int, int], np.ndarray]) -> None:
    for key, samples in tracks.items():
        assert samples.shape == (SECONDS * 11025,), key
        assert np.isfinite(samples).all(), key
        assert 0.4 < np.abs(samples).max() <= 1.0, key
        assert np.sqrt(np.mean(samples[:11025] ** 2)) > 0.003, key
        # Audible in every four seconds except the last, which may fade out.
        assert min(np.abs(part).max() for part in np.split(samples, 6)[:-1]) > 0.01, key


def test_the_end_is_quiet(tracks: dict[tuple[str, int, int], np.ndarray]) -> None:
    assert all(np.abs(samples[-20:]).max() < 0.02 for samples in tracks.values())


def test_samples_depend_on_the_seed_only() -> None:
    again = [compose_track("Chamber", 1, 0, SMALL)[0] for _ in range(2)]
    other = compose_track("Chamber", 1, 0, ComposeSettings.build({**SMALL.model_dump(), "seed": 1}))[0]
    assert np.array_equal(*again)
    assert not np.array_equal(again[0], other)


def test_counts_do_not_change_other_tracks() -> None:
    many = ComposeSettings.build({**SMALL.model_dump(), "artists": 50, "tracks": 9})
    assert np.array_equal(compose_track("Opera", 0, 0, SMALL)[0], compose_track("Opera", 0, 0, many)[0])


def test_stereo_has_two_different_channels() -> None:
    stereo = ComposeSettings.build({**SMALL.model_dump(), "channels": 2})
    samples, _ = compose_track("Symphony", 0, 0, stereo)
    assert samples.shape == (2, 12 * 22050)
    assert not np.allclose(samples[0], samples[1])


@pytest.mark.parametrize("program", [0, 16, 24, 33, 40, 48, 56, 73, 85])
@pytest.mark.parametrize("pitch", [48, 60, 69, 76])
def test_instruments_play_in_tune(program: int, pitch: int) -> None:
    rate, size = 22050, 1 << 18
    expected = 440.0 * 2 ** ((pitch - 69) / 12)
    for cents in (0.0, 30.0):
        note = Sampler(rate, cents).note(program, pitch, 1.5)[2000:24000]
        spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), size))
        peaks = []
        for partial in range(1, 5):
            low, high = (int(expected * partial * 2 ** (side / 12) * size / rate) for side in (-2, 2))
            peak = low + int(np.argmax(spectrum[low:high]))
            peaks.append((spectrum[peak], 1200 * np.log2(peak * rate / size / (expected * partial))))
        assert abs(max(peaks)[1] - cents) < 25


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_every_program_is_audible_in_its_register(rate: int) -> None:
    sampler = Sampler(rate)
    for name, role in style_book().roles.items():
        for program in role.programs if role.job != "drums" else ():
            for pitch in role.register_:
                note = sampler.note(program, pitch, 0.3)
                assert np.isfinite(note).all()
                assert 0.01 < np.abs(note).max() < 3.0, (name, program, pitch)


def test_damaged_soundfont_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "broken.sf2"
    path.write_bytes(b"RIFF\x00\x00\x00\x00sfbk")
    with pytest.raises(CorpusError, match="not a readable SoundFont"):
        SoundFont(path)


# -- the music ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", leaves())
def test_notes_and_metadata_follow_the_style(leaf: str) -> None:
    _, style = find_style(leaf)
    book = style_book()
    allowed = {entry.removesuffix("?") for ensemble in style.ensembles for entry in ensemble}
    for artist in range(6):
        piece = compose_score(leaf, artist, 0)
        metadata = piece.metadata
        assert style.tempo[0] - 0.1 <= metadata.bpm <= style.tempo[1] + 0.1
        assert metadata.metre in style.metres
        assert metadata.mode in style.modes
        assert min(part.starts[0] for part in piece.parts) < 0.5
        for part in piece.parts:
            assert part.player.name in allowed
            assert part.pitches.min() >= 0
            assert part.pitches.max() <= 127
            assert part.velocities.min() >= 1
            assert part.velocities.max() <= 127
            assert part.starts.min() >= 0.0
            assert part.starts.max() < metadata.seconds
            assert (part.lengths > 0).all()
            if part.player.role.job in ("melody", "double", "counter"):
                low, high = book.roles[part.player.name].register_
                assert part.pitches.min() >= low - 3
                assert part.pitches.max() <= high + 3


def test_pop_melodies_are_mostly_diatonic() -> None:
    shares = []
    for leaf in leaves()[4:]:
        piece = compose_score(leaf, 0, 0)
        name, mode = piece.metadata.key.split()
        tonic = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B").index(name)
        scale = [(tonic + degree) % 12 for degree in SCALES[mode]]
        tune = np.concatenate([p.pitches for p in piece.parts if p.player.role.job == "melody"])
        shares.append(np.isin(tune % 12, scale).mean())
    assert np.mean(shares) > 0.9


def test_solo_has_one_instrument_and_dance_has_drums() -> None:
    for artist in range(8):
        assert len({part.player.program for part in compose_score("Solo", artist, 0).parts}) == 1
        assert "drums" in {part.player.role.job for part in compose_score("Dance_pop", artist, 0).parts}


def test_tracks_of_an_artist_share_the_signature_and_differ_in_music() -> None:
    first, second = (compose_score("Soft_rock", 2, track) for track in range(2))
    assert first.metadata.artist == second.metadata.artist
    assert first.artist is second.artist or first.artist == second.artist
    assert abs(first.metadata.bpm / second.metadata.bpm - 1) < 0.11
    assert not np.array_equal(first.parts[0].pitches, second.parts[0].pitches)


def test_artist_names_are_unique() -> None:
    for seed in (0, 7):
        names = {artist_name(seed, leaf, i, artist) for i, leaf in enumerate(leaves()) for artist in range(300)}
        assert len(names) == 16 * 300


def test_neighbouring_styles_overlap() -> None:
    book = style_book()
    for above in {path[:-1] for path in Taxonomy.builtin("ccmusic").leaves if len(path) == 3}:
        siblings = [book.styles[p[-1]] for p in Taxonomy.builtin("ccmusic").leaves if p[:-1] == above]
        assert max(s.tempo[0] for s in siblings) < min(s.tempo[1] for s in siblings)
        roles = [{role for ensemble in s.ensembles for role in ensemble} for s in siblings]
        for i, style in enumerate(siblings):
            others = [k for k in range(len(siblings)) if k != i]
            assert any(set(style.grooves) & set(siblings[k].grooves) for k in others)
            assert any(len(roles[i] & roles[k]) >= 3 for k in others)


def test_chord_symbols_are_parsed() -> None:
    def tones(text: str, family: str = "major") -> set[int]:
        return set(parse_chord(text, family).pitch_classes(0))

    assert tones("V7") == {7, 11, 2, 5}
    assert tones("bVII") == {10, 2, 5}
    assert tones("V7/ii") == {9, 1, 4, 7}
    assert tones("viio7/V") == {6, 9, 0, 3}
    assert tones("VI", "minor") == {8, 0, 3}
    assert tones("viio7", "minor") == {11, 2, 5, 8}
    assert tones("ii65") == {2, 5, 9, 0}
    assert parse_chord("ii65", "major").bass == 5
    assert parse_chord("I64", "major").bass == 7
    with pytest.raises(ValueError, match="not a chord"):
        parse_chord("H7", "major")


def test_voicing_stays_within_an_octave_of_its_centre() -> None:
    pitches = voicing((0, 4, 7, 11), 60)
    assert [p % 12 for p in sorted(pitches, key=lambda p: p % 12)] == [0, 4, 7, 11]
    assert all(54 <= p <= 65 for p in pitches)


# -- the difficulty -----------------------------------------------------------------------------------------------


def mel_16k(samples: np.ndarray) -> np.ndarray:
    """Forty log bands similar to mel, independent of the code under test."""
    size, hop = 1024, 512
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop] * np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = 700 * (np.exp(np.linspace(np.log1p(30 / 700), np.log1p(5500 / 700), 41)) - 1)
    bins = np.unique(np.round(edges * size / 11025).astype(int))
    bands = np.add.reduceat(power, bins[:-1], axis=1)
    decibels = 10 * np.log10(np.maximum(bands, 1e-9))
    return np.maximum(decibels, decibels.max() - 80) - decibels.max()


def test_unseen_artists_are_harder_than_seen_ones(tracks: dict[tuple[str, int, int], np.ndarray]) -> None:
    features, labels, groups = [], [], []
    for (leaf, artist, _), samples in tracks.items():
        index = leaves().index(leaf)
        for part in np.array_split(mel_16k(samples), 2):  # about 11.4 s each
            features.append(np.concatenate([part.mean(0), part.std(0), np.abs(np.diff(part, axis=0)).mean(0)]))
            labels.append(index)
            groups.append(index * 100 + artist)
    table, truth = np.array(features), np.array(labels)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=200))
    by_slice = cross_val_predict(model, table, truth, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    by_artist = cross_val_predict(
        model, table, truth, groups=groups, cv=StratifiedGroupKFold(5, shuffle=True, random_state=0)
    )
    seen_accuracy, unseen_accuracy = np.mean(by_slice == truth), np.mean(by_artist == truth)
    classic = np.mean((by_artist < 4) == (truth < 4))
    assert seen_accuracy - unseen_accuracy > 0.15, (seen_accuracy, unseen_accuracy)
    assert 0.25 < unseen_accuracy < 0.7, unseen_accuracy  # chance is 0.06
    assert classic > 0.85, classic


def test_signature_does_not_depend_on_the_track() -> None:
    assert sample_artist(0, "Acoustic_pop", 3) == sample_artist(0, "Acoustic_pop", 3)
    assert sample_artist(0, "Acoustic_pop", 3).mix != sample_artist(0, "Acoustic_pop", 4).mix
