from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import mutagen
import numpy as np
import pytest
import soundfile as sf
from library_fakes import FORMATS, TREE, fake_classifier
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TCON, TXXX, ID3NoHeaderError

from genretree.errors import LibraryError
from genretree.files import content_digest
from genretree.library.apply import apply as apply_module
from genretree.library.apply.apply import apply_plans
from genretree.library.apply.recover import recover
from genretree.library.apply.undo import undo
from genretree.library.database import journal, records
from genretree.library.database.connection import Database, open_database
from genretree.library.plan.mapping import Mapping, parse_mapping
from genretree.library.plan.planner import Filters, iter_plans
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import TagError, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, hash_audio
from genretree.library.tags.binary_delta import apply_delta, make_delta

pytestmark = pytest.mark.slow

PATH = "Other > Rock > Soft_rock"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "library.sqlite", create=True) as database:
        yield database


def _write(
    database: Database, mode: str = "only-empty", rules: Mapping | None = None, **options: bool
) -> tuple[int, list[str]]:
    model, model_key = records.find_model(database)
    plans = list(iter_plans(database, model, model_key, rules or Mapping(), mode))  # type: ignore[arg-type]
    run, _, refused = apply_plans(database, plans, model_key.digest, **options)
    reasons = [(item.path, item.reason) for item in refused]
    reasons += [(plan.row.path, plan.message) for plan in plans if plan.action == "untaggable"]
    return run or 0, [f"{Path(path).name}: {reason}" for path, reason in reasons]


def _actions(database: Database, mode: str = "only-empty", rules: Mapping | None = None) -> dict[str, str]:
    model, model_key = records.find_model(database)
    plans = iter_plans(database, model, model_key, rules or Mapping(), mode)  # type: ignore[arg-type]
    return {Path(plan.row.path).name: plan.action for plan in plans}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _decode(path: Path) -> bytes:
    """Decode by ffmpeg, at the file's own rate: every sample, hashed."""
    words = ["ffmpeg", "-v", "error", "-nostdin", "-i", f"file:{path}", "-map", "0:a", "-f", "s16le", "pipe:1"]
    found = subprocess.run(words, capture_output=True, check=True).stdout
    assert len(found) > 100_000
    return hashlib.sha256(found).digest()


def _fields(path: Path) -> dict[str, object]:
    """All fields except the genre and genretree's, as mutagen reads them."""
    tags = mutagen.File(path).tags
    ours = ("GENRE", "TCON", "\xa9gen")
    listed = {} if tags is None else dict(tags.items() if hasattr(tags, "items") else tags)
    return {
        name: str(value)
        for name, value in listed.items()
        if name.upper() not in ours and name != "\xa9gen" and "GENRETREE" not in name.upper()
    }


