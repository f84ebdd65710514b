"""What our own tag fields record of a genre: what was written, and what was there before.

With them a genre is recognised as genretree's, and can be taken back, without the database of the run that wrote it.
Both fields are lists in JSON, so that no genre, one and several are different texts in every tag format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from genretree.library.tags.adapters import V23_SEPARATOR

GENRE, PREVIOUS, PATH = "GENRETREE_GENRE", "GENRETREE_PREVIOUS", "GENRETREE_PATH"


def genre_fields(genres: Sequence[str], previous: Sequence[str]) -> dict[str, str]:
    """Return the fields that record the genres as they are written, and those before our first write."""
    return {
        GENRE: json.dumps(list(genres), ensure_ascii=False),
        PREVIOUS: json.dumps(list(previous), ensure_ascii=False),
    }


def listed_genres(own: Mapping[str, str] | None, name: str) -> tuple[str, ...] | None:
    """Read a field that lists genres.

    Returns
    -------
    tuple of str or None
        None if it is missing, or something else was written into it.
    """
    try:
        content = json.loads((own or {})[name])
    except (KeyError, ValueError, RecursionError):
        return None
    if not isinstance(content, list) or not all(isinstance(genre, str) for genre in content):
        return None
    return tuple(content)


def is_written(genres: Sequence[str], wrote: Sequence[str]) -> bool:
    """Whether the genres of a file are those that were written, be it that some are joined to one text (ID3v2.3)."""
    return _parts(genres) == _parts(wrote)


def split_genres(genres: Sequence[str], own: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Work out, from a file's tags alone, which of its genres are a person's.

    All are, unless they are just what `GENRETREE_GENRE` records. The fields of version 0.1 lack that record: with
    these, a single genre is ours if it is the end of `GENRETREE_PATH`. Names from a mapping count as a person's then.

    Parameters
    ----------
    genres : sequence of str
        What the genre field holds.
    own : mapping of str to str
        The `GENRETREE_*` fields.

    Returns
    -------
    (tuple of str, tuple of str)
        The genres that are a person's, and those that were there before our first write.
    """
    wrote, previous = listed_genres(own, GENRE), listed_genres(own, PREVIOUS)
    if GENRE in own or PREVIOUS in own:
        if wrote is None or previous is None or not genres or not is_written(genres, wrote):
            return tuple(genres), tuple(genres)
        before = set(_parts(previous))
        return tuple(genre for genre in wrote if before.issuperset(_parts([genre]))), previous
    if PATH in own and list(genres) == [own[PATH].split(">")[-1].strip()]:
        return (), ()
    return tuple(genres), tuple(genres)


def _parts(genres: Sequence[str]) -> list[str]:
    return [part.strip() for genre in genres for part in genre.split(V23_SEPARATOR) if part.strip()]
