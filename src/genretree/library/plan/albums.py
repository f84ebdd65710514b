"""Decide one genre per album, by the mean probabilities of its tracks."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from genretree.corpus.file_tags import read_tags
from genretree.files import printable
from genretree.library.database.connection import Database
from genretree.library.database.encoding import pack_levels, unpack_levels
from genretree.library.database.records import ModelKey, iter_results
from genretree.library.plan.mapping import Decision, decide
from genretree.library.plan.mapping import Mapping as Rules
from genretree.remote import is_url

_FIELDS = ("album", "albumartist", "compilation")
_VARIOUS = frozenset({"various artists", "various", "various artist", "va", "v.a.", "v/a"})
_PLACEHOLDERS = frozenset({"unknown", "unknown album", "unknown artist", "<unknown>", "untitled", "none", "no album"})
_DISC = re.compile(r"((cd|dis[ck]|dvd|lp)[\s._-]*\d{1,2}|side[\s._-]*[a-d])(\s*[-(\[].*)?", re.IGNORECASE)
_DISC_OF_ALBUM = re.compile(r"[\s,:-]*[(\[]?\b(?:cd|dis[ck])[\s._-]*\d{1,2}\b[)\]]?\s*$", re.IGNORECASE)
_FOLDER = "folder"
_CACHED = 256  # albums; their tracks are usually in one folder, so that they follow one another


@dataclass(frozen=True)
class Album:
    """An album and its genre.

    Parameters
    ----------
    name : str
        For display; says so if it is a compilation.
    n_tracks : int
        Number of tracks that the mean is taken of.
    decision : Decision
    """

    name: str
    n_tracks: int
    decision: Decision


class Albums:
    """The albums of a library, in a temporary database, so that memory use does not grow with their number.

    An album is identified by album and album artist; without an album artist, and for compilations, by album and
    folder, where folders of single discs (`CD 1`) count as the one above; without an album, by the folder alone. Such a
    folder is an album only if its mean is sure of a genre; otherwise each of its files is decided on its own.

    Parameters
    ----------
    database : Database
    model : int
    model_key : ModelKey
    rules : Mapping
    folder : str, optional
        Only tracks below this folder.
    tick : callable, optional
        Called for each track whose tags are read.
    """

    def __init__(
        self,
        database: Database,
        model: int,
        model_key: ModelKey,
        rules: Rules,
        folder: str | None = None,
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        self._model_key, self._rules = model_key, rules
        self._rows = sqlite3.connect("")  # a temporary file, deleted with the connection
        self._rows.execute("CREATE TABLE album (id INTEGER PRIMARY KEY, key TEXT UNIQUE, name TEXT)")
        self._rows.execute("CREATE TABLE track (file INTEGER PRIMARY KEY, album INTEGER, levels BLOB)")
        for row, result in iter_results(database, model, model_key, folder):
            if result.levels is not None and not row.error:
                key, name = identify_album(row.path, {} if is_url(row.path) else read_tags(Path(row.path), _FIELDS))
                self._rows.execute("INSERT OR IGNORE INTO album (key, name) VALUES (?, ?)", (key, name))
                self._rows.execute(
                    "INSERT INTO track SELECT ?, id, ? FROM album WHERE key = ?",
                    (row.id, pack_levels(result.levels), key),
                )
                tick()
        self._rows.execute("CREATE INDEX by_album ON track (album)")
        self._decide = lru_cache(_CACHED)(self._decide_album)

    def find(self, file: int) -> Album | None:
        """Return the album of a file with a result, by the file's id."""
        row = self._rows.execute("SELECT album FROM track WHERE file = ?", (file,)).fetchone()
        return None if row is None else self._decide(row[0])

    def _decide_album(self, album: int) -> Album | None:
        packed = self._rows.execute("SELECT levels FROM track WHERE album = ? ORDER BY file", (album,))
        tracks = [unpack_levels(levels, self._model_key.taxonomy) for (levels,) in packed]
        means = [np.mean(level, axis=0) for level in zip(*tracks, strict=True)]
        key, name = self._rows.execute("SELECT key, name FROM album WHERE id = ?", (album,)).fetchone()
        decision = decide(self._model_key, means, self._rules)
        if json.loads(key)[0] == _FOLDER and not decision.genres:
            return None
        return Album(name, len(tracks), decision)


def identify_album(path: str, tags: Mapping[str, str]) -> tuple[str, str]:
    """Return a key that the tracks of an album share, and the album's name.

    Parameters
    ----------
    path : str
    tags : mapping of str to str
        `album`, `albumartist` and `compilation`, where the file has them.

    Returns
    -------
    key, name : str

    Examples
    --------
    >>> identify_album("/music/x/1.mp3", {"album": "Blue", "albumartist": "Joni Mitchell"})[1]
    'Joni Mitchell: Blue'
    >>> identify_album("/music/hits/1.mp3", {"album": "Hits", "albumartist": "Various Artists"})[1]
    'Hits (compilation)'
    """
    own_folder, folder = _folders(path)
    album, artist = (_read_name(tags.get(field, "")) for field in ("album", "albumartist"))
    album = _DISC_OF_ALBUM.sub("", album) or album
    various = artist.strip().casefold() in _VARIOUS or tags.get("compilation", "").strip().casefold() in ("1", "true")
    stored = os.fsencode(folder).hex()  # folder names need not be valid text
    if not album:
        return json.dumps([_FOLDER, os.fsencode(own_folder).hex()]), f"folder {printable(own_folder)}"
    if various:
        return json.dumps(["compilation", album.casefold(), stored]), f"{printable(album)} (compilation)"
    if not artist:
        return json.dumps(["album", album.casefold(), stored]), printable(album)
    return json.dumps(["artist", album.casefold(), artist.casefold()]), f"{printable(artist)}: {printable(album)}"


def _read_name(text: str) -> str:
    """Return the name of an album or artist; "" for what programs write if they know none."""
    return "" if text.strip().casefold() in _PLACEHOLDERS else text


def _folders(path: str) -> tuple[str, str]:
    """Return the folder of a track, and that of its album: for a single disc's folder, the one above."""
    separator = "/" if is_url(path) else os.sep
    folder, _, _ = path.rpartition(separator)
    above, _, name = folder.rpartition(separator)
    return folder, above if above and _DISC.fullmatch(name) else folder


def find_outlier(track: Decision, album: Decision) -> str:
    """Return the genre and confidence of a track on its own if they differ clearly from its album's, or "".

    They do if the track reaches the threshold with other genres, and neither node is above or below the other; and if
    the album reaches it with none.
    """
    if not track.genres:
        return ""
    if album.genres and not set(track.genres).isdisjoint(album.genres):
        return ""
    n_common = min(len(track.path), len(album.path))
    if album.genres and track.path[:n_common] == album.path[:n_common]:
        return ""
    return f"{'; '.join(track.genres)} {track.confidence:.0%}"
