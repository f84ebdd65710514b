"""Files that cost little to make and must not cost much to check: the processor time is bounded, whatever the bytes."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from sound_helpers import make_song

from genretree.errors import SoundError
from genretree.library.payload import LayoutError, header_packets, sound_digest
from genretree.settings import RATE
from genretree.sound.complete import end_of_audio
from genretree.sound.containers import (
    adts_frame_size,
    find_chain,
    mpeg_frame_size,
    sniff,
)
from genretree.sound.decode import decode, iter_blocks, probe

BIG = 60_000_000


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < seconds


@pytest.fixture(scope="module")
def mp3() -> bytes:
    stream = io.BytesIO()
    sf.write(stream, make_song(30, RATE), RATE, format="MP3")
    return stream.getvalue()


def test_sixty_megabytes_of_ones_behind_an_mp3(tmp_path: Path, mp3: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(mp3 + b"\xff" * BIG)
    with at_most(4):
        probe(path)
        try:
            assert len(decode(path)) > 25 * RATE
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
    with at_most(5):
        for salvage in (False, True):
            with suppress(SoundError):
                for _ in iter_blocks(path, salvage=salvage, longest=600):
                    pass


def _plain_find_chain(data: bytes, start: int, frame_size, whole: bool) -> int:  # type: ignore[no-untyped-def]
    """One place after another: what `find_chain` computes for all places at once."""
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


def _refused(path: Path, match: str) -> None:
    with at_most(6):
        for read in (probe, decode):
            with pytest.raises(SoundError, match=match) as caught:
                read(path)
            assert caught.value.kind == "not_audio"


def test_millions_of_boxes(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    path.write_bytes(struct.pack(">I4s", 8, b"free") * 4_000_000)
    _refused(path, "more than 400,000 boxes")
    inside = struct.pack(">I4s", 8, b"free") * 4_000_000
    index = struct.pack(">I4sI4s", 16 + len(inside), b"moov", 8 + len(inside), b"udta") + inside
    path.write_bytes(struct.pack(">I4s4sI", 16, b"ftyp", b"M4A ", 0) + index)
    _refused(path, "more than 20,000 boxes in its index")


@pytest.mark.parametrize("form", ["wav", "aiff"])
def test_millions_of_chunks(tmp_path: Path, form: str) -> None:
    head = b"RIFF\0\0\0\0WAVE" if form == "wav" else b"FORM\0\0\0\0AIFF"
    path = tmp_path / f"song.{form}"
    path.write_bytes(head + b"junk\0\0\0\0" * 3_000_000)
    _refused(path, "more than 10,000 chunks")


def test_millions_of_id3_tags(tmp_path: Path, mp3: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(b"ID3\x04\0\0\0\0\0\0" * 3_000_000 + mp3)
    _refused(path, "ID3 tags")
    path.write_bytes(b"ID3\x04\0\0\0\0\0\0" * 20 + mp3)
    assert len(decode(path)) > 29 * RATE


@pytest.mark.parametrize(
    "tag", [b"TAG" + bytes(125), b"000000LYRICS200", b"APETAGEX" + bytes(24)], ids=["id3v1", "lyrics", "ape-of-size-0"]
)
def test_millions_of_tags_at_the_end(tmp_path: Path, mp3: bytes, tag: bytes) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(mp3 + tag * (BIG // len(tag)))
    with path.open("rb", buffering=0) as file, at_most(2):
        size = path.stat().st_size
        assert sniff(file, size) == ("mp3", 0)
        assert end_of_audio(file, size) > len(mp3)
    path.write_bytes(mp3 + tag)
    with path.open("rb", buffering=0) as file:
        assert end_of_audio(file, len(mp3) + len(tag)) == len(mp3)


def test_the_library_reads_no_more_parts_than_real_files_have(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    sf.write(path, make_song(1, RATE), RATE)
    with path.open("ab") as stream:
        stream.write(b"junk\0\0\0\0" * 3_000_000)
    with at_most(2), pytest.raises(LayoutError, match="more than 20,000 chunks"):
        sound_digest(path)


def test_a_long_ogg_header_packet_is_joined_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "song.ogg"
    page = b"OggS\0\0" + bytes(20) + b"\xff" + b"\xff" * 255 + bytes(255 * 255)
    first = b"OggS\0\2" + bytes(20) + b"\1" + b"\7" + b"\1vorbis"
    path.write_bytes(first + page * 150)
    with path.open("rb", buffering=0) as file, at_most(2):
        assert len(list(header_packets(file, path.stat().st_size))) == 1
