"""Files that make players open other files, and a named pipe that notices when anything opens it."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Canary:
    """A named pipe; `opened` says whether anything opened it for reading, which blocks until it is noticed here."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.opened = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            try:
                end = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # ENXIO: nobody reads
                continue
            self.opened = True
            os.close(end)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()


@contextmanager
def canary(folder: Path) -> Iterator[Canary]:
    """Give a canary that lies in a folder of its own."""
    folder.mkdir()
    watched = Canary(folder / "canary.m4a")
    try:
        yield watched
    finally:
        watched.close()


def hls(*addresses: str) -> bytes:
    """Give an HLS playlist of these segments."""
    segments = "".join(f"#EXTINF:10,\n{address}\n" for address in addresses)
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n{segments}#EXT-X-ENDLIST\n".encode()


def dash(address: str) -> bytes:
    """Give a DASH manifest with one audio track."""
    return (
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" '
        'type="static" mediaPresentationDuration="PT10S" minBufferTime="PT1S"><Period><AdaptationSet '
        'mimeType="audio/mp4" contentType="audio"><Representation id="1" bandwidth="128000" codecs="mp4a.40.2">'
        f"<BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period></MPD>\n"
    ).encode()


def playlists(other: Path) -> dict[str, bytes]:
    """Everything that names another file, in the ways that FFmpeg knows."""
    name = str(other)
    key = f'#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-KEY:METHOD=AES-128,URI="{name}"\n#EXTINF:10,\n{name}\n'
    part = f'#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-MAP:URI="{name}"\n#EXTINF:10,\n{name}\n'
    return {
        "hls": hls(name),
        "hls-file": hls(f"file:{name}", f"file://{name}"),
        "hls-crypto": hls(f"crypto:{name}", f"crypto+file:{name}"),
        "hls-subfile": hls(f"subfile,,start,0,end,0,,:{name}"),
        "hls-concat": hls(f"concat:{name}|{name}"),
        "hls-cache": hls(f"cache:{name}", f"cache:file:{name}", f"async:file:{name}"),
        "hls-key": key.encode() + b"#EXT-X-ENDLIST\n",
        "hls-map": part.encode() + b"#EXT-X-ENDLIST\n",
        "hls-master": b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n" + name.encode() + b"\n",
        "dash": dash(name),
        "dash-file": dash(f"file:{name}"),
        "concat": f"ffconcat version 1.0\nfile '{name}'\n".encode(),
        "concat-subfile": f"ffconcat version 1.0\nfile 'subfile,,start,0,end,0,,:{name}'\n".encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "asf-redirector": f"[Reference]\nRef1={name}\n".encode(),
        "imf": f'<?xml version="1.0"?><CompositionPlaylist>{name}</CompositionPlaylist>'.encode(),
    }


ID3 = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)


def disguises(playlist: bytes) -> dict[str, bytes]:
    """Show a playlist as it is and with what kept a check from seeing that it is text."""
    return {
        "plain": playlist,
        "bad-byte": playlist + b"# \xff\n",
        "bad-bytes": playlist.replace(b"\n", b"\n#\xff\xfe\x80\n", 1) + b"\xff" * 5000,
        "nul": playlist + b"#\0",
        "id3": ID3 + playlist,
        "id3-bad-byte": ID3 + ID3 + playlist + b"# \xff\n",
        "box": b"AAAAfree" + playlist + b"# \xff\n",
        "bom": b"\xef\xbb\xbf" + playlist + b"# \xff\n",
    }


def write_all(folder: Path, other: Path) -> list[Path]:
    """Write every playlist in every disguise under names of sound files."""
    folder.mkdir(exist_ok=True)
    found = []
    suffixes = ("m4a", "mp3", "aac", "wav", "ogg")
    for name, playlist in playlists(other).items():
        for disguise, content in disguises(playlist).items():
            found.append(folder / f"{name} {disguise}.{suffixes[len(found) % len(suffixes)]}")
            found[-1].write_bytes(content)
    return found


def with_external_data(m4a: bytes, other: Path) -> bytes:
    """Make an m4a say that its sound lies in another file (a QuickTime alias in its data reference box)."""
    name = str(other).encode()
    name += b"\0" * (len(name) % 2)
    alias = bytes(10) + b"\x01v" + bytes(26 + 12) + b"\x01f" + bytes(62 + 16) + bytes(4 + 16)
    alias += struct.pack(">HH", 2, len(name)) + name + struct.pack(">hH", -1, 0)
    box = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    at = m4a.index(b"dref") + 12
    assert m4a[at + 4 : at + 8] == b"url "
    content = bytearray(m4a[:at] + box + m4a[at + 12 :])
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = m4a.rindex(parent, 0, at) - 4
        size = int.from_bytes(content[place : place + 4], "big") + len(box) - 12
        content[place : place + 4] = struct.pack(">I", size)
    return bytes(content)
