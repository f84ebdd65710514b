"""Check in advance whether a file's tags can be written.

A few short reads check the layout of the file. If it is unusual, the tags are written into a temporary copy, with the
same verification as for the file itself.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from genretree.library.tags.adapters import TagError, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, boxes, hash_audio, header_packets, riff_chunks
from genretree.library.tags.id3_frames import TEXT_ENCODINGS, read_frames
from genretree.library.tags.verify_unchanged import check_unchanged
from genretree.sound.containers import MP4_BOXES, read_at, sniff, synchsafe, synchsafe_bytes

_HEADERS = 1000  # files with more frames, blocks, chunks or boxes need a trial
_SMALL = 1 << 16
_OGG_PAGE = 27 + 255 + 255 * 255
_REPEATED = frozenset({"TXXX", "COMM", "USLT", "WXXX", "PRIV", "UFID"})  # distinguished by their first values


def find_write_error(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> str:
    """Return why a file's tags can't be written, or "" if they can.

    Parameters
    ----------
    path : Path
        Not changed; copied to the system's temporary folder if its layout is unusual.
    genres : sequence of str
        New genres.
    own : mapping of str to str
        New values of genretree's fields.

    Raises
    ------
    OSError
        If the file can't be read or copied.
    """
    return trial_write(path, genres, own) if needs_trial(path) else ""


def trial_write(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> str:
    """Write the tags into a temporary copy; returns what is wrong, or "" if nothing is."""
    with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
        copy = Path(folder) / "copy.tmp"  # a neutral suffix, as for the copies of `apply`
        shutil.copyfile(path, copy)
        try:
            write_tags(copy, genres, own)
            if hash_audio(copy) != hash_audio(path):
                return "its audio would change"
            check_unchanged(path, copy)
            if read_tags(copy).own != own:
                return "its tags do not contain what was written"
        except (TagError, LayoutError) as error:
            return str(error) or type(error).__name__
    return ""


def needs_trial(path: Path) -> bool:
    """Return whether a file has an unusual layout, so that writing must be tried on a copy."""
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        try:
            format_, start = sniff(file, size)
            return format_ not in _CHECKS or _CHECKS[format_](file, start, size)
        except (LayoutError, ValueError, IndexError, RecursionError):
            return True


def _mp3(file: io.FileIO, start: int, size: int) -> bool:
    head, end = read_at(file, 0, 10), read_at(file, max(0, size - 160), 160)
    if head[:3] == b"ID3":
        length = 10 + synchsafe(head[6:10])
        return length != start or b"3DI" in end or _frames_need_trial(file, 0, length)
    return end[32:35] == b"TAG" or any(magic in end for magic in (b"APETAGEX", b"LYRICS200", b"3DI"))


def _frames_need_trial(file: io.FileIO, at: int, end: int) -> bool:
    """Return False if an ID3v2 tag contains text, and only complete frames without repetitions."""
    head = read_at(file, at, 10)
    if head[:3] != b"ID3" or head[3] not in (3, 4) or head[5]:
        return True
    seen: set[tuple[object, ...]] = set()
    speaks = False
    at += 10
    for _ in range(_HEADERS):
        frame = read_at(file, at, 10) if at + 10 <= end else b""
        if not frame.strip(b"\0"):
            return not speaks
        name, raw = frame[:4].decode("ascii", "replace"), frame[4:8]
        length = synchsafe(raw) if head[3] == 4 else int.from_bytes(raw, "big")
        if not (name.isalnum() and name.isupper()) or at + 10 + length > end or frame[8:].strip(b"\0") or not length:
            return True
        if head[3] == 4 and any(byte > 127 for byte in raw):
            return True
        data = read_at(file, at + 10, min(length, _SMALL))
        key: tuple[object, ...] = (name,)
        if name in _REPEATED:
            key = read_frames(head[:6] + synchsafe_bytes(10 + len(data)) + name.encode() + raw + b"\0\0" + data)[0][:3]
            key = key[:2] if name in ("TXXX", "WXXX") else key
        elif name[0] == "T":
            data[1:].decode(TEXT_ENCODINGS[data[0]])
        if key in seen:
            return True
        seen.add(key)
        speaks = speaks or name[0] == "T" or name in ("COMM", "USLT")
        at += 10 + length
    return True


def _flac(file: io.FileIO, start: int, size: int) -> bool:
    if start or read_at(file, max(0, size - 128), 3) == b"TAG":
        return True
    at, comments = 4, 0
    for _ in range(_HEADERS):
        head = read_at(file, at, 4)
        length = int.from_bytes(head[1:], "big")
        if len(head) < 4 or at + 4 + length > size:
            return True
        if head[0] & 0x7F == 4:
            comments += 1
            if length > _SMALL or _comments_need_trial(read_at(file, at + 4, length)):
                return True
        at += 4 + length
        if head[0] & 0x80:
            return comments != 1
    return True


def _comments_need_trial(data: bytes, padded: bool = False) -> bool:
    at = 4 + int.from_bytes(data[:4], "little")
    data[4:at].decode()
    count = int.from_bytes(data[at : at + 4], "little")
    at += 4
    for _ in range(min(count, _HEADERS + 1)):
        length = int.from_bytes(data[at : at + 4], "little")
        name, equals, text = data[at + 4 : at + 4 + length].partition(b"=")
        text.decode()
        if not (name and equals and all(0x20 <= byte <= 0x7D for byte in name)):
            return True
        at += 4 + length
    return count == 0 or count > _HEADERS or (at != len(data) and not padded) or at > len(data)


def _ogg(file: io.FileIO, start: int, size: int) -> bool:
    first, end = read_at(file, 0, 18), read_at(file, max(0, size - _OGG_PAGE), _OGG_PAGE)
    at = end.rfind(b"OggS")
    if start or at < 0 or at + 27 > len(end) or end[at + 14 : at + 18] != first[14:18]:
        return True
    lacing = end[at + 27 : at + 27 + end[at + 26]]
    if at + 27 + len(lacing) + sum(lacing) != len(end):
        return True
    packets = [packet for _, _, packet in islice(header_packets(file, size), 2)]
    prefix = next((magic for magic in (b"\x03vorbis", b"OpusTags") if packets[1].startswith(magic)), b"")
    return not prefix or _comments_need_trial(packets[1].rstrip(b"\0\1")[len(prefix) :], padded=True)


def _mp4(file: io.FileIO, start: int, size: int) -> bool:
    top = list(islice(boxes(file, 0, size), _HEADERS))
    if start or len(top) == _HEADERS or top[-1][2] != size or {name for name, _, _ in top} - MP4_BOXES:
        return True
    for box_path in _tag_lists(file, top, (b"udta", b"meta", b"ilst")):
        names = [_mp4_name(file, *box) for box in islice(boxes(file, *box_path), _HEADERS)]
        if len(names) == _HEADERS or len(set(names)) != len(names):
            return True
    return False


def _mp4_name(file: io.FileIO, name: bytes, start: int, end: int) -> tuple[bytes, ...]:
    """Return the identity of a tag: the name of its box, and for freeform tags the names in it."""
    if name != b"----":
        return (name,)
    inner = [box for box in islice(boxes(file, start, end), _HEADERS) if box[0] in (b"mean", b"name")]
    return (name, *(read_at(file, low, min(high - low, _SMALL)) for _, low, high in inner))


def _tag_lists(
    file: io.FileIO, parents: Sequence[tuple[bytes, int, int]], box_path: tuple[bytes, ...]
) -> Iterator[tuple[int, int]]:
    for name, start, end in parents:
        if name == b"moov" or name == box_path[0]:
            rest = box_path if name == b"moov" else box_path[1:]
            if not rest:
                yield start, end
            else:
                inner = islice(boxes(file, start + (4 if name == b"meta" else 0), end), _HEADERS)
                yield from _tag_lists(file, list(inner), rest)


def _riff(order: str) -> Callable[[io.FileIO, int, int], bool]:
    def check(file: io.FileIO, start: int, size: int) -> bool:
        chunks = list(islice(riff_chunks(file, size, order), _HEADERS))
        length = int.from_bytes(read_at(file, 4, 4), "little" if order == "little" else "big")
        if start or length + 8 != size or len(chunks) == _HEADERS:
            return True
        tags = [chunk for chunk in chunks if chunk[0].upper() == b"ID3 "]
        if any(name == b"LIST" and read_at(file, at, 4) == b"INFO" for name, at, _ in chunks) and not tags:
            return True
        return len(tags) > 1 or any(_frames_need_trial(file, at, end) for _, at, end in tags)

    return check


_CHECKS = {"mp3": _mp3, "flac": _flac, "ogg": _ogg, "mp4": _mp4, "wav": _riff("little"), "aiff": _riff("big")}