# -- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_audio_and_other_tags_are_unchanged_and_undo_restores_every_byte(
    music: Path, database: Database, name: str
) -> None:
    for path in music.iterdir():
        if path.name != name:
            path.unlink()
    path = music / name
    before, sound, fields = path.read_bytes(), _decode(path), _fields(path)
    digest = hash_audio(path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    analyse(database, [music], fake_classifier())
    run, refused = _write(database)
    assert not refused
    carried = read_tags(path)
    assert carried.genres == ("Soft_rock",)
    evidence = {"GENRETREE_PATH": PATH, "GENRETREE_CONFIDENCE": "0.800", "GENRETREE_MODEL": "0" * 16}
    assert carried.own == {**evidence, "GENRETREE_GENRE": '["Soft_rock"]', "GENRETREE_PREVIOUS": "[]"}
    assert path.read_bytes() != before
    assert _decode(path) == sound
    assert hash_audio(path) == digest
    assert _fields(path) == fields
    shown = subprocess.run(
        ["ffprobe", "-v", "error", "-show_format", "-show_streams", path], capture_output=True
    ).stdout
    assert b"Soft_rock" in shown, "another program doesn't see the genre"
    if name != "none.mp3":
        assert "Ärtist 名".encode() in shown
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before
    assert path.stat().st_mtime == 1_000_000_000
    assert analyse(database, [music], fake_classifier()).known == 1, (
        "what we write ourselves is no reason to hear it again"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_several_genres_are_written_as_the_format_has_them(music: Path, name: str) -> None:
    own = {"GENRETREE_PATH": PATH}
    write_tags(music / name, ["Rock", "(Soft) 名"], own)
    found = read_tags(music / name)
    assert found.own == own
    if name in ("v23.mp3", "pcm.wav"):
        assert found.genres == found.after(["Rock", "(Soft) 名"]) == ("Rock/(Soft) 名",)
    else:
        assert found.genres == ("Rock", "(Soft) 名")
    write_tags(music / name, [], {})
    assert (read_tags(music / name).genres, read_tags(music / name).own) == ((), {})


def test_id3_keeps_its_version_and_its_other_frames_byte_by_byte(music: Path) -> None:
    def frames(path: Path) -> dict[bytes, bytes]:
        data = path.read_bytes()
        major, size = data[3], int.from_bytes(bytes(data[6:10]), "big")
        size = (size & 0x7F) | (size & 0x7F00) >> 1 | (size & 0x7F0000) >> 2 | (size & 0x7F000000) >> 3
        found, at = {}, 10
        while at < 10 + size and data[at : at + 4].strip(b"\0"):
            raw = data[at + 4 : at + 8]
            length = (
                int.from_bytes(raw, "big") if major == 3 else sum(byte << 7 * (3 - i) for i, byte in enumerate(raw))
            )
            found[data[at : at + 4]] = data[at + 10 : at + 10 + length]
            at += 10 + length
        return found

    for name, major in (("v23.mp3", 3), ("v24.mp3", 4)):
        tags = ID3(music / name)
        before = frames(music / name)
        tail = (music / name).read_bytes()[-128:]
        assert (music / name).read_bytes()[3] == major
        write_tags(music / name, ["Rock"], {"GENRETREE_PATH": PATH})
        assert (music / name).read_bytes()[3] == major
        after = frames(music / name)
        assert {key: after.get(key) for key in before} == before
        assert set(after) - set(before) == {b"TCON", b"TXXX"} - set(before)
        assert (music / name).read_bytes()[-128:] == tail
        assert ("TDRC" in tags) and (b"TYER" in before) == (major == 3)
    with pytest.raises(ID3NoHeaderError):
        ID3(music / "none.mp3")
    write_tags(music / "none.mp3", ["Rock"], {})
    assert ID3(music / "none.mp3").version[:2] == (2, 4)


def test_genres_in_other_tags_do_not_count_as_genretrees(music: Path) -> None:
    from mutagen.apev2 import APEv2

    tags = APEv2()
    tags["Genre"] = "Skiffle"
    tags.save(music / "none.mp3")
    assert read_tags(music / "none.mp3").genres == ("Skiffle",)
    content = (music / "pcm.wav").read_bytes()
    chunk = b"IGNR" + (6).to_bytes(4, "little") + b"Polka\0"
    listed = b"LIST" + (4 + len(chunk)).to_bytes(4, "little") + b"INFO" + chunk
    first = content.index(b"LIST")
    size = 8 + int.from_bytes(content[first + 4 : first + 8], "little")
    content = content[:first] + listed + content[first + size :]
    (music / "pcm.wav").write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])
    assert read_tags(music / "pcm.wav").genres == ("Polka",)
    tagged = ID3(music / "v24.mp3")
    tagged.add(TCON(encoding=3, text=["17", "(4)", "Own"]))
    tagged.save(music / "v24.mp3")
    assert read_tags(music / "v24.mp3").genres == ("Rock", "Disco", "Own")
    with (music / "v24.mp3").open("r+b") as stream:  # an ID3v1 tag alone
        stream.seek(0, io.SEEK_END)
        stream.write(b"TAG" + b"old title".ljust(124, b"\0") + bytes([17]))
    ID3(music / "v24.mp3").delete(music / "v24.mp3", delete_v1=False)
    assert read_tags(music / "v24.mp3").genres == ("Rock",)


def test_untaggable_formats_are_reported(tmp_path: Path, music: Path) -> None:
    sf.write(tmp_path / "x.au", np.zeros(9000), 22050)
    (tmp_path / "text.mp3").write_text("no music")
    (tmp_path / "cut.flac").write_bytes((music / "flac.flac").read_bytes()[:60])
    for name in ("x.au", "text.mp3", "cut.flac"):
        with pytest.raises(TagError):
            read_tags(tmp_path / name)
    with pytest.raises(LayoutError):
        hash_audio(tmp_path / "x.au")


