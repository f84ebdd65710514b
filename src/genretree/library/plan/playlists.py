"""Write one playlist per node of the tree: M3U8 files, or an XML library for Rekordbox.

Formats: extended M3U in UTF-8; Pioneer DJ's "rekordbox xml format list", version 1.0.0.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from genretree.errors import LibraryError
from genretree.files import atomic_path, printable
from genretree.library.database.connection import decode_path, encode_path
from genretree.library.plan.planner import TagPlan
from genretree.taxonomy import NodePath, format_path

_SEPARATOR = "\x1f"
_MANIFEST = ".genretree-playlists"  # lists the playlists that genretree wrote to a folder
_LIKE = b"#EXTM3U\n#GENRETREE:like\n"  # the beginning of a playlist that may be replaced
_MAX_NAME = 60  # characters, at most 240 bytes in UTF-8
_NOT_IN_A_NAME = re.compile(r'[\\/:*?"<>|\x00-\x1f]')
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class PlaylistIndex:
    """An index of files by node, in a temporary database, so that memory use does not grow with their number."""

    def __init__(self, plans: Iterable[TagPlan]) -> None:
        self._rows = sqlite3.connect("")
        self._rows.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, path BLOB, genre TEXT, confidence REAL)")
        self._rows.execute("CREATE TABLE entry (node TEXT, item INTEGER, confidence REAL)")
        for plan in plans:
            node, confidence = plan.decision.path, plan.decision.confidence
            if not plan.decision.genres:
                continue
            genre = "; ".join(plan.decision.genres)
            item = self._rows.execute(
                "INSERT INTO item (path, genre, confidence) VALUES (?, ?, ?)",
                (encode_path(plan.row.path), genre, confidence),
            ).lastrowid
            entries: dict[NodePath, float] = {}
            for path, probability in ((node, confidence), *plan.decision.others):
                for cut in range(1, len(path) + 1):
                    entries.setdefault(path[:cut], probability)
            rows = [(_SEPARATOR.join(path), item, probability) for path, probability in entries.items()]
            self._rows.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
        self._rows.execute("CREATE INDEX by_node ON entry (node, confidence DESC, item)")

    def nodes(self) -> list[tuple[NodePath, int]]:
        """Return every node with files, and their number; parents come before children."""
        rows = self._rows.execute("SELECT node, count(*) FROM entry GROUP BY node ORDER BY node")
        return [(tuple(node.split(_SEPARATOR)), n) for node, n in rows]

    def items(self) -> Iterator[tuple[int, str, str]]:
        """Yield id, path and genre of all files."""
        for id_, path, genre in self._rows.execute("SELECT id, path, genre FROM item ORDER BY id"):
            yield id_, decode_path(path), genre

    def of(self, node: NodePath) -> Iterator[tuple[int, str]]:
        """Yield id and path of a node's files, most confident first."""
        query = "SELECT item, path FROM entry JOIN item ON id = item WHERE node = ? ORDER BY entry.confidence DESC, id"
        for id_, path in self._rows.execute(query, (_SEPARATOR.join(node),)):
            yield id_, decode_path(path)


def write_m3u8(index: PlaylistIndex, folder: Path, relative: bool = False) -> list[Path]:
    """Write one playlist per node, in folders that mirror the tree: `Classic.m3u8`, `Classic/Chamber.m3u8`.

    Parameters
    ----------
    index : PlaylistIndex
    folder : Path
        Playlists of an earlier call are removed; other files are not touched.
    relative : bool
        Write paths relative to the playlist, so that playlists and music can be moved together.

    Returns
    -------
    list of Path
        The playlists.

    Raises
    ------
    LibraryError
        If a file that genretree did not write has the name of a playlist; nothing is changed then.
    """
    previous = _read_manifest(folder)
    places = {
        node: folder.joinpath(*map(_file_name, node[:-1]), f"{_file_name(node[-1])}.m3u8") for node, _ in index.nodes()
    }
    for path in places.values():
        if path.exists() and path not in previous:
            raise LibraryError(f"{path}: was not written by genretree; move it away, or choose another folder")
    for old in previous:
        old.unlink(missing_ok=True)
    written: list[Path] = []
    for node, path in places.items():
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            stream.write(b"#EXTM3U\n#PLAYLIST:" + format_path(node).encode() + b"\n")
            stream.writelines(_m3u8_lines((file for _, file in index.of(node)), path.parent, relative))
        written.append(path)
    (folder / _MANIFEST).write_text(
        "".join(f"{path.relative_to(folder).as_posix()}\n" for path in written), encoding="utf-8"
    )
    return written


