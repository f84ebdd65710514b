"""Hostile requests and files that the tests and `benchmarks/attack.py` send."""

from __future__ import annotations

import contextlib
import io
import socket
import time
import zipfile
from threading import Event, Thread

import numpy as np
import psutil
import soundfile as sf
from serving import STRICT_TOKEN, Server

BOUNDARY = "limit"
TOKEN = {"authorization": f"Bearer {STRICT_TOKEN}"}


def flac_of_silence(seconds: int, declared: bool = True) -> bytes:
    """Hours of silence in some kilobytes, whose header may keep the length to itself."""
    stream = io.BytesIO()
    with sf.SoundFile(stream, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(60 * 8000, np.int16))
    content = bytearray(stream.getvalue())
    if not declared:
        content[21] &= 0xF0  # the lower 36 bits of bytes 18 to 25 count the samples
        content[22:26] = bytes(4)
    return bytes(content)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("song.mp3", bytes(10 << 20))
    return stream.getvalue()


def broken_mp3() -> bytes:
    return b"ID3\x04\x00\x00\x00\x00\x00\x00" + np.random.default_rng(0).bytes(20_000)


# File contents and the kinds of problem that are expected.
NOT_AUDIO: dict[str, tuple[bytes, list[str]]] = {
    "zip": (zipped(), ["not_audio"]),
    "empty": (b"", ["empty"]),
    "text": (b"just some words\n" * 100, ["not_audio"]),
    "playlist": (b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\n/etc/passwd\n", ["not_audio"]),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", ["not_audio"]),
    "wav": (b"RIFF\xff\xff\xff\xffWAVEfmt ", ["truncated", "not_audio"]),
    "mp3": (broken_mp3(), ["not_audio", "truncated"]),
    "noise": (np.random.default_rng(1).bytes(50_000), ["not_audio"]),
}

NAMES = ["../../etc/passwd", "/etc/passwd", "..\\..\\x.mp3", "a\x00b", "<b>&amp;", "é" * 300, "\udcff"]


def part(disposition: str, content: bytes = b"x", more: str = "") -> bytes:
    return f"--{BOUNDARY}\r\n{disposition}{more}\r\n\r\n".encode() + content + b"\r\n"


FIELD = 'Content-Disposition: form-data; name="files"; filename="a"'
END = f"--{BOUNDARY}--\r\n".encode()


# Bodies of forms and a part of the expected detail.
MALFORMED_FORMS: dict[str, tuple[bytes, str]] = {
    "fields": (
        b"".join(part(f'Content-Disposition: form-data; name="f{i}"') for i in range(10_000)) + END,
        "unknown field 'f0'",
    ),
    "files": (b"".join(part(FIELD) for _ in range(10_000)) + END, "more than 16 files"),
    "value": (part('Content-Disposition: form-data; name="files"') + END, "'files' has no file name"),
    "open": (part(FIELD), "before its last boundary"),
    "headers": (part(FIELD, more="\r\nX: y" * 100) + END, "header"),
    "long": (part(FIELD, more="\r\nX: " + "y" * 10_000) + END, "header"),
    "nameless": (part("X: y") + END, "unknown field ''"),
    "none": (END, "no file"),
    "empty": (b"", "before its last boundary"),
    "junk": (b"no form at all", "can't parse the form"),
}


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(1 << 16):
        found += piece
    return found


def start_of_upload(server: Server, length: int = 100_000) -> socket.socket:
    connection = server.connect()
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN['authorization']}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + part(FIELD, bytes(5000))[:-2])
    return connection


class Killer(Thread):
    """Kills all decoding workers, and then those that are started: a number of them, or all until it is stopped."""

    def __init__(self, server: Server, number: float) -> None:
        super().__init__(daemon=True)
        self.server, self.left, self.done = server, number, Event()

    def run(self) -> None:
        for worker in self.server.workers():
            worker.kill()
        known = set(self.server.workers())
        while not self.done.is_set() and self.left > 0:
            for worker in self.server.workers():
                if worker not in known and self.left > 0:  # it has just been started
                    known.add(worker)
                    self.left -= 1
                    with contextlib.suppress(psutil.Error):
                        worker.kill()
            time.sleep(0.005)
