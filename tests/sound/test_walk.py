"""The walk finds each audio file once and reports entries that cannot be read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from genretree.files import printable
from genretree.sound import containers
from genretree.sound.suffixes import SUFFIXES, SUFFIXES_OF
from genretree.sound.walk import FoundFile, Skipped, SoundWalk


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def _link(path: Path, target: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _find(folder: Path, walk: SoundWalk | None = None) -> list[str]:
    """Names below a folder, as the walk reached them."""
    return [str(Path(found_files.name).relative_to(folder)) for found_files in (walk or SoundWalk()).find([folder])]


def _problems(found_files: list[FoundFile]) -> dict[str, tuple[str, str]]:
    return {Path(item.name).name: (item.error, item.message) for item in found_files if item.error}


def test_names_in_any_script_or_none_at_all(tmp_path: Path) -> None:
    odd = ["a.MP3", "日本語.flac", "мой.ogg", "e\u0301.opus", "sp ace\nline.wav", "quo'\"te.m4a", "-dash.aiff"]
    raw = os.fsdecode(b"\xff\xfe.mp3")
    _touch(tmp_path / "in" / "deep", *odd, raw, "..x.mp3", ".hidden.mp3", "cover.jpg", "mp3", "notes.txt")
    _touch(tmp_path / "in" / ".trash", "gone.mp3")
    found_files = list(SoundWalk().find([tmp_path / "in"]))
    assert [Path(item.path).name for item in found_files] == sorted([*odd, raw])
    assert printable(found_files[-1].path).endswith("/\\xff\\xfe.mp3")
    hidden = {Path(item.path).name for item in SoundWalk(hidden=True).find([tmp_path / "in"])}
    assert hidden == {*odd, raw, "..x.mp3", ".hidden.mp3", "gone.mp3"}


def test_every_container_that_is_recognised_has_suffixes(tmp_path: Path) -> None:
    recognised = set(containers.DEMUXERS)
    assert recognised == set(SUFFIXES_OF)
    assert {".webm", ".ac3", ".spx", ".dsf", ".mp4", ".wav", ".flac", ".opus"} <= SUFFIXES
    _touch(tmp_path, *(f"x{suffix}" for suffix in SUFFIXES), *(f"Y{suffix.upper()}" for suffix in SUFFIXES))
    assert len(_find(tmp_path)) == 2 * len(SUFFIXES)


def test_order_is_that_of_names_in_every_folder(tmp_path: Path) -> None:
    _touch(tmp_path, "b/2.mp3", "b/1.mp3", "a.mp3", "c.mp3", "b/a/9.mp3", "B.mp3", "b.mp3")
    expected = ["B.mp3", "a.mp3", "b/1.mp3", "b/2.mp3", "b/a/9.mp3", "b.mp3", "c.mp3"]
    assert _find(tmp_path) == expected == [str(path) for path in sorted(map(Path, expected))]


def test_links_lead_to_each_file_once_and_loops_end(tmp_path: Path) -> None:
    music, elsewhere = tmp_path / "music", tmp_path / "elsewhere"
    _touch(music, "a/0.mp3", "a/1.mp3")
    _touch(elsewhere, "2.mp3", "3.mp3")
    _link(music / "up", music)
    _link(music / "root", "/")
    _link(music / "a" / "above", "../..")
    _link(music / "a" / "self", "self")
    _link(music / "out", elsewhere)
    _link(music / "out2", elsewhere)
    _link(elsewhere / "back", music)
    _link(music / "file.mp3", elsewhere / "2.mp3")
    _link(music / "0 again.mp3", "a/0.mp3")
    _link(music / "broken.mp3", tmp_path / "nothing.mp3")
    walk = SoundWalk()
    found_files = list(walk.find([music, music / "a"]))
    paths = {str(Path(item.path).relative_to(tmp_path)): item.name for item in found_files if not item.error}
    assert paths == {
        "music/a/0.mp3": str(music / "a/0.mp3"),
        "music/a/1.mp3": str(music / "a/1.mp3"),
        "elsewhere/2.mp3": str(music / "file.mp3"),
        "elsewhere/3.mp3": str(music / "out/3.mp3"),
    }
    assert len(found_files) == len(paths) + 2
    assert _problems(found_files)["broken.mp3"] == ("not_found", "is a dangling link")
    assert _problems(found_files)["self"][0] == "unreadable"
    assert walk.skipped.links == 6  # up, root, above, out2, back, 0 again.mp3
    assert not list(walk.find([music]))


def test_a_link_may_lead_to_what_the_walk_itself_skips(tmp_path: Path) -> None:
    _touch(tmp_path, ".store/a.mp3", "content/abc123")
    _link(tmp_path / "a.mp3", ".store/a.mp3")
    _link(tmp_path / "b.mp3", "content/abc123")
    _link(tmp_path / "c.mp3", "b.mp3")
    assert _find(tmp_path) == ["a.mp3", "b.mp3"]


def test_the_folder_may_be_a_link_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "real/Rock/a.mp3")
    _link(tmp_path / "music", "real")
    monkeypatch.chdir(tmp_path)
    (found_files,) = SoundWalk().find(["music"])
    assert (found_files.name, found_files.path) == ("music/Rock/a.mp3", str(tmp_path / "real/Rock/a.mp3"))


def test_dangling_links_are_reported_where_the_target_may_have_been_music(tmp_path: Path) -> None:
    for name in ("gone.mp3", "Pop", "Vol. 2", "cover.jpg"):
        _link(tmp_path / name, "/nowhere/at/all")
    walk = SoundWalk()
    assert set(_problems(list(walk.find([tmp_path])))) == {"gone.mp3", "Pop", "Vol. 2"}
    assert walk.skipped == Skipped({".jpg": 1})


def test_unreadable_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "a/locked/x.mp3", "a/y.mp3", "b/z.mp3")
    _link(tmp_path / "b" / "x.mp3", "../a/locked/x.mp3")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found_files = list(SoundWalk().find([tmp_path]))
    assert _problems(found_files) == {"locked": ("unreadable", "cannot be read: Permission denied")}
    assert [Path(item.name).name for item in found_files if not item.error] == ["y.mp3", "z.mp3", "x.mp3"]


@pytest.mark.posix
@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_permissions_of_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "locked/x.mp3", "y.mp3")
    (tmp_path / "locked").chmod(0)
    try:
        assert set(_problems(list(SoundWalk().find([tmp_path])))) == {"locked"}
    finally:
        (tmp_path / "locked").chmod(0o700)


@pytest.mark.posix
def test_pipes_sockets_and_devices_are_reported_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    os.mkfifo(tmp_path / "other")
    _link(tmp_path / "device.mp3", "/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.mp3"))
        found_files = _problems(list(SoundWalk().find([tmp_path])))
    assert found_files == {
        "pipe.mp3": ("unreadable", "is a named pipe, not an audio file"),
        "device.mp3": ("unreadable", "is a character device, not an audio file"),
        "socket.mp3": ("unreadable", "is a socket, not an audio file"),
    }


def test_skipped_files_are_counted_by_type(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp3", "b/cover.JPG", "cover.jpg", "x.txt", "README", "no. 5 \x1b[2J", ".hidden.txt")
    walk = SoundWalk()
    assert _find(tmp_path, walk) == ["a.mp3"]
    assert walk.skipped == Skipped({".jpg": 2, ".txt": 1, "": 2})
    assert str(walk.skipped) == "5 files of other types (no suffix 2, .jpg 2, .txt 1)"
    assert str(Skipped({".mid": 1}, 2)) == (
        "1 file of other types (.mid 1) and 2 links that lead to files already found or to a parent folder"
    )
    assert not str(Skipped())
    many = str(Skipped({f".{i}": 1 for i in range(50)}))
    assert len(many) < 120


def test_excluded_files_are_skipped(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp3", "b.mp3", "c.txt")
    walk = SoundWalk()
    walk.mark(tmp_path / "a.mp3")
    assert not walk.covers(tmp_path / "b.mp3")
    assert _find(tmp_path, walk) == ["b.mp3"]
    assert walk.covers(tmp_path / "b.mp3")
    assert not walk.covers(tmp_path / "c.txt")
