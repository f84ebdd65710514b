"""An audio file never makes the decoder open another file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile as sf
from sound_helpers import make_song, needs_ffmpeg

from genretree.errors import SoundError
from genretree.settings import SAMPLE_RATE
from genretree.sound import containers
from genretree.sound.decode import decode, probe
from other_files import Canary, canary, hls, playlists, with_external_data, write_all

pytestmark = [pytest.mark.posix, pytest.mark.slow]

_DECODE_ALL = """
import sys
from genretree.errors import SoundError
from genretree.sound.decode import decode, probe
for path in sys.argv[1:]:
    for read in (probe, decode):
        try:
            read(path)
        except SoundError as error:
            print(error.kind)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Canary]:
    with canary(tmp_path / "elsewhere") as watched:
        yield watched


@pytest.fixture(scope="module")
def m4a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An m4a whose index comes last, so that reading it needs seeking."""
    folder = tmp_path_factory.mktemp("m4a")
    sf.write(folder / "song.wav", make_song(40, SAMPLE_RATE), SAMPLE_RATE)
    command = ["ffmpeg", "-v", "error", "-i", folder / "song.wav", "-b:a", "192k", folder / "song.m4a"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return folder / "song.m4a"


@needs_ffmpeg
def test_the_canary_notices_what_ffmpeg_opens(tmp_path: Path, other: Canary) -> None:
    path = tmp_path / "song.m4a"
    path.write_bytes(hls(str(other.path)) + b"# \xff\n")
    command = ["ffprobe", "-v", "error", "-protocol_whitelist", "file", path]
    subprocess.run(command, check=False, capture_output=True, timeout=30)
    assert other.opened


@pytest.mark.parametrize("name", playlists(Path("x")))
def test_playlists_are_refused_and_what_they_name_stays_closed(tmp_path: Path, other: Canary, name: str) -> None:
    for path in write_all(tmp_path / "songs", other.path):
        if not path.name.startswith(name + " "):
            continue
        for salvage in (False, True):
            with pytest.raises(SoundError) as caught:
                decode(path, salvage=salvage)
            assert caught.value.kind in ("not_audio", "truncated"), path.name
        with pytest.raises(SoundError):
            probe(path)
        assert not other.opened, path.name


def _check_that_playlists_open_nothing(
    tmp_path: Path, other: Canary, monkeypatch: pytest.MonkeyPatch, demuxer: str
) -> None:
    monkeypatch.setattr("genretree.sound.decode.sniff", lambda file, size: ("mka", 0))
    monkeypatch.setattr("genretree.sound.decode.choose_demuxer", lambda *_: demuxer)
    path = tmp_path / "song.m4a"
    for playlist in ("hls", "hls-file", "dash", "concat"):
        path.write_bytes(playlists(other.path)[playlist])
        with pytest.raises(SoundError):
            probe(path)
    assert not other.opened


@needs_ffmpeg
@pytest.mark.parametrize("name", sorted({*containers.DEMUXERS.values(), "mpc8"}))
def test_no_demuxer_in_use_opens_what_a_playlist_names(
    tmp_path: Path, other: Canary, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Even a playlist mistaken for a container opens no other file."""
    _check_that_playlists_open_nothing(tmp_path, other, monkeypatch, name)


@needs_ffmpeg
@pytest.mark.parametrize("demuxer", ["hls", "dash", "concat", "sdp", "image2", "asf_o"])
def test_no_protocol_opens_a_file_even_for_a_playlist_demuxer(
    tmp_path: Path, other: Canary, monkeypatch: pytest.MonkeyPatch, demuxer: str
) -> None:
    _check_that_playlists_open_nothing(tmp_path, other, monkeypatch, demuxer)


@needs_ffmpeg
def test_sound_in_another_file_is_not_fetched(tmp_path: Path, other: Canary, m4a: Path) -> None:
    path = tmp_path / "song.m4a"
    path.write_bytes(with_external_data(m4a.read_bytes(), other.path))
    command = ["ffprobe", "-v", "error", "-enable_drefs", "1", "-use_absolute_path", "1", path]
    subprocess.run(command, check=False, capture_output=True, timeout=30)
    assert other.opened  # so FFmpeg follows the reference where it is allowed to
    other.opened = False
    for read in (probe, decode):
        try:
            read(path)
        except SoundError as error:
            assert error.kind in ("not_audio", "truncated", "empty")
    assert not other.opened


@needs_ffmpeg
def test_the_name_is_not_a_pattern(tmp_path: Path, m4a: Path) -> None:
    for name in ("song%03d.m4a", "song*.m4a", "-i.m4a", "pipe:0", "concat:a|b.m4a", "fd:7"):
        path = tmp_path / name
        shutil.copy(m4a, path)
        assert len(decode(path)) == pytest.approx(40 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


@needs_ffmpeg
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_traced_nothing_but_the_file_itself_is_opened(tmp_path: Path, m4a: Path) -> None:
    with canary(tmp_path / "elsewhere") as other:
        files = write_all(tmp_path / "songs", other.path)
        files = [path for path in files if " bad-byte" in path.name or " id3" in path.name or " box" in path.name]
        linked = tmp_path / "songs" / "linked.m4a"
        linked.write_bytes(with_external_data(m4a.read_bytes(), other.path))
        calls = "open,openat,openat2,connect,execve"
        command = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-o", tmp_path / "trace"]
        done = subprocess.run(
            [*command, sys.executable, "-c", _DECODE_ALL, *files, linked, m4a],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert len(done.stdout.split()) >= 2 * len(files)
        assert not other.opened
    lines = (tmp_path / "trace").read_text(errors="replace").splitlines()
    calls_made = [line for line in lines if "execve(" not in line]
    assert any(str(m4a) in line for line in calls_made)  # it traces
    assert len([line for line in lines if "execve(" in line]) == 1  # Python itself: no program decodes
    assert not [line for line in calls_made if "elsewhere" in line or "connect(" in line]
    # Nor anything by a relative name, such as the resource fork that libsndfile tries to open.
    assert not [
        line for line in calls_made if '"._' in line or "/._" in line or "rsrc" in line or "AppleDouble" in line
    ]


@pytest.mark.parametrize("suffix", ["wav", "mp3", "m4a"])
def test_special_files_are_reported_and_never_opened(tmp_path: Path, suffix: str) -> None:
    with canary(tmp_path / "pipes") as pipe:
        path = tmp_path / f"link.{suffix}"
        path.symlink_to(pipe.path)
        for each in (pipe.path, path):
            with pytest.raises(SoundError, match="is a named pipe, not an audio file"):
                decode(each)
        assert not pipe.opened
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path)
        listener.bind(f"s.{suffix}")
        with pytest.raises(SoundError, match="is a socket, not an audio file"):
            probe(tmp_path / f"s.{suffix}")
    device = tmp_path / f"device.{suffix}"
    device.symlink_to("/dev/zero")
    with pytest.raises(SoundError, match="is a character device, not an audio file"):
        decode(device)
