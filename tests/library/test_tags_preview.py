"""`apply` does what the preview shows, and every skipped file has a reason."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mutagen
import pytest
from library_fakes import FORMATS, TREE, fake_classifier
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TIT2
from mutagen.wave import WAVE

from genretree.library.apply.apply import apply_plans
from genretree.library.apply.undo import undo
from genretree.library.database import records
from genretree.library.database.connection import Database, open_database
from genretree.library.plan import planner as plan_module
from genretree.library.plan.mapping import Mapping, parse_mapping
from genretree.library.plan.planner import ACTIONS, TagPlan, iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags import trial_write
from genretree.library.tags.adapters import TagError, read_tags
from genretree.sound.containers import sniff
from genretree.sound.decode import probe

V1 = b"TAG" + b"old title".ljust(124, b"\0") + b"\x11"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        yield database


def _plans(database: Database, mode: str = "overwrite", rules: Mapping | None = None) -> list[TagPlan]:
    model, model_key = records.find_model(database)
    return list(iter_plans(database, model, model_key, rules or Mapping(), mode))  # type: ignore[arg-type]


def _number(size: int) -> bytes:
    return bytes(size >> 7 * place & 127 for place in (3, 2, 1, 0))


def _frame(name: bytes, text: bytes) -> bytes:
    return name + _number(len(text) + 1) + b"\0\0\x03" + text


def _id3(content: bytes, size: int | None = None, footer: bool = False) -> bytes:
    head = bytes([4, 0, 0x10 if footer else 0]) + _number(len(content) if size is None else size)
    return b"ID3" + head + content + (b"3DI" + head if footer else b"")


TITLE = _frame(b"TIT2", b"A title")


def _bare_flac(path: Path) -> bytes:
    """Take the comments out of a FLAC file, block and all."""
    file = FLAC(path)
    file.metadata_blocks = [block for block in file.metadata_blocks if block.code != 4]
    file.tags = None
    file.save()
    content = path.read_bytes()
    at, kept = 4, []
    while True:
        end = at + 4 + int.from_bytes(content[at + 1 : at + 4], "big")
        if content[at] & 0x7F not in (1, 4):
            kept.append(bytes([content[at] & 0x7F]) + content[at + 1 : end])
        last, at = content[at] & 0x80, end
        if last:
            break
    kept[-1] = bytes([kept[-1][0] | 0x80]) + kept[-1][1:]
    return b"fLaC" + b"".join(kept) + content[at:]


MADE: dict[str, Callable[[Path], bytes]] = {
    "id3_before.flac": lambda music: _id3(TITLE) + (music / "flac.flac").read_bytes(),
    "no_comments.flac": lambda music: _bare_flac(music / "flac.flac"),
    "v1_behind.flac": lambda music: (music / "flac.flac").read_bytes() + V1,
    "footer.mp3": lambda music: _id3(TITLE, footer=True) + (music / "none.mp3").read_bytes(),
    "no_footer.mp3": lambda music: _id3(TITLE, footer=True)[:-10] + bytes(10) + (music / "none.mp3").read_bytes(),
    "twice.mp3": lambda music: _id3(TITLE + _frame(b"TIT2", b"Another")) + (music / "none.mp3").read_bytes(),
    "bytes_behind.ogg": lambda music: (music / "vorbis.ogg").read_bytes() + b"garbage behind the last page",
    "tag_behind.opus": lambda music: (music / "opus.opus").read_bytes() + V1,
    "into_the_sound.mp3": lambda music: _id3(TITLE, 3000) + (music / "none.mp3").read_bytes(),
    "beyond_the_end.mp3": lambda music: _id3(TITLE, 1 << 24) + (music / "none.mp3").read_bytes(),
    "v1.mp3": lambda music: (music / "none.mp3").read_bytes() + V1.replace(b"\0\0\0\0", b"1999", 1),
    "nameless.flac": lambda music: (music / "flac.flac").read_bytes().replace(b"artist=", b"artist_"),
    "nameless.ogg": lambda music: _sealed((music / "vorbis.ogg").read_bytes().replace(b"artist=", b"artist_")),
    "info.wav": lambda music: (music / "pcm.wav").read_bytes(),
    "cut_info.wav": lambda music: (music / "pcm.wav").read_bytes().replace(b"INAM\x08", b"INAM\x7f"),
    "fragments.m4a": lambda music: _fragments(music / "aac.m4a"),
    "bytes_behind.m4a": lambda music: (music / "aac.m4a").read_bytes() + b"\0\0\xff\xffjunk",
}
WRITTEN = {"id3_before.flac", "no_comments.flac", "v1_behind.flac", "footer.mp3", "info.wav"}


def _sealed(content: bytes) -> bytes:
    """Recompute the checksums of an Ogg file's pages."""
    from mutagen.ogg import OggPage

    stream, pages = io.BytesIO(content), []
    while stream.tell() < len(content):
        pages.append(OggPage(stream).write())
    return b"".join(pages)


