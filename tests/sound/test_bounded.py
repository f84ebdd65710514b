"""The CPU time to check or decode a file is bounded, whatever its bytes."""

from __future__ import annotations

import io
import string
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice, product
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile as sf
from sound_helpers import make_song

from genretree.errors import SoundError
from genretree.library.tags.audio_digest import LayoutError, hash_audio, header_packets
from genretree.settings import SAMPLE_RATE
from genretree.sound import libav
from genretree.sound.complete import end_of_audio
from genretree.sound.containers import (
    adts_frame_size,
    find_chain,
    mpeg_frame_size,
    sniff,
    synchsafe_bytes,
)
from genretree.sound.decode import decode, iter_blocks, probe
from genretree.sound.tag_bounds import CostlyTagsError, check_tags

BIG = 60_000_000


@contextmanager
def max_cpu_seconds(seconds: float) -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < seconds


@pytest.fixture(scope="module")
def mp3() -> bytes:
    stream = io.BytesIO()
    sf.write(stream, make_song(30, SAMPLE_RATE), SAMPLE_RATE, format="MP3")
    return stream.getvalue()


@pytest.mark.slow
def test_sixty_megabytes_of_ones_after_an_mp3(tmp_path: Path, mp3: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(mp3 + b"\xff" * BIG)
    with max_cpu_seconds(4):
        probe(path)
        try:
            assert len(decode(path)) > 25 * SAMPLE_RATE
        except SoundError as error:
            assert error.kind == "truncated"


@pytest.mark.parametrize(
    "unit",
    [
        b"\xff",
        b"\xff\xfb",
        b"\xff\xfb\x90\0",
        b"\xff\xf1\x50\x40\x00\xff\xfc",
        b"\xff\xf1\x50\x40\x00\xff\xfc" * 3 + b"x",
        (b"\xff\xe3\x18\0" + bytes(68)) * 3 + b"x",
    ],
    ids=["ones", "syncs", "headers", "tiny-frames", "tiny-frames-and-gaps", "frames-and-gaps"],
)
@pytest.mark.parametrize("form", ["mp3", "aac"])
def test_any_bytes_are_decoded_in_bounded_time(tmp_path: Path, mp3: bytes, unit: bytes, form: str) -> None:
    path = tmp_path / "x"
    begin = {"mp3": mp3[:4000], "aac": b"\xff\xf1\x50\x40\x00\xff\xfc" * 4}[form]
    path.write_bytes(begin + unit * (BIG // 4 // len(unit)))
    with max_cpu_seconds(5):
        for salvage in (False, True):
            with suppress(SoundError):
                for _ in iter_blocks(path, salvage=salvage, max_seconds=600):
                    pass


def _plain_find_chain(data: bytes, start: int, frame_size, whole: bool) -> int:  # type: ignore[no-untyped-def]
    """Search position by position for what `find_chain` computes for all positions at once."""
    for at in range(start, len(data) - 7):
        here, count = at, 0
        key = data[at + 1] & 0xFE, data[at + 2] & 0x0C
        while count < 3 and here + 8 <= len(data) and key == (data[here + 1] & 0xFE, data[here + 2] & 0x0C):
            size = frame_size(data, here)
            if not size:
                break
            here, count = here + size, count + 1
        if count == 3 or (whole and count == 2 and here + 8 > len(data)):
            return at
    return -1


@pytest.mark.parametrize("seed", range(30))
def test_chains_are_those_that_a_plain_search_finds(seed: int, mp3: bytes) -> None:
    rng = np.random.default_rng(seed)
    noise = bytes(rng.choice([0xFF, 0xFB, 0xF1, 0x90, 0x50, 0], rng.integers(1, 3000)).astype(np.uint8))
    begin, end = rng.integers(0, 5000, 2)
    for data in (noise, noise + mp3[begin : begin + end] + noise[:50], mp3[begin : begin + end]):
        for frame_size in (mpeg_frame_size, adts_frame_size):
            for whole in (False, True):
                expected = _plain_find_chain(data, 1, frame_size, whole)
                assert find_chain(data, 1, frame_size, whole) == expected


def _check_rejected(path: Path, match: str) -> None:
    with max_cpu_seconds(6):
        for read in (probe, decode):
            with pytest.raises(SoundError, match=match) as caught:
                read(path)
            assert caught.value.kind == "not_audio"


@pytest.mark.slow
def test_millions_of_boxes(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    path.write_bytes(struct.pack(">I4s", 8, b"free") * 4_000_000)
    _check_rejected(path, "more than 400,000 boxes")
    inside = struct.pack(">I4s", 8, b"free") * 4_000_000
    index = struct.pack(">I4sI4s", 16 + len(inside), b"moov", 8 + len(inside), b"udta") + inside
    path.write_bytes(struct.pack(">I4s4sI", 16, b"ftyp", b"M4A ", 0) + index)
    _check_rejected(path, "more than 20,000 boxes in its index")


@pytest.mark.parametrize("form", ["wav", "aiff"])
def test_millions_of_chunks(tmp_path: Path, form: str) -> None:
    head = b"RIFF\0\0\0\0WAVE" if form == "wav" else b"FORM\0\0\0\0AIFF"
    path = tmp_path / f"song.{form}"
    path.write_bytes(head + b"junk\0\0\0\0" * 3_000_000)
    _check_rejected(path, "more than 10,000 chunks")


@pytest.mark.parametrize("page", [b"OggS\0\0" + bytes(8) + b"abcd" + bytes(9), b"fLaC\0\0\0\x22"])
def test_millions_of_empty_pages_and_headers(tmp_path: Path, page: bytes) -> None:
    path = tmp_path / "song"
    sf.write(path, np.zeros(1000), 22050, format="OGG" if page[:4] == b"OggS" else "FLAC")
    with path.open("ab") as stream:
        stream.write(page * 1_000_000)
    with max_cpu_seconds(2):
        _check_rejected(path, "more than 10,000")


def test_millions_of_id3_tags(tmp_path: Path, mp3: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(b"ID3\x04\0\0\0\0\0\0" * 3_000_000 + mp3)
    _check_rejected(path, "ID3 tags")
    path.write_bytes(b"ID3\x04\0\0\0\0\0\0" * 20 + mp3)
    assert len(decode(path)) > 29 * SAMPLE_RATE


@pytest.mark.parametrize(
    "tag", [b"TAG" + bytes(125), b"000000LYRICS200", b"APETAGEX" + bytes(24)], ids=["id3v1", "lyrics", "ape-of-size-0"]
)
def test_millions_of_tags_at_the_end(tmp_path: Path, mp3: bytes, tag: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(mp3 + tag * (BIG // len(tag)))
    with path.open("rb", buffering=0) as file, max_cpu_seconds(2):
        size = path.stat().st_size
        assert sniff(file, size) == ("mp3", 0)
        assert end_of_audio(file, size) > len(mp3)
    path.write_bytes(mp3 + tag)
    with path.open("rb", buffering=0) as file:
        assert end_of_audio(file, len(mp3) + len(tag)) == len(mp3)


def test_the_library_limits_the_number_of_parts(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    sf.write(path, make_song(1, SAMPLE_RATE), SAMPLE_RATE)
    with path.open("ab") as stream:
        stream.write(b"junk\0\0\0\0" * 3_000_000)
    with max_cpu_seconds(2), pytest.raises(LayoutError, match="more than 20,000 chunks"):
        hash_audio(path)


def _comments(count: int) -> bytes:
    texts = (b"K%d=b" % number for number in range(count))
    return struct.pack("<II", 0, count) + b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _with_comments(path: Path, count: int) -> None:
    """Put many comments of different names into a flac, Ogg or Matroska file."""
    content = path.read_bytes()
    if path.suffix == ".flac":
        block = _comments(count)
        path.write_bytes(content[:42] + b"\4" + len(block).to_bytes(3, "big") + block + content[42:])
    elif path.suffix == ".mka":
        one = b"\x67\xc8\x8a\x45\xa3\x84%04x\x44\x87\x80"
        tags = b"".join(one % number for number in range(count))
        tags = b"\x73\x73\x01" + len(tags).to_bytes(7, "big") + tags
        cluster = content.index(b"\x1f\x43\xb6\x75")
        path.write_bytes(
            content[:cluster] + b"\x12\x54\xc3\x67\x01" + len(tags).to_bytes(7, "big") + tags + content[cluster:]
        )
    else:
        tags = mutagen.File(path)
        for number in range(count):
            tags[f"K{number}"] = "b"
        tags.save()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["song.flac", "song.ogg", "song.opus", "song.spx", "song.mka"])
def test_thousands_of_comments(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codec = {"spx": ["-c:a", "libspeex"], "opus": ["-c:a", "libopus"], "ogg": ["-c:a", "libvorbis"]}
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "sine=d=1:r=16000",
        *codec.get(path.suffix[1:], []),
        str(path),
    ]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("this ffmpeg lacks the encoder")
    assert decode(path).size
    _with_comments(path, 6000)
    with max_cpu_seconds(1):
        _check_rejected(path, "more than 5,000 comments")


@pytest.mark.slow
def test_tags_that_take_ffmpeg_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libav, "_OPENING_SECONDS", 0.2)
    path = tmp_path / "song.wav"
    sf.write(path, make_song(1, SAMPLE_RATE), SAMPLE_RATE)
    content = path.read_bytes()
    assert decode(path).size
    letters = (string.ascii_letters + string.digits).encode()
    names = islice(product(letters, repeat=4), 60_000)
    info = b"INFO" + b"".join(bytes(name) + b"\2\0\0\0x\0" for name in names)
    path.write_bytes(content[:12] + b"LIST" + struct.pack("<I", len(info)) + info + content[12:])
    with max_cpu_seconds(3):
        _check_rejected(path, "headers or tags take too long")


def _id3(frames: bytes, flags: int = 0) -> bytes:
    return b"ID3\x03\0" + bytes([flags]) + synchsafe_bytes(len(frames)) + frames


def _frame(name: bytes, data: bytes) -> bytes:
    return name + struct.pack(">IH", len(data), 0) + data


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_thousands_of_id3_frames_before_the_sound(tmp_path: Path, suffix: str) -> None:
    """FFmpeg reads an ID3 chunk in one call, in time quadratic in the number of different texts."""
    path = tmp_path / f"song.{suffix}"
    sf.write(path, make_song(1, SAMPLE_RATE), SAMPLE_RATE)
    content, order = path.read_bytes(), "<I" if suffix == "wav" else ">I"

    def write(count: int) -> None:
        tag = _id3(b"".join(_frame(b"TXXX", b"\0%d\0x" % number) for number in range(count)))
        chunk = b"id3 " if suffix == "wav" else b"ID3 "
        path.write_bytes(content[:12] + chunk + struct.pack(order, len(tag)) + tag + bytes(len(tag) % 2) + content[12:])

    write(300)
    assert decode(path).size
    write(300_000)
    with max_cpu_seconds(1):
        _check_rejected(path, "more than 5,000 frames")


COSTLY_TAGS = {
    "many before a large one": _id3(_frame(b"TXXX", b"\0a\0") * 4000 + _frame(b"PRIV", b"x\0" + bytes(3_000_000))),
    "many texts": _id3(_frame(b"TXXX", b"\3a\0" + b"/\0" * 100_000)),
    "many texts, compressed": b"ID3\x04\0\0"
    + synchsafe_bytes(10 + len(PACKED := bytes(4) + zlib.compress(b"\3a\0" + b"/\0" * 100_000)))
    + b"TXXX"
    + synchsafe_bytes(len(PACKED))
    + b"\0\x08"
    + PACKED,
    "a large text": _id3(_frame(b"TCON", b"\3" + b"(17)" * 1_250_000)),
    "lyrics with times": _id3(_frame(b"SYLT", b"\0eng\1\1\0" + b"a\0\0\0\0\1" * 100_000)),
    "events": _id3(_frame(b"ETCO", b"\1" + b"\1\0\0\0\1" * 100_000)),
    "frames in a chapter": _id3(_frame(b"CHAP", b"a\0" + bytes(16) + _frame(b"TIT2", b"\0") * 50_000)),
    "frames after unsynchronisation": _id3(
        _frame(b"PRIV", b"\xff\0" * 10) + bytes(10) + _frame(b"TXXX", b"\0a\0") * 30_000, 0x80
    ),
}


@pytest.mark.parametrize("name", COSTLY_TAGS)
def test_tags_that_take_mutagen_long(tmp_path: Path, mp3: bytes, name: str) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(COSTLY_TAGS[name] + mp3)
    with max_cpu_seconds(1), pytest.raises(CostlyTagsError, match="more than"):
        check_tags(path)


def test_large_and_many_tags_that_real_files_have_are_read(tmp_path: Path, mp3: bytes) -> None:
    path = tmp_path / "song.mp3"
    picture = _frame(b"APIC", b"\0image/png\0\3\0" + bytes(8_000_000))
    chapters = _frame(b"CHAP", b"a\0" + bytes(16) + _frame(b"TIT2", b"\0One") + picture[:400_000]) * 20
    words = _frame(b"SYLT", b"\0eng\1\1\0" + b"word\0\0\0\0\1" * 2000)
    texts = b"".join(_frame(b"TXXX", b"\0" + b"%d\0text" % number) for number in range(200))
    lyrics = _frame(b"USLT", b"\0eng\0" + b"la la\n" * 20_000)
    path.write_bytes(_id3(texts + words + lyrics + chapters + picture) + mp3)
    check_tags(path)


def test_a_long_ogg_header_packet_is_joined_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "song.ogg"
    page = b"OggS\0\0" + bytes(20) + b"\xff" + b"\xff" * 255 + bytes(255 * 255)
    first = b"OggS\0\2" + bytes(20) + b"\1" + b"\7" + b"\1vorbis"
    path.write_bytes(first + page * 150)
    with path.open("rb", buffering=0) as file, max_cpu_seconds(2):
        assert len(list(header_packets(file, path.stat().st_size))) == 1
