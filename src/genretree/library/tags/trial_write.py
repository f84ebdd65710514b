"""Whether a file's tags can be written, found out before anybody is promised that they will be.

The layout of a file is looked at in a few short reads. Where the writer is not certain to cope with it, the tags are
written into a temporary copy, with the same checks as for the file itself.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from genretree.library.tags.adapters import TagError, read_tags, write_tags
from genretree.library.tags.audio_digest import LayoutError, boxes, header_packets, riff_chunks, sound_digest
from genretree.library.tags.id3_frames import TEXT_ENCODINGS, read_frames
from genretree.library.tags.verify_unchanged import check_untouched
from genretree.sound.containers import MP4_BOXES, read_at, sniff, synchsafe, synchsafe_bytes

_HEADERS = 1000  # frames, blocks, chunks or boxes of a file that is certain; more are tried
_SMALL = 1 << 16
_OGG_PAGE = 27 + 255 + 255 * 255
_REPEATED = frozenset({"TXXX", "COMM", "USLT", "WXXX", "PRIV", "UFID"})  # distinguished by what they begin with


def find_obstacle(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> str:
    """Return why a file's tags can't be written, "" if they can.

    Parameters
    ----------
    path : Path
        Not changed; copied into the system's folder for temporary files where its layout leaves a doubt.
    genres : sequence of str
        What is to be written.
    own : mapping
        Our own fields.

    Raises
    ------
    OSError
        If it can't be read or copied.
    """
    return try_on_copy(path, genres, own) if is_doubtful(path) else ""


def try_on_copy(path: Path, genres: Sequence[str], own: Mapping[str, str]) -> str:
    """Write into a temporary copy; return what goes wrong, "" if nothing does."""
    with tempfile.TemporaryDirectory(prefix="genretree-") as folder:
        copy = Path(folder) / "copy.tmp"  # no suffix that means something, as when the file itself is written
        shutil.copyfile(path, copy)
        try:
            write_tags(copy, genres, own)
            if sound_digest(copy) != sound_digest(path):
                return "its sound would not stay as it is"
            check_untouched(path, copy)
            if read_tags(copy).own != own:
                return "its tags don't hold what was written"
        except (TagError, LayoutError) as error:
            return str(error) or type(error).__name__
    return ""


def is_doubtful(path: Path) -> bool:
    """Whether a file is laid out in a way that the writer is not certain to cope with."""
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, io.SEEK_END)
        try:
            kind, start = sniff(file, size)
            return kind not in _CHECKS or _CHECKS[kind](file, start, size)
        except (LayoutError, ValueError, IndexError, RecursionError):
            return True


def _mp3(file: io.FileIO, start: int, size: int) -> bool:
    head, end = read_at(file, 0, 10), read_at(file, max(0, size - 160), 160)
    if head[:3] == b"ID3":
        length = 10 + synchsafe(head[6:10])
        return length != start or b"3DI" in end or _frames_doubtful(file, 0, length)
    return end[32:35] == b"TAG" or any(magic in end for magic in (b"APETAGEX", b"LYRICS200", b"3DI"))


def _frames_doubtful(file: io.FileIO, at: int, end: int) -> bool:
    """Whether an ID3v2 tag holds anything but whole frames of which none is repeated, and some text."""
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
            if length > _SMALL or _comments_doubtful(read_at(file, at + 4, length)):
                return True
        at += 4 + length
        if head[0] & 0x80:
            return comments != 1
    return True


def _comments_doubtful(data: bytes, padded: bool = False) -> bool:
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
    return not prefix or _comments_doubtful(packets[1].rstrip(b"\0\1")[len(prefix) :], padded=True)


def _mp4(file: io.FileIO, start: int, size: int) -> bool:
    top = list(islice(boxes(file, 0, size), _HEADERS))
    if start or len(top) == _HEADERS or top[-1][2] != size or {name for name, _, _ in top} - MP4_BOXES:
        return True
    for way in _tag_lists(file, top, (b"udta", b"meta", b"ilst")):
        names = [_mp4_name(file, *box) for box in islice(boxes(file, *way), _HEADERS)]
        if len(names) == _HEADERS or len(set(names)) != len(names):
            return True
    return False


def _mp4_name(file: io.FileIO, name: bytes, start: int, end: int) -> tuple[bytes, ...]:
    """Return what distinguishes a tag: its box's name, and of a freeform one also the names within."""
    if name != b"----":
        return (name,)
    inner = [box for box in islice(boxes(file, start, end), _HEADERS) if box[0] in (b"mean", b"name")]
    return (name, *(read_at(file, low, min(high - low, _SMALL)) for _, low, high in inner))


def _tag_lists(
    file: io.FileIO, found: Sequence[tuple[bytes, int, int]], way: tuple[bytes, ...]
) -> Iterator[tuple[int, int]]:
    for name, start, end in found:
        if name == b"moov" or name == way[0]:
            rest = way if name == b"moov" else way[1:]
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
        return len(tags) > 1 or any(_frames_doubtful(file, at, end) for _, at, end in tags)

    return check


_CHECKS = {"mp3": _mp3, "flac": _flac, "ogg": _ogg, "mp4": _mp4, "wav": _riff("little"), "aiff": _riff("big")}