def _fragments(path: Path) -> bytes:
    made = path.with_name("made.m4a")
    how = ("-c", "copy", "-movflags", "+frag_keyframe+empty_moov", "-frag_duration", "500000")
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), *how, str(made)], check=True)
    return made.read_bytes()


@pytest.mark.parametrize("name", MADE)
def test_apply_writes_what_the_preview_shows(
    music: Path,
    database: Database,
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")  # other tests use the system's at the same time
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = music / "made" / name
    path.parent.mkdir()
    path.write_bytes(MADE[name](music))
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    (plan,) = _plans(database)
    assert path.read_bytes() == before
    assert list(temporary.iterdir()) == []
    assert plan.action in ("write", "untaggable")
    assert bool(plan.message.strip()) == (plan.action != "write")
    if name in WRITTEN:
        assert plan.action == "write"
    _, model_key = records.find_model(database)
    run, written, refused = apply_plans(database, [replace(plan, action="write")], model_key.digest)
    assert (written, len(refused)) == ((1, 0) if plan.action == "write" else (0, 1))
    assert all(item.reason.strip() for item in refused)
    if run is not None:
        assert read_tags(path).genres == ("Soft_rock",)
        assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["beyond_the_end.mp3", "into_the_sound.mp3"])
def test_an_mp3_with_too_large_an_id3_tag_is_analysed(music: Path, database: Database, name: str) -> None:
    whole = probe(music / "none.mp3")
    path = music / name
    path.write_bytes(MADE[name](music))
    assert probe(path).sr == whole.sr
    analyse(database, [path], fake_classifier())
    (plan,) = _plans(database)
    assert plan.result is not None
    assert plan.action == "untaggable"
    assert "damaged" in plan.message


def test_audio_after_an_oversized_tag_is_found(music: Path) -> None:
    path = music / "beyond_the_end.mp3"
    path.write_bytes(MADE[path.name](music))
    with path.open("rb", buffering=0) as file:
        assert sniff(file, path.stat().st_size) == ("mp3", len(_id3(TITLE)))


@pytest.mark.parametrize("name", FORMATS)
def test_usual_layouts_are_not_tried_on_a_copy(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = music / name
    if name == "pcm.wav":  # has a list INFO
        file = WAVE(path)
        file.add_tags()
        file.tags.add(TIT2(encoding=3, text=["A title"]))
        file.save()
    monkeypatch.setattr(trial_write, "trial_write", lambda *_: pytest.fail("tried on a copy"))
    analyse(database, [path], fake_classifier())
    assert [plan.action for plan in _plans(database)] == ["write"]


def test_every_skipped_file_has_a_reason(music: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(music / "flac.flac", music / "bad.flac")
    (music / "text.mp3").write_text("no music")
    tags = mutagen.File(music / "flac.flac")
    tags["genre"] = "Polka"
    tags.save()
    analyse(database, [music], fake_classifier())
    (music / "vorbis.ogg").unlink()
    os.utime(music / "opus.opus", (1, 1))
    (music / "pcm.aiff").write_bytes(b"")
    uncertain = parse_mapping({"min_confidence": 1.0}, TREE)
    found = {plan.action for plan in _plans(database, "only-empty")}
    found |= {plan.action for plan in _plans(database, rules=uncertain)}
    for plan in (*_plans(database, "only-empty"), *_plans(database, rules=uncertain)):
        assert plan.action in ("write", "same") or plan.message.strip(), plan
    assert {"has_genre", "unusable", "untaggable", "changed", "not_found", "unsure"} <= found
    plan = _plans(database)[0]
    for action in ACTIONS:
        bare = replace(plan, action=action, message="")
        monkeypatch.setattr(plan_module, "plan_file", lambda *_, bare=bare: bare)
        if action not in ("write", "same"):
            assert all(item.message.strip() for item in _plans(database)), action


def test_errors_without_a_text_are_reasons_too(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mutagen.id3

    for error in (AssertionError(), mutagen.MutagenError(), OSError(), RecursionError()):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(ID3, "load", fail)
        with pytest.raises(TagError, match=rf"its tags are damaged \({type(error).__name__}\); "):
            read_tags(music / "v24.mp3")


def test_too_large_an_id3_tag_is_refused_with_its_size(music: Path) -> None:
    path = music / "beyond_the_end.mp3"
    path.write_bytes(MADE[path.name](music))
    with pytest.raises(TagError, match=r"declares [0-9,]+ bytes and the file has [0-9,]+; save"):
        read_tags(path)


def test_boxes_within_boxes_without_end_are_a_doubt(music: Path) -> None:
    path = music / "aac.m4a"
    boxes = b"".join(struct.pack(">I4s", 8 * (5000 - number), b"moov") for number in range(5000))
    path.write_bytes(path.read_bytes() + boxes)
    assert trial_write.needs_trial(path)


def test_sizes_that_do_not_fit_are_a_doubt(music: Path) -> None:
    for name in ("pcm.wav", "pcm.aiff"):
        content = (music / name).read_bytes()
        order = "<I" if name == "pcm.wav" else ">I"
        (music / name).write_bytes(content[:4] + struct.pack(order, len(content)) + content[8:])
        assert trial_write.needs_trial(music / name)