def _m3u8_lines(files: Iterable[str], folder: Path, relative: bool) -> Iterator[bytes]:
    for file in files:
        named = os.path.relpath(file, os.path.realpath(folder)) if relative else file
        if "\n" in named or "\r" in named:
            continue  # M3U has no escape for line breaks
        if named.startswith("#"):
            named = os.path.join(".", named)  # noqa: PTH118  # or it would be a comment
        yield os.fsencode(named) + b"\n"


def write_like_playlist(title: str, files: Sequence[str], folder: Path, relative: bool = False) -> Path:
    """Write a playlist of the tracks that are similar to a song: `Like TITLE.m3u8`.

    Parameters
    ----------
    title : str
        Name of the song.
    files : sequence of str
        Most similar first.
    folder : Path
    relative : bool
        Write paths relative to the playlist.

    Returns
    -------
    Path
        The playlist; one of an earlier call for the same song is replaced.

    Raises
    ------
    LibraryError
        If a file that genretree did not write has the name of the playlist.
    """
    path = folder / f"{_file_name(f'Like {title}')[:_MAX_NAME]}.m3u8"
    if path.exists():
        with path.open("rb") as stream:
            if stream.read(len(_LIKE)) != _LIKE:
                raise LibraryError(f"{path}: was not written by genretree; move it away, or choose another folder")
    shown = printable(f"Like {title}")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(_LIKE + f"#PLAYLIST:{shown}\n".encode())
        stream.writelines(_m3u8_lines(files, folder, relative))
    return path


def _read_manifest(folder: Path) -> list[Path]:
    record = folder / _MANIFEST
    if not record.is_file():
        return []
    return [folder / name for name in record.read_text(encoding="utf-8").splitlines() if ".." not in name]


def write_rekordbox(index: PlaylistIndex, path: Path) -> None:
    """Write an XML library: all files with their genres, and a folder tree of playlists."""
    nodes = index.nodes()
    count = sum(1 for _ in index.items())
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write('<?xml version="1.0" encoding="UTF-8"?>\n<DJ_PLAYLISTS Version="1.0.0">\n')
        stream.write('<PRODUCT Name="genretree" Version="1" Company=""/>\n')
        stream.write(f'<COLLECTION Entries="{count}">\n')
        for id_, file, genre in index.items():
            name = quoteattr(_xml(Path(file).stem))
            location = quoteattr("file://localhost" + _url_path(file))
            stream.write(f'<TRACK TrackID="{id_}" Name={name} Genre={quoteattr(_xml(genre))} Location={location}/>\n')
        stream.write("</COLLECTION>\n<PLAYLISTS>\n")
        stream.write('<NODE Type="0" Name="ROOT" Count="1">\n')
        _write_branch(stream.write, index, nodes, ())
        stream.write("</NODE>\n</PLAYLISTS>\n</DJ_PLAYLISTS>\n")


def _write_branch(
    write: Callable[[str], object], index: PlaylistIndex, nodes: list[tuple[NodePath, int]], top: NodePath
) -> None:
    """Write a folder with the playlists of the nodes below `top`; nodes with children get a folder as well."""
    below = [(node, n) for node, n in nodes if len(node) == len(top) + 1 and node[: len(top)] == top]
    parents = {node[: len(top) + 1] for node, _ in nodes if len(node) > len(top) + 1}
    entries = len(below) + sum(node in parents for node, _ in below)
    write(f'<NODE Type="0" Name={quoteattr(_xml(top[-1] if top else "genretree"))} Count="{entries}">\n')
    for node, n in below:
        write(f'<NODE Type="1" Name={quoteattr(_xml(node[-1]))} KeyType="0" Entries="{n}">\n')
        for id_, _ in index.of(node):
            write(f'<TRACK Key="{id_}"/>\n')
        write("</NODE>\n")
        if node in parents:
            _write_branch(write, index, nodes, node)
    write("</NODE>\n")


def _url_path(file: str) -> str:
    path = quote(os.fsencode(file))
    return path if path.startswith("/") else f"/{path}"


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)


def _file_name(name: str) -> str:
    safe = _NOT_IN_A_NAME.sub("_", name).strip(" .")
    return safe or "_"
