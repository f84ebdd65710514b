"""Audits of stores with planted copies, leakage and label errors."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from click.testing import CliRunner

from genretree.audit import audit
from genretree.audit.alignment import agreement, best_shift, detail, similarity_score
from genretree.audit.copies import same_files
from genretree.audit.findings import Finding
from genretree.audit.fingerprints import compute_fingerprints, compute_thumbnails, reduce_rows
from genretree.audit.labels import find_label_issues, find_mislabelled
from genretree.audit.landmarks import count_votes
from genretree.audit.page import MAX_PAIRS, save_audit
from genretree.cli import main
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.splits import Split, split_slices
from genretree.corpus.store import Store
from genretree.errors import CorpusError
from genretree.evaluation.plots import draw_strip
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.taxonomy import Taxonomy

pytestmark = pytest.mark.slow

TREE = Taxonomy.from_nested({"Calm": ["Slow", "Soft"], "Busy": ["Fast", "Loud"]})
SECONDS = 20.5
SETTINGS = ImageSettings.build({"slice_seconds": 5.0, "size": 112})


def play(seed: int, seconds: float = SECONDS) -> np.ndarray:
    """Random notes, unique to the seed: mono float32."""
    rng = np.random.default_rng(seed)
    sound = 0.002 * rng.standard_normal(round(seconds * SAMPLE_RATE))
    begin = 0.0
    while begin < seconds - 0.7:
        length = rng.uniform(0.15, 0.6)
        time = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 110 * 2 ** (rng.integers(0, 40) / 12)
        note = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 5)) * np.exp(-time * 4)
        start = round(begin * SAMPLE_RATE)
        sound[start : start + len(note)] += note
        begin += rng.uniform(0.08, 0.35)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six recordings, a copy of one file, and a quieter mp3 of another that starts later."""
    folder = tmp_path_factory.mktemp("planted")
    rows = []
    for seed, leaf in enumerate(("Slow", "Soft", "Fast", "Loud", "Slow", "Loud")):
        sf.write(folder / f"{seed}.flac", play(seed), SAMPLE_RATE)
        rows.append((f"{seed}.flac", leaf, f"artist {seed}"))
    shutil.copy(folder / "0.flac", folder / "same.flac")
    sf.write(folder / "changed.mp3", 0.5 * play(1)[round(2.37 * SAMPLE_RATE) :], SAMPLE_RATE)
    rows += [("same.flac", "Slow", "artist 6"), ("changed.mp3", "Loud", "artist 7")]
    with (folder / "tracks.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "genre", "artist"), *rows])
    manifest = read_manifest(folder / "tracks.csv", TREE, "artist")
    return prepare(manifest, folder / "store", SETTINGS, workers=1)


@pytest.fixture
def copied(planted: Store, tmp_path: Path) -> Path:
    """A copy of the planted store that a test may change."""
    shutil.copytree(planted.folder, tmp_path / "store")
    return tmp_path / "store"


def write_split(store: Store, parts: list[str], name: str = "default") -> None:
    Split(name=name, protocol="group", seed=0, parts=tuple(parts)).save(store.folder / "splits")


def change_tracks(folder: Path, **columns: Any) -> Store:
    table = pq.read_table(folder / "tracks.parquet").to_pydict()
    pq.write_table(pa.table({**table, **columns}), folder / "tracks.parquet")
    return Store(folder)


def pairs(findings: tuple[Finding, ...]) -> dict[tuple[str, ...], Finding]:
    found = [item for item in findings if len(item.places) == 2]
    return {tuple(sorted(place.path for place in item.places)): item for item in found}


# -- copies --------------------------------------------------------------------------------------------------


def test_copies_by_file_and_by_recording_are_found_and_nothing_else(planted: Store) -> None:
    write_split(planted, ["train", "train", "train", "train", "test", "test", "test", "train"])
    found = audit(planted)
    by_pair = pairs(found.findings)
    assert set(by_pair) == {("0.flac", "same.flac"), ("1.flac", "changed.mp3")}
    same, changed = by_pair["0.flac", "same.flac"], by_pair["1.flac", "changed.mp3"]
    assert (same.kind, same.leak, same.conflict, same.severity) == ("same_file", True, False, "error")
    assert (changed.leak, changed.conflict, changed.severity) == (False, True, "error")
    assert changed.kind == "same_sound"
    assert changed.offset == pytest.approx(2.37, abs=0.1)
    assert changed.seconds is not None
    assert 8 <= changed.seconds <= SECONDS
    assert found.failed
    assert found.summary["pairs"] == 2
    assert found.summary["leaking_pairs"] == found.summary["conflicting_pairs"] == 1


def test_near_duplicate_images_are_found_and_silent_ones_are_not(copied: Path) -> None:
    images = np.load(copied / "images.npy", mmap_mode="r+")
    tracks = Store(copied).slice_tracks
    rows = {track: np.flatnonzero(tracks == track) for track in range(8)}
    rng = np.random.default_rng(0)
    source = images[rows[2][0]].astype(float)
    images[rows[3][1]] = np.clip(0.8 * source + 30 + rng.normal(0, 10, source.shape), 0, 255)
    images[rows[4][0], ..., :-3] = images[rows[2][2]][..., 3:]
    images[rows[5][1]] = images[rows[2][1]]
    images[rows[3][3]] = images[rows[4][3]] = 0
    images.flush()
    by_pair = pairs(audit(Store(copied)).findings)
    assert by_pair["2.flac", "3.flac"].kind == "near_image"
    assert by_pair["2.flac", "4.flac"].kind == "near_image"
    assert by_pair["2.flac", "5.flac"].kind == "same_image"
    assert by_pair["2.flac", "5.flac"].similarity == 1.0
    assert ("3.flac", "4.flac") not in by_pair
    places = by_pair["2.flac", "4.flac"].places
    assert [place.row for place in places] == [rows[2][2], rows[4][0]]


def test_constant_images_are_not_copies(copied: Path) -> None:
    images = np.load(copied / "images.npy", mmap_mode="r+")
    images[:] = 7
    images.flush()
    found = audit(Store(copied)).findings
    assert [item.kind for item in found if len(item.places) == 2] == ["same_file"]


def test_repetition_within_a_track_is_not_a_finding(copied: Path) -> None:
    images = np.load(copied / "images.npy", mmap_mode="r+")
    images[2] = images[1]
    images.flush()
    assert all(
        len({place.track for place in item.places}) == len(item.places) for item in audit(Store(copied)).findings
    )


def test_store_without_audio_features_is_audited(copied: Path) -> None:
    (copied / "mel_16k.npy").unlink(missing_ok=True)
    assert ("1.flac", "changed.mp3") in pairs(audit(Store(copied)).findings)


def test_same_files_are_paired_with_the_first() -> None:
    assert same_files(["a", "b", "a", "", "", "a"]) == [(0, 2), (0, 5)]


def test_shift_and_likeness_of_a_moved_slice() -> None:
    rng = np.random.default_rng(0)
    whole = np.repeat(rng.integers(0, 256, (1, 3, 56, 74), dtype=np.uint8), 2, axis=2)
    whole = np.repeat(whole, 2, axis=3)
    one, moved, other = (
        detail(piece)[0] for piece in (whole[..., :112], whole[..., 8:120], whole[:, ::-1, :, ::-1][..., :112])
    )
    correlation, shift = best_shift(one, moved, 20)
    assert shift == 8
    assert correlation > 0.9
    assert similarity_score(one, moved, 20)[0] > 0.9
    assert similarity_score(one, other, 20)[0] < 0.2
    assert np.all(agreement(one, moved, 8, 20) > 0.8)
    assert len(agreement(one, moved, 100, 20)) == 0


def test_common_fade_is_not_similarity() -> None:
    rng = np.random.default_rng(1)
    fade = np.linspace(1, 0, 112) ** 2
    pieces = np.clip(200 * fade - np.linspace(0, 120, 112)[:, None] + rng.normal(0, 6, (2, 3, 112, 112)), 0, 255)
    one, other = detail(pieces.astype(np.uint8))
    assert similarity_score(one, other, 10)[0] < 0.2


def test_thumbnails_are_invariant_to_level() -> None:
    images = np.random.default_rng(0).integers(60, 160, (2, 3, 64, 64), dtype=np.uint8)
    assert np.allclose(compute_thumbnails(images), compute_thumbnails(images + 40), atol=0.01)


def test_rows_are_means_over_areas() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert np.allclose(reduce_rows(image, 2), [[[2, 3, 4, 5], [10, 11, 12, 13]]])
    assert np.allclose(reduce_rows(image, 2, 1), [[[3.5], [11.5]]])
    assert np.allclose(reduce_rows(image, 3).mean(), image.mean())


def test_votes_are_for_the_offset_that_most_landmarks_share(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    names = rng.integers(0, 2**31, 60, dtype=np.uint64)
    columns = np.sort(rng.integers(50, 1000, 60))
    tracks = np.repeat([3, 5, 9], 60)
    names = np.concatenate([names, names, names[::-1]])
    landmarks = np.sort(names << 32 | np.arange(180, dtype=np.uint64))
    columns = np.concatenate([columns + 40, columns, columns])
    for some in (landmarks.size, 7):  # one chunk, or several
        monkeypatch.setattr("genretree.audit.landmarks._CHUNK", some)
        votes = count_votes(landmarks, tracks, columns)
        assert [(vote.track, vote.other, vote.offset, vote.votes) for vote in votes] == [(3, 5, 40, 60)]
    assert count_votes(np.sort(names[:60] << 32 | np.arange(60, dtype=np.uint64)), tracks[:60], columns) == []


def test_fingerprints_do_not_depend_on_the_batch_size(planted: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compute_fingerprints(planted)
    monkeypatch.setattr("genretree.audit.fingerprints.BATCH", 7)
    parts = compute_fingerprints(planted)
    assert (whole.checksums == parts.checksums).all()
    assert (whole.thumbnails == parts.thumbnails).all()
    assert all((getattr(whole.peaks, name) == getattr(parts.peaks, name)).all() for name in ("rows", "bins", "columns"))


# -- splits and tables ---------------------------------------------------------------------------------------


def shared(found: tuple[Finding, ...]) -> dict[str, Finding]:
    return {item.details["column"]: item for item in found if item.kind == "shared"}


def test_an_artist_on_both_sides_is_an_error(copied: Path) -> None:
    store = change_tracks(copied, group=["artist:x"] * 2 + [f"artist:{i}" for i in range(6)])
    write_split(store, ["train", "test", "test", "test", "validation", "train", "train", "train"])
    found = shared(audit(store).findings)
    assert set(found) == {"artist"}
    counts = np.bincount(store.slice_tracks)
    assert found["artist"].details["shares_in_training"]["test"] == pytest.approx(counts[1] / counts[1:4].sum())
    assert found["artist"].details["shares_in_training"]["validation"] == 0
    assert {place.path for place in found["artist"].places} == {"0.flac", "1.flac"}
    assert (found["artist"].severity, found["artist"].details["count"]) == ("error", 1)


def test_an_album_on_both_sides_is_a_warning_only(copied: Path) -> None:
    store = change_tracks(copied, album=["Best  of", "BEST OF"] + [""] * 6)
    write_split(store, ["train", "test"] + ["train"] * 6)
    assert {name: item.severity for name, item in shared(audit(store).findings).items()} == {"album": "warning"}


def test_split_by_slices_gives_one_finding_per_kind_of_owner(copied: Path) -> None:
    store = Store(copied)
    split_slices(store.track_leaves[store.slice_tracks], test=0.3).save(copied / "splits")
    found = audit(store, "slices")
    assert found.protocol.startswith("LEAKING")
    assert set(shared(found.findings)) == {"track", "artist"}
    assert shared(found.findings)["track"].details["shares_in_training"]["test"] > 0.9
    assert found.failed


def test_contradictory_genre_and_leaf_are_reported(copied: Path) -> None:
    store = change_tracks(
        copied, leaf=[1, 1, 2, 3, 0, 9, 0, 3], genre=["Slow", *Store(copied).tracks["genre"][1:7], "Jazz"]
    )
    found = {item.places[0].path: item for item in audit(store).findings if item.kind == "tree"}
    assert set(found) == {"0.flac", "5.flac", "changed.mp3"}
    assert "Calm > Soft" in found["0.flac"].text
    assert "leaf 9" in found["5.flac"].text
    assert "Jazz" in found["changed.mp3"].text
    assert all(item.severity == "error" for item in found.values())


def test_rows_rejected_for_their_labels_are_counted(copied: Path) -> None:
    content = json.loads((copied / "store.json").read_text())
    content["failures"] = [
        {"path": f"train/{i}", "kind": kind, "message": f"row {i}"}
        for i, kind in enumerate(("parent", "parent", "image"))
    ]
    (copied / "store.json").write_text(json.dumps(content))
    found = [item for item in audit(Store(copied)).findings if item.kind in ("parent", "label")]
    assert [(item.kind, item.details["count"], item.severity) for item in found] == [("parent", 2, "warning")]


def test_an_artist_under_several_leaves_is_a_note(copied: Path) -> None:
    store = change_tracks(copied, artist=["a", "a", "b", "c", "a", "d", "e", "f"])
    found = [item for item in audit(store).findings if item.kind == "several_leaves"]
    assert [(item.severity, item.details["count"], item.details["of"]) for item in found] == [("note", 1, 6)]
    assert found[0].details["names"]["a"] == {"Calm > Slow": 2, "Calm > Soft": 1}


# -- labels --------------------------------------------------------------------------------------------------


def test_planted_wrong_labels_come_first(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.folder, tmp_path / "store")
    planted = hits = flagged = right = 0
    for seed in range(3):
        leaves = store.track_leaves.copy()
        rng = np.random.default_rng(seed)
        wrong = rng.permutation(len(leaves))[: round(0.08 * len(leaves))]
        leaves[wrong] = (leaves[wrong] + rng.integers(1, 5, len(wrong))) % 5
        doubts = find_mislabelled(change_tracks(tmp_path / "store", leaf=leaves.tolist()))
        assert len(doubts) == store.n_tracks
        planted += len(wrong)
        hits += len({doubt.track for doubt in doubts[: len(wrong)]} & set(wrong.tolist()))
        flagged += sum(doubt.flagged for doubt in doubts)
        right += sum(doubt.flagged for doubt in doubts if doubt.track in wrong)
    assert hits >= 0.6 * planted  # by chance 8 %
    assert right >= 0.75 * planted
    assert right >= 0.4 * flagged
    best = doubts[0]
    assert best.suggested == " > ".join(store.taxonomy.leaves[store.track_leaves[best.track]])
    assert best.margin == pytest.approx(best.probability - best.suggested_probability, abs=1e-3)
    assert best.level in store.taxonomy.levels


def test_label_issues_use_thresholds_per_class() -> None:
    probabilities = np.array([[0.9, 0.1, 0], [0.7, 0.3, 0], [0.2, 0.8, 0], [0.3, 0.4, 0.3], [0.85, 0.15, 0]])
    margins, rivals, flagged = find_label_issues(probabilities, np.array([0, 0, 1, 1, 1]))
    # Mean probabilities of the labels: 0.8 and 0.45; the third class has no examples and is never suggested.
    assert flagged.tolist() == [False, False, False, False, True]
    assert rivals[4] == 0
    assert margins.round(2).tolist() == [0.8, 0.4, 0.6, 0.1, -0.7]


def test_labels_of_one_group_cannot_be_checked(copied: Path) -> None:
    store = change_tracks(copied, group=["artist:x"] * 8)
    with pytest.raises(CorpusError, match="labels cannot be checked"):
        find_mislabelled(store)


# -- page and command -----------------------------------------------------------------------------------------


def test_page_is_self_contained(planted: Store, tmp_path: Path) -> None:
    page = save_audit(audit(planted, labels=True), planted, tmp_path, "genretree audit <x>").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)
    assert page.count("<img ") == page.count('alt="') == 4
    assert "genretree audit &lt;x&gt;" in page
    assert "changed.mp3" in page
    with (tmp_path / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == planted.n_tracks
    assert {"path", "genre", "suggested", "probability", "margin", "flagged"} <= set(rows[0])
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["summary"]["pairs"] == 2


def test_page_counts_omitted_pairs(planted: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genretree.audit.page.MAX_PAIRS", 1)
    assert MAX_PAIRS > 1
    page = save_audit(audit(planted), planted, tmp_path).read_text()
    assert "1 more pairs are in audit.json" in page
    assert page.count("<img ") == 2


def test_strip_is_a_small_png() -> None:
    strip = draw_strip(np.random.default_rng(0).integers(0, 256, (3, 224, 224), dtype=np.uint8))
    assert strip.startswith(b"\x89PNG")
    assert len(strip) < 60_000


def test_command_writes_prints_and_is_strict(planted: Store, tmp_path: Path) -> None:
    write_split(planted, ["train"] * 4 + ["test"] * 4)
    words = ["audit", str(planted.folder), "--out", str(tmp_path), "--quiet"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "same_sound" in result.output
    assert "leak" in result.output
    result = CliRunner().invoke(main, [*words, "--strict", "--json"])
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "audit.json").read_text())
    assert {item["kind"] for item in printed["findings"]} >= {"same_file", "same_sound"}
    result = CliRunner().invoke(main, [*words, "--split", "none"])
    assert result.exit_code == 1
    assert "no split named 'none'" in result.output


def test_strict_passes_without_errors(copied: Path, tmp_path: Path) -> None:
    # Both copies become silent and get other checksums.
    slices = pq.read_table(copied / "slices.parquet").to_pydict()
    slices["silent"] = [track >= 6 for track in slices["track"]]
    pq.write_table(pa.table(slices), copied / "slices.parquet")
    change_tracks(copied, sha256=[str(i) for i in range(8)])
    result = CliRunner().invoke(main, ["audit", str(copied), "--out", str(tmp_path / "out"), "--quiet", "--strict"])
    assert result.exit_code == 0, result.output
    assert "No copies" in result.output