@pytest.mark.parametrize("name", FORMATS)
def test_the_audio_hash_detects_a_single_changed_byte(music: Path, name: str) -> None:
    path = music / name
    before = hash_audio(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # the middle of the file is audio
    path.write_bytes(content)
    assert hash_audio(path) != before


def test_the_audio_hash_of_an_mp4_covers_its_chunk_offsets(music: Path) -> None:
    path = music / "aac.m4a"
    before, content = hash_audio(path), bytearray(path.read_bytes())
    write_tags(path, ["Rock"], {})
    assert hash_audio(path) == before
    table = content.index(b"stco") + 12
    content[table + 3] ^= 1
    path.write_bytes(content)
    assert hash_audio(path) != before


def test_a_fragmented_mp4_is_skipped(music: Path, tmp_path: Path, database: Database) -> None:
    path = tmp_path / "fragments" / "stream.m4a"
    path.parent.mkdir()
    how = ("-c", "copy", "-movflags", "+frag_keyframe+empty_moov", "-frag_duration", "500000")
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(music / "aac.m4a"), *how, str(path)], check=True)
    before = path.read_bytes()
    analyse(database, [path.parent], fake_classifier())
    assert "is fragmented" in _write(database)[1][0]
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


# -- deltas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda old: b"new header" + old,
        lambda old: old[7:],
        lambda old: old + b"tail" * 99,
        lambda old: old[:-33],
        lambda old: old[:4] + b"XXXX" + old[8:] + b"chunk",
        lambda old: old[:5000] + b"inserted" * 50 + old[5000:],
        lambda old: old,
        lambda old: b"",
        lambda old: bytes(reversed(old)),
    ],
)
def test_the_delta_restores_the_old_file(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    old = np.random.default_rng(1).integers(0, 256, 700_000, dtype=np.uint8).tobytes()
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(change(old))
    delta = make_delta(tmp_path / "old", tmp_path / "new")
    out = io.BytesIO()
    assert apply_delta(tmp_path / "new", delta, out) == content_digest(tmp_path / "old")
    assert out.getvalue() == old
    if len(change(old)) > 600_000 and change(old) != bytes(reversed(old)):
        assert len(delta) < 300_000  # at most one block apart from what changed


def test_a_shifted_picture_is_not_stored_in_the_delta(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    picture, other, sound = (rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in (400_000, 90_000, 700_000))
    old = b"tags" + picture + other + bytes(3000) + sound
    new = b"tags, longer by a little" + other + b"between" + picture + bytes(2973) + sound
    assert len(old) == len(new)  # padding took it up
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    delta = make_delta(tmp_path / "old", tmp_path / "new")
    assert len(delta) < 1000
    out = io.BytesIO()
    assert apply_delta(tmp_path / "new", delta, out) == content_digest(tmp_path / "old")
    assert out.getvalue() == old


# -- whose genre it is -------------------------------------------------------------------------------------------


def test_existing_genres_are_skipped_by_default(music: Path, database: Database) -> None:
    for path in music.iterdir():
        write_tags(path, ["Skiffle"], {})
    before = _bytes(music)
    analyse(database, [music], fake_classifier())
    assert set(_actions(database).values()) == {"has_genre"}
    assert _write(database) == (0, [])
    assert _bytes(music) == before
    run, refused = _write(database, "append")
    assert not refused
    for path in music.iterdir():
        carried = read_tags(path)
        assert carried.genres == carried.after(["Skiffle", "Soft_rock"]), path.name
    assert set(_actions(database, "append").values()) == {"same"}
    second, _ = _write(database, "overwrite")
    assert {read_tags(path).genres for path in music.iterdir()} == {("Soft_rock",)}
    assert undo(database, run) == (len(FORMATS), [])  # also after the later run
    assert _bytes(music) == before
    assert second > run
    with pytest.raises(LibraryError, match="nothing to undo"):
        journal.find_run(database, None)


def test_genretrees_genre_is_replaced_and_an_edited_one_is_not(music: Path, database: Database) -> None:
    analyse(database, [music], fake_classifier())
    _write(database)
    write_tags(music / "flac.flac", ["My own"], dict(read_tags(music / "flac.flac").own))
    rules = parse_mapping({"nodes": {"Rock": "Rock & Roll"}}, TREE)
    assert _actions(database, rules=rules)["flac.flac"] == "changed"
    analyse(database, [music], fake_classifier())
    actions = _actions(database, rules=rules)
    assert actions.pop("flac.flac") == "has_genre"
    assert set(actions.values()) == {"write"}
    _write(database, rules=rules)
    assert read_tags(music / "opus.opus").genres == ("Rock & Roll",)
    assert read_tags(music / "flac.flac").genres == ("My own",)


def test_files_that_are_up_to_date_are_not_written(music: Path, database: Database) -> None:
    analyse(database, [music], fake_classifier())
    _write(database)
    before = {path: path.stat().st_mtime_ns for path in music.iterdir()}
    assert set(_actions(database).values()) == {"same"}
    assert _write(database) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in music.iterdir()} == before


def test_filters_choose_files(music: Path, database: Database) -> None:
    (music / "sub").mkdir()
    shutil.move(music / "flac.flac", music / "sub" / "flac.flac")
    analyse(database, [music], fake_classifier(confidence=0.6))
    model, model_key = records.find_model(database)

    def chosen(rules: Mapping, **filters: object) -> int:
        return sum(1 for _ in iter_plans(database, model, model_key, rules, "append", Filters(**filters)))  # type: ignore[arg-type]

    assert chosen(Mapping()) == len(FORMATS)
    assert chosen(Mapping(), folder=str(music / "sub")) == 1
    assert chosen(Mapping(), level=3) == len(FORMATS)
    confidence = parse_mapping({"min_confidence": 0.65}, TREE)
    assert (chosen(confidence, level=2), chosen(confidence, level=3)) == (len(FORMATS), 0)


# -- undo --------------------------------------------------------------------------------------------------------


def test_a_file_that_others_changed_is_only_restored_by_force(music: Path, database: Database) -> None:
    analyse(database, [music], fake_classifier())
    run, _ = _write(database)
    for name in FORMATS:
        tags = mutagen.File(music / name)
        if tags.tags is None:
            tags.add_tags()
        if name.endswith(("mp3", "wav", "aiff")):
            tags.tags.add(TXXX(desc="mine", text=["kept"]))
        else:
            tags["\xa9cmt" if name.endswith("m4a") else "comment"] = ["kept"]
        tags.save()
    sounds = {name: _decode(music / name) for name in FORMATS[:2]}
    before = _bytes(music)
    restored, refused = undo(database, run)
    assert (restored, len(refused)) == (0, len(FORMATS))
    assert "`force=True` removes" in refused[0].reason
    assert _bytes(music) == before
    assert undo(database, run, force=True) == (len(FORMATS), [])
    for name in FORMATS:
        assert (read_tags(music / name).genres, read_tags(music / name).own) == ((), {})
        assert "kept" in str(_fields(music / name))
    assert {name: _decode(music / name) for name in sounds} == sounds


def test_a_missing_file_is_reported(music: Path, database: Database) -> None:
    analyse(database, [music], fake_classifier())
    run, _ = _write(database)
    (music / "opus.opus").unlink()
    restored, refused = undo(database, run)
    assert restored == len(FORMATS) - 1
    assert [Path(item.path).name for item in refused] == ["opus.opus"]
    with pytest.raises(LibraryError, match="there are: 1"):
        journal.find_run(database, 7)


# -- the file itself ---------------------------------------------------------------------------------------------


def test_mode_and_attributes_stay_and_the_time_as_is_wished(music: Path, database: Database) -> None:
    path = music / "flac.flac"
    path.chmod(0o640)
    try:
        os.setxattr(path, "user.mine", b"kept")
    except OSError:
        pytest.skip("no extended attributes on this file system")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    analyse(database, [music], fake_classifier())
    run, _ = _write(database, keep_mtime=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.getxattr(path, "user.mine") == b"kept"
    assert path.stat().st_mtime == 1_000_000_000
    undo(database, run)
    run, _ = _write(database)
    assert path.stat().st_mtime > 1_000_000_000
    undo(database, run)
    assert os.getxattr(path, "user.mine") == b"kept"
    assert (path.stat().st_mtime, stat.S_IMODE(path.stat().st_mode)) == (1_000_000_000, 0o640)


def test_names_of_any_length_and_bytes_can_be_written_to(music: Path, database: Database) -> None:
    long = music / ("名" * 83 + "x.mp3")  # 254 bytes
    odd = Path(os.fsdecode(os.fsencode(music) + b"/\xff\xfe.mp3"))
    (music / "v23.mp3").rename(long)
    (music / "v24.mp3").rename(odd)
    before = _bytes(music)
    analyse(database, [music], fake_classifier())
    run, refused = _write(database)
    assert not refused
    assert read_tags(long).genres == read_tags(odd).genres == ("Soft_rock",)
    undo(database, run)
    assert _bytes(music) == before


def test_read_only_changed_and_missing_files_are_skipped(music: Path, database: Database) -> None:
    analyse(database, [music], fake_classifier())
    (music / "v23.mp3").chmod(0o444)
    (music / "v24.mp3").unlink()
    (music / "aac.m4a").write_bytes(b"something else")
    actions = _actions(database)
    assert (actions["v23.mp3"], actions["v24.mp3"], actions["aac.m4a"]) == ("read_only", "not_found", "changed")
    _write(database)
    assert (music / "aac.m4a").read_bytes() == b"something else"
    assert read_tags(music / "v23.mp3").genres == ()


def test_a_file_that_only_others_may_write_to_is_read_only(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(database, [music], fake_classifier())
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may be root
    assert set(_actions(database).values()) == {"read_only"}


@pytest.mark.usefixtures("always_copied")
@pytest.mark.parametrize("fault", ["write_tags", "hash_audio", "make_delta", "copy_status", "replace_file"])
def test_an_error_at_any_step_leaves_the_old_file_and_no_copy(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    analyse(database, [music], fake_classifier())
    before = _bytes(music)
    monkeypatch.setattr(apply_module, fault, lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no")))
    _, refused = _write(database)
    assert len(refused) == len(FORMATS)
    assert _bytes(music) == before
    assert recover(database) == []
    assert journal.list_runs(database) == []


@pytest.mark.usefixtures("always_copied")
def test_a_write_that_would_change_the_audio_is_refused(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(database, [music], fake_classifier())
    before = _bytes(music)

    def clumsy(path: Path, *_: object) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(apply_module, "write_tags", clumsy)
    _, refused = _write(database)
    assert len(refused) == len(FORMATS)
    assert all("audio would have changed" in reason for reason in refused)
    assert _bytes(music) == before


@pytest.mark.usefixtures("always_copied")
def test_a_full_disk_stops_the_run_and_harms_no_file(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(database, [music], fake_classifier())
    before = _bytes(music)

    def full(source: object, target: Path) -> None:
        target.write_bytes(b"part of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(apply_module, "copy_file", full)
    with pytest.raises(LibraryError, match="disk is full"):
        _write(database)
    assert _bytes(music) == before


# -- killed ------------------------------------------------------------------------------------------------------

_RUN = """
import os, signal, sys
from genretree.library.apply import apply, undo
from genretree.library.database import journal, records
from genretree.library.plan.mapping import Mapping
from genretree.library.plan.planner import iter_plans
from genretree.library.database.connection import open_database
db, what, at, point = sys.argv[1:]
count = 0
def deadly(real):
    def call(*arguments, **options):
        global count
        count += 1
        if count == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
apply.find_region = undo.undo_region = lambda *_: None  # every file is copied
home, name = {"journal": journal, "apply": apply, "undo": undo}[point.split(".")[0]], point.split(".")[1]
setattr(home, name, deadly(getattr(home, name)))
with open_database(db) as database:
    model, model_key = records.find_model(database)
    if what == "apply":
        apply.apply_plans(database, iter_plans(database, model, model_key, Mapping()), model_key.digest)
    else:
        undo.undo(database, journal.find_run(database, None))
"""


@pytest.mark.posix
@pytest.mark.parametrize(
    ("what", "point"),
    [
        ("apply", "apply.write_tags"),
        ("apply", "apply.replace_file"),
        ("apply", "journal.finish_change"),
        ("undo", "undo.copy_status"),
        ("undo", "journal.finish_undo"),
    ],
)
def test_after_a_kill_every_file_is_old_or_new_and_no_copy_is_left(
    music: Path, database: Database, tmp_path: Path, what: str, point: str
) -> None:
    analyse(database, [music], fake_classifier())
    old = _bytes(music)
    run, _ = _write(database)
    new = _bytes(music)
    start, end = (old, new) if what == "apply" else (new, old)
    if what == "apply":
        undo(database, run)
    words = [tmp_path / "library.sqlite", what, 4, point]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", _RUN, *map(str, words)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    for path in music.iterdir():
        if not path.name.startswith(".genretree-"):
            assert path.read_bytes() in (start[path.name], end[path.name]), path.name
    assert len(recover(database)) == 1
    assert set(_bytes(music)) == set(old), "a temporary file was left behind"
    changed = sum(content == end[name] for name, content in _bytes(music).items())
    assert changed == (4 if "finish" in point else 3)
    assert analyse(database, [music], fake_classifier()).known == len(FORMATS)
    if what == "apply":
        second, refused = _write(database)
        assert not refused
        assert {read_tags(path).genres for path in music.iterdir()} == {("Soft_rock",)}
        assert undo(database, second)[0] == len(FORMATS) - changed
        undo(database, journal.find_run(database, None))
    else:
        undo(database, run)
    assert _bytes(music) == old
    assert json.loads(json.dumps([item.written for item in journal.list_runs(database)])) == [0] * len(
        journal.list_runs(database)
    )


@pytest.mark.parametrize("padding", [0, 4000])  # the audio is shifted, or only the picture
def test_flac_pictures_and_padding_survive(music: Path, database: Database, padding: int) -> None:
    from mutagen.flac import Picture

    file = FLAC(music / "flac.flac")
    picture = Picture()
    picture.data = os.urandom(50_000)
    file.add_picture(picture)
    file.save(padding=lambda _: padding)
    before = (music / "flac.flac").read_bytes()
    analyse(database, [music], fake_classifier())
    run, _ = _write(database)
    assert FLAC(music / "flac.flac").pictures[0].data == picture.data
    change = journal.find_last_change(database, str(music / "flac.flac"))
    assert change is not None
    assert len(change.delta) < 10_000
    undo(database, run)
    assert (music / "flac.flac").read_bytes() == before


def test_a_change_on_an_unmounted_disk_is_recovered_later(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    path = music / "flac.flac"
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    monkeypatch.setattr(journal, "finish_change", die)
    with pytest.raises(KilledError):
        _write(database)
    monkeypatch.undo()
    assert path.read_bytes() != before
    away = music.rename(music.with_name("away"))
    music.mkdir()
    assert recover(database) == []
    music.rmdir()
    away.rename(music)
    assert [item.message for item in recover(database)] == ["was written; undo restores it"]
    assert undo(database, journal.find_run(database, None)) == (1, [])
    assert path.read_bytes() == before


# -- other tags --------------------------------------------------------------------------------------------------


def _id3(major: int, *frames: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """Write an ID3v2 tag by hand, without any library that would mend it."""

    def number(n: int, bits: int) -> bytes:
        return bytes(n >> bits * place & (1 << bits) - 1 for place in (3, 2, 1, 0))

    sizes = {2: lambda n: number(n, 8)[1:], 3: lambda n: number(n, 8), 4: lambda n: number(n, 7)}
    middle = b"" if major == 2 else b"\0\0"
    body = b"".join(name + sizes[major](len(data)) + middle + data for name, data in frames)
    if flags & 0x80:
        body = body.replace(b"\xff", b"\xff\0")
    return b"ID3" + bytes([major, 0, flags]) + number(len(body), 7) + body


TITLE = (b"TIT2", b"\x03A title")
BE = "Ä, 名".encode("utf-16-be")
COMMENT = (b"COMM", b"\0eng\0one")


@pytest.mark.parametrize(
    ("tag", "field"),
    [
        (_id3(4, TITLE, (b"TIT2", b"\x03Another")), "TIT2"),
        (_id3(3, (b"TIT2", b"\0A title"), (b"TIT2", b"\0A title")), "TIT2"),
        (_id3(4, TITLE, COMMENT, (b"COMM", b"\0eng\0two")), "COMM"),
        (_id3(4, (b"TXXX", b"\x03mood\0calm"), (b"TXXX", b"\x03mood\0wild")), "TXXX"),
        (_id3(4, TITLE, (b"TDRC", b"\x03sometime")), "TDRC"),
    ],
)
def test_tags_that_mutagen_would_repair_or_merge_are_not_changed(
    music: Path, database: Database, tag: bytes, field: str
) -> None:
    for path in music.iterdir():
        if path.name != "none.mp3":
            path.unlink()
    path = music / "none.mp3"
    path.write_bytes(tag + path.read_bytes())
    before = path.read_bytes()
    analyse(database, [music], fake_classifier())
    _, refused = _write(database)
    assert len(refused) == 1
    assert f"({field})" in refused[0]
    assert path.read_bytes() == before
    assert [item.name for item in music.iterdir()] == ["none.mp3"]


@pytest.mark.parametrize(
    "tag",
    [
        _id3(4, TITLE, (b"TPE1", b"\x02" + BE), (b"TALB", b"\x01\xfe\xff" + BE + b"\0\0")),
        _id3(3, (b"TIT2", b"\x01\xff\xfeA\0\0\0\0\0"), COMMENT, (b"COMM", b"\0ger\0two"), (b"COMM", b"\0engx\0three")),
        _id3(3, (b"TIT2", b"\x03utf-8 \xc3\xa4"), (b"TCOM", b""), (b"TENC", b"\0"), (b"PRIV", b"x\0\xff\x01")),
        _id3(4, (b"APIC", b"\x01image/png\0\x03\xfe\xff" + BE + b"\0\0\x89PNG"), (b"XYZZ", b"unknown"), TITLE),
        _id3(
            4, (b"TDRC", b"\x002001-05-03"), (b"WXXX", b"\0x\0http://x"), (b"WCOM", b"http://y\0"), (b"UFID", b"a\0b")
        ),
        _id3(2, (b"TT2", b"\0A title"), (b"TYE", b"\x001999"), (b"PIC", b"\0JPG\x03front\0\xff\xd8")),
        _id3(3, (b"TIT2", b"\x01\xff\xfeA\0"), (b"TYER", b"\x001999"), flags=0x80),
        _id3(4, (b"TIT2", b"\x03one\0two"), (b"TCON", b"\x03Skiffle"), (b"TXXX", b"\x03a\0b"), (b"TXXX", b"\x03c\0b")),
    ],
)
def test_odd_tags_that_stay_as_they_are_are_no_obstacle(music: Path, database: Database, tag: bytes) -> None:
    path = music / "none.mp3"
    path.write_bytes(tag + path.read_bytes())
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    run, refused = _write(database, "overwrite")
    assert not refused
    assert read_tags(path).genres == ("Soft_rock",)
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


@pytest.mark.usefixtures("always_copied")
@pytest.mark.parametrize("name", FORMATS)
def test_a_change_of_another_field_is_detected(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = music / name
    tags = mutagen.File(path)
    if tags.tags is None:
        tags.add_tags()
    if name.endswith(("mp3", "wav", "aiff")):
        tags.tags.add(TXXX(desc="mine", text=["kept"]))
    else:
        tags["\xa9cmt" if name.endswith("m4a") else "comment"] = ["kept"]
    tags.save()
    before = path.read_bytes()

    def clumsy(path: Path, *how: object) -> None:
        write_tags(path, *how)  # type: ignore[arg-type]
        content = path.read_bytes()
        place = next(at for word in (b"kept", "kept".encode("utf-16-le")) if (at := content.find(word)) >= 0)
        path.write_bytes(content[:place] + b"K" + content[place + 1 :])

    monkeypatch.setattr(apply_module, "write_tags", clumsy)
    analyse(database, [path], fake_classifier())
    _, refused = _write(database)
    assert len(refused) == 1
    assert "other tags would change" in refused[0]
    assert path.read_bytes() == before


def test_repeated_and_unnamed_fields_of_other_formats_are_not_changed(music: Path, database: Database) -> None:
    for path in music.iterdir():
        if path.name not in ("flac.flac", "aac.m4a", "opus.opus"):
            path.unlink()
    content = (music / "aac.m4a").read_bytes()
    names = content.index(b"\xa9nam"), content.index(b"\xa9ART")
    assert content[names[0] + 8 : names[0] + 12] == b"data"
    (music / "aac.m4a").write_bytes(content[: names[1]] + b"\xa9nam" + content[names[1] + 4 :])
    content = (music / "flac.flac").read_bytes()
    assert content.count(b"artist=") == 1
    (music / "flac.flac").write_bytes(content.replace(b"artist=", b"artist_"))
    before = _bytes(music)
    analyse(database, [music], fake_classifier())
    _, refused = _write(database)
    assert {text.split(":")[0] for text in refused} == {"aac.m4a", "flac.flac"}
    assert {name: content == before[name] for name, content in _bytes(music).items()} == {
        "aac.m4a": True,
        "flac.flac": True,
        "opus.opus": False,
    }


def test_numbers_and_pictures_of_an_m4a_are_no_obstacle(music: Path, database: Database) -> None:
    path = music / "aac.m4a"
    how = ("-c", "copy", "-metadata", "track=3/9", "-metadata", "disc=1/2", "-metadata", "compilation=1")
    made = music / "more.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), *how, str(made)], check=True)
    tags = mutagen.File(made)
    tags["tmpo"], tags["covr"] = [120], [b"\x89PNG\r\n" + bytes(3000)]
    tags["----:com.apple.iTunes:MOOD"] = [b"calm"]
    tags.save()
    before = made.read_bytes()
    analyse(database, [made], fake_classifier())
    run, refused = _write(database)
    assert not refused
    assert undo(database, run) == (1, [])
    assert made.read_bytes() == before


# -- other programs ----------------------------------------------------------------------------------------------


class _KilledError(BaseException):
    pass


def _die(*_: object, **__: object) -> None:
    raise _KilledError


def _edit(path: Path, **fields: str) -> bytes:
    tags = FLAC(path)
    tags.update(fields)
    tags.save()
    return path.read_bytes()


@pytest.mark.posix
def test_an_edit_after_a_kill_is_preserved_and_reported(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = music / "flac.flac"
    analyse(database, [path], fake_classifier())
    monkeypatch.setattr(journal, "finish_change", _die)
    with pytest.raises(_KilledError):
        _write(database)
    monkeypatch.undo()
    edited = _edit(path, comment="theirs")
    (found,) = recover(database)
    assert found.edited
    assert "was written, and another program has changed it since" in found.message
    assert path.read_bytes() == edited
    run = journal.find_run(database, None)
    restored, refused = undo(database, run)
    assert (restored, len(refused)) == (0, 1)
    assert "was changed by another program since" in refused[0].reason
    assert path.read_bytes() == edited
    analyse(database, [path], fake_classifier())
    assert _actions(database) == {"flac.flac": "same"}, "it is still known that the genre is ours"
    assert undo(database, run, force=True) == (1, [])
    assert (read_tags(path).genres, read_tags(path).own) == ((), {})
    assert FLAC(path)["comment"] == ["theirs"]


@pytest.mark.usefixtures("always_copied")
def test_an_edit_before_the_replacement_is_preserved_and_reported(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = music / "flac.flac"
    analyse(database, [path], fake_classifier())
    monkeypatch.setattr(apply_module, "replace_file", _die)
    monkeypatch.setattr(Path, "unlink", _die)  # killed, it would not clear up
    with pytest.raises(_KilledError):
        _write(database)
    monkeypatch.undo()
    edited = _edit(path, comment="theirs")
    (found,) = recover(database)
    assert (found.edited, found.message) == (True, "was not written, and another program has changed it since")
    assert _bytes(music)["flac.flac"] == edited
    assert not [item for item in music.iterdir() if item.name.startswith(".")]
    assert journal.list_runs(database) == []


@pytest.mark.posix
def test_an_edit_after_a_killed_undo_is_preserved_and_reported(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = music / "flac.flac"
    analyse(database, [path], fake_classifier())
    run, _ = _write(database)
    monkeypatch.setattr(journal, "finish_undo", _die)
    with pytest.raises(_KilledError):
        undo(database, run)
    monkeypatch.undo()
    edited = _edit(path, genre="Theirs")
    (found,) = recover(database)
    assert (found.edited, found.message) == (True, "was restored, and another program has changed it since")
    with pytest.raises(LibraryError, match="nothing to undo"):
        journal.find_run(database, None)
    assert undo(database, run, force=True) == (0, [])
    assert path.read_bytes() == edited


def test_force_leaves_a_genre_that_somebody_set_since(music: Path, database: Database) -> None:
    path = music / "flac.flac"
    analyse(database, [path], fake_classifier())
    run, _ = _write(database)
    _edit(path, genre="Theirs")
    assert undo(database, run, force=True) == (1, [])
    assert (read_tags(path).genres, read_tags(path).own) == (("Theirs",), {})


def test_a_flac_with_an_id3v1_tag_at_its_end_is_restored(music: Path, database: Database) -> None:
    path = music / "flac.flac"
    path.write_bytes(path.read_bytes() + b"TAG" + b"old title".ljust(124, b"\0") + b"\x11")
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    run, refused = _write(database)
    assert not refused
    assert read_tags(path).genres == ("Soft_rock",)
    assert path.read_bytes()[-128:] == before[-128:]
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


def test_a_flac_that_begins_with_id3_tags_is_written_and_restored(music: Path, database: Database) -> None:
    path = music / "flac.flac"
    path.write_bytes(b"ID3\x04\0\0\0\0\1\0" + bytes(128) + path.read_bytes())
    before = path.read_bytes()
    analyse(database, [path], fake_classifier())
    run, refused = _write(database)
    assert not refused
    assert read_tags(path).genres == ("Soft_rock",)
    assert undo(database, run) == (1, [])
    assert path.read_bytes() == before


def test_visible_obstacles_are_reported_by_the_plan(
    music: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyse(database, [music], fake_classifier())
    mode = music.stat().st_mode
    music.chmod(0o555)
    model, model_key = records.find_model(database)

    def reasons() -> set[tuple[str, str]]:
        return {(plan.action, plan.message) for plan in iter_plans(database, model, model_key, Mapping())}

    assert reasons() == {("read_only", "its folder is read-only, so no copy can be made next to it")}
    music.chmod(mode)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    assert {action for action, _ in reasons()} == {"no_space"}
    assert all("5,000 are free" in message for _, message in reasons())
