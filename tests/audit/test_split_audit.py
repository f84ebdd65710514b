"""Splits that keep the copies that an audit found on one side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from genretree.audit.evidence import read_copies
from genretree.cli import main
from genretree.corpus.splits import PARTS
from genretree.corpus.store import Store, StoreMetadata, write_tables
from genretree.errors import CorpusError
from genretree.settings import ImageSettings
from genretree.taxonomy import Taxonomy

TRACKS = 24
SETTINGS = ImageSettings.build({"size": 32})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A track of one slice for each of 24 artists, under two leaves."""
    folder = tmp_path / "store"
    folder.mkdir()
    np.save(folder / "images.npy", np.zeros((TRACKS, 3, 32, 32), np.uint8))
    tracks: dict[str, list[Any]] = {
        "path": [f"{i}.mp3" for i in range(TRACKS)],
        "genre": ["A" if i % 2 else "B" for i in range(TRACKS)],
        "leaf": [i % 2 for i in range(TRACKS)],
        "group": [f"artist:{i}" for i in range(TRACKS)],
        "sha256": [str(i) for i in range(TRACKS)],
    }
    flags = np.zeros(TRACKS, bool)
    slices = {"track": np.arange(TRACKS), "start": np.zeros(TRACKS), "padded": flags, "silent": flags}
    facts = StoreMetadata(source="music", group_by="artist", engine="numpy", version="0.2.0", digest="0123456789abcdef")
    write_tables(folder, tracks, slices, Taxonomy.from_nested({"A": {}, "B": {}}), SETTINGS, facts, ())
    return Store(folder)


def write_audit(store: Store, pairs: list[tuple[int, int]], path: Path, **changes: Any) -> Path:
    findings = [
        {"kind": kind, "places": [{"track": track, "path": store.tracks["path"][track]} for track in pair]}
        for pair, kind in zip(pairs, ["same_file", "same_image", "near_image", "same_sound"] * 5, strict=False)
    ]
    findings.append({"kind": "several_leaves", "places": []})
    content = {
        "tracks": store.n_tracks,
        "slices": store.n_slices,
        "digest": store.metadata.digest,
        "findings": findings,
    }
    path.write_text(json.dumps({**content, **changes}))
    return path


def split(store: Store, *words: object) -> Result:
    return CliRunner().invoke(main, ["split", str(store.folder), *map(str, words)])


CHAIN = [(i, i + 3) for i in range(9)]  # three chains of four artists, under both leaves


@pytest.mark.parametrize("seed", range(3))
def test_copies_lie_on_one_side(store: Store, tmp_path: Path, seed: int) -> None:
    audit = write_audit(store, CHAIN, tmp_path / "audit.json")
    assert split(store, "--seed", seed, "--name", "plain").exit_code == 0
    outcome = split(store, "--seed", seed, "--audit", audit)
    assert outcome.exit_code == 0, outcome.output
    assert f"9 pairs of copies in {audit}: 12 groups joined into 3.\n" in outcome.output
    made = store.split()
    assert set(made.parts) == set(PARTS)
    assert all(made.parts[one] == made.parts[other] for one, other in CHAIN)
    assert made.copies is not None
    assert (made.copies.audit, made.copies.pairs, made.copies.groups, made.copies.into) == (str(audit), 9, 12, 3)
    assert store.split("plain").copies is None
    plain = [store.split("plain").parts[one] == store.split("plain").parts[other] for one, other in CHAIN]
    assert not all(plain)


def test_folds_keep_copies_together_too(store: Store, tmp_path: Path) -> None:
    outcome = split(store, "--folds", 3, "--audit", write_audit(store, CHAIN, tmp_path / "audit.json"))
    assert outcome.exit_code == 0, outcome.output
    for number in range(3):
        made = store.split(f"folds-{number}")
        assert made.copies is not None
        assert all((made.parts[one] == "test") == (made.parts[other] == "test") for one, other in CHAIN)


def test_an_audit_without_copies_joins_nothing(store: Store, tmp_path: Path) -> None:
    outcome = split(store, "--audit", write_audit(store, [], tmp_path / "audit.json"))
    assert "0 pairs of copies" in outcome.output
    assert "no groups to join" in outcome.output
    assert outcome.exit_code == 0


def test_an_audit_of_before_carries_no_digest(store: Store, tmp_path: Path) -> None:
    path = write_audit(store, CHAIN[:1], tmp_path / "audit.json")
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(json.dumps(content))
    assert read_copies(path, store).pairs == ((0, 3),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracks": 25}, "it covers 25 tracks and 24 slices, the store has 24 and 24"),
        ({"digest": "other"}, "rebuilt from other music or settings"),
        ({"findings": [{"kind": "same_file", "places": [{"track": 1, "path": "x.mp3"}] * 2}]}, "its track 1, 'x.mp3'"),
        ({"findings": [{"kind": "same_file", "places": [{"track": 99, "path": "x.mp3"}] * 2}]}, "its track 99"),
        ({"findings": [{"kind": "same_file", "places": [{"track": -1, "path": "23.mp3"}] * 2}]}, "its track -1"),
        ({"findings": [{"kind": "same_file", "places": [{"track": 1, "path": "1.mp3"}]}]}, "has 1 places"),
        ({"findings": [{"kind": "same_file"}]}, "not an audit.json of genretree"),
        ({"findings": None}, "not an audit.json of genretree"),
    ],
)
def test_an_audit_of_another_store_is_refused(
    store: Store, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    audit = write_audit(store, CHAIN, tmp_path / "audit.json", **changes)
    outcome = split(store, "--audit", audit)
    assert outcome.exit_code == 1
    assert message in outcome.output
    assert f"genretree audit {store.folder}" in outcome.output
    assert store.split_names() == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"3", b'{"tracks": []}', b"[" * 100_000])
def test_what_is_not_an_audit_is_refused(store: Store, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "audit.json"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"not an audit\.json of genretree"):
        read_copies(path, store)
    with pytest.raises(CorpusError, match="cannot be read"):
        read_copies(tmp_path, store)


def test_slices_can_not_be_kept_together(store: Store, tmp_path: Path) -> None:
    outcome = split(store, "--protocol", "slice", "--audit", write_audit(store, CHAIN, tmp_path / "audit.json"))
    assert outcome.exit_code == 1
    assert "--audit goes with the protocol 'group'" in outcome.output
