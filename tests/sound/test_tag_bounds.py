"""Files with expensive tags are rejected before mutagen reads them; real tags are not."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from genretree.corpus import file_tags
from genretree.library.tags.adapters import TagError, read_tags
from genretree.library.tags.id3_frames import read_frames
from genretree.sound.tag_bounds import MAX_DECOMPRESSED, CostlyTagsError, check_tags

_WAV_HEAD = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 22050, 44100, 2, 16)
_DATA = b"data" + struct.pack("<I", 44100) + b"\1\0" * 22050
_ZEROS = zlib.compress(bytes(MAX_DECOMPRESSED // 2), 9)


def _synchsafe(number: int) -> bytes:
    return bytes((number >> shift) & 127 for shift in (21, 14, 7, 0))


def _id3(body: bytes, major: int = 4) -> bytes:
    return b"ID3" + bytes([major, 0, 0]) + _synchsafe(len(body)) + body


def _frame(name: bytes, data: bytes, flags: int = 0) -> bytes:
    return name + _synchsafe(len(data)) + flags.to_bytes(2, "big") + data


def _riff(parts: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


_PACKED = _frame(b"TXXX", _synchsafe(MAX_DECOMPRESSED // 2) + _ZEROS, 0x09)
_APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 4_000_000, 0) + bytes(8)
COSTLY = {
    "chunks.wav": _riff(_WAV_HEAD + (b"junk" + bytes(4)) * 1_000_000 + _DATA),
    "chunks_behind.wav": _riff(_WAV_HEAD + _DATA + (b"junk" + bytes(4)) * 1_000_000),
    "packed.mp3": _id3(_PACKED * 5),
    "packed_v23.mp3": _id3(
        (b"TXXX" + struct.pack(">IH", len(_ZEROS) + 4, 0x80) + struct.pack(">I", len(_ZEROS) * 1000) + _ZEROS) * 5, 3
    ),
    "packed.wav": _riff(_WAV_HEAD + _DATA + b"id3 " + struct.pack("<I", len(_id3(_PACKED * 5))) + _id3(_PACKED * 5)),
    "frames.mp3": _id3(_frame(b"TXXX", b"\0a\0") * 1_000_000),
    "blocks.flac": b"fLaC\0\0\0\x22" + bytes(34) + b"\2\0\0\4APPL" * 1_000_000,
    "comments.flac": b"fLaC\0\0\0\x22"
    + bytes(34)
    + b"\x84\0\x10\0"
    + bytes(4)
    + struct.pack("<I", 1 << 20)
    + bytes(5000),
    "boxes.m4a": b"\0\0\0\x08ftyp" + b"\0\0\0\x08free" * 1_000_000,
    "inner_boxes.m4a": b"\0\0\0\x08ftyp" + struct.pack(">I", 8_000_008) + b"moov" + b"\0\0\0\x08free" * 1_000_000,
    "items.mp3": bytes(5000) + _APE,
    "items_v1.mp3": bytes(5000) + _APE + b"TAG" + bytes(125),
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_tags_are_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(COSTLY[name])
    began = time.process_time()
    with pytest.raises(CostlyTagsError, match="more than"):
        check_tags(path)
    assert file_tags.read_tags(path) == {}
    with pytest.raises(TagError, match="more than"):
        read_tags(path)
    assert time.process_time() - began < 2


def test_real_tags_pass(tmp_path: Path) -> None:
    y = np.random.default_rng(0).normal(0, 0.1, 22050).astype(np.float32)
    for suffix in ("wav", "aiff", "flac", "ogg"):
        sf.write(tmp_path / f"a.{suffix}", y, 22050)
        check_tags(tmp_path / f"a.{suffix}")
    small = _frame(b"TPE1", _synchsafe(9) + zlib.compress(b"\3An artist"), 0x09)
    (tmp_path / "a.mp3").write_bytes(_id3(small + _frame(b"APIC", bytes(2_000_000))))
    check_tags(tmp_path / "a.mp3")
    (tmp_path / "empty").write_bytes(b"")
    check_tags(tmp_path / "empty")


def test_compressed_frames_are_decompressed_up_to_a_bound() -> None:
    text = read_frames(_id3(_frame(b"TPE1", _synchsafe(10) + zlib.compress(b"\3An artist"), 0x09)))
    assert text == [("TPE1", "An artist")]
    many = zlib.compress(bytes(MAX_DECOMPRESSED + 1), 9)
    (kept,) = read_frames(_id3(_frame(b"PRIV", _synchsafe(4) + many, 0x09)))
    assert sum(len(part) for part in kept if isinstance(part, bytes)) <= len(many) + 4
