"""Read and write the tag fields that record the genres written by genretree and the previous ones.

They show which genres genretree wrote, and what to restore, without the database of the run that wrote them. Both
fields are JSON lists, so that no genre, one and several are distinct in every tag format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from genretree.library.tags.adapters import V23_SEPARATOR

GENRE, PREVIOUS, PATH = "GENRETREE_GENRE", "GENRETREE_PREVIOUS", "GENRETREE_PATH"


def genre_fields(genres: Sequence[str], previous: Sequence[str]) -> dict[str, str]:
    """Return the fields that record the genres as written, and those before genretree's first write."""
    return {
        GENRE: json.dumps(list(genres), ensure_ascii=False),
        PREVIOUS: json.dumps(list(previous), ensure_ascii=False),
    }


def listed_genres(own: Mapping[str, str] | None, name: str) -> tuple[str, ...] | None:
    """Read a field that lists genres.

    Returns
    -------
    tuple of str or None
        None if the field is missing or invalid.
    """
    try:
        content = json.loads((own or {})[name])
    except (KeyError, ValueError, RecursionError):
        return None
    if not isinstance(content, list) or not all(isinstance(genre, str) for genre in content):
        return None
    return tuple(content)


def is_written(genres: Sequence[str], wrote: Sequence[str]) -> bool:
    """Return whether the genres of a file are those that were written, also if joined to one text (ID3v2.3)."""
    return _parts(genres) == _parts(wrote)


def is_separator(text: str) -> bool:
    """Return whether a text can separate the genres in one text: punctuation, with or without spaces."""
    return text.isprintable() and bool(text.strip()) and not any(character.isalnum() for character in text)


def is_joined(genres: Sequence[str], wrote: Sequence[str]) -> bool:
    """Return whether the genres of a file are one text of those that were written, with a separator between them."""
    if len(genres) != 1 or len(wrote) < 2:
        return False
    length, rest = divmod(len(genres[0]) - sum(map(len, wrote)), len(wrote) - 1)
    separator = genres[0][len(wrote[0]) : len(wrote[0]) + max(length, 0)]
    return not rest and is_separator(separator) and separator.join(wrote) == genres[0]


def split_genres(genres: Sequence[str], own: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Determine from a file's tags which of its genres genretree did not write.

    None of them, if `GENRETREE_GENRE` records exactly these genres; otherwise all. Version 0.1 did not write that
    field: with its fields, a single genre counts as genretree's if it is the last name in `GENRETREE_PATH`; other names
    from a mapping do not.

    Parameters
    ----------
    genres : sequence of str
        Values of the genre tag.
    own : mapping of str to str
        The `GENRETREE_*` fields.

    Returns
    -------
    other : tuple of str
        Genres that genretree did not write, or that were there before.
    previous : tuple of str
        Genres before genretree's first write.
    """
    wrote, previous = listed_genres(own, GENRE), listed_genres(own, PREVIOUS)
    if GENRE in own or PREVIOUS in own:
        if wrote is None or previous is None or not genres:
            return tuple(genres), tuple(genres)
        if not (is_written(genres, wrote) or is_joined(genres, wrote)):
            return tuple(genres), tuple(genres)
        before = set(_parts(previous))
        return tuple(genre for genre in wrote if before.issuperset(_parts([genre]))), previous
    if PATH in own and list(genres) == [own[PATH].split(">")[-1].strip()]:
        return (), ()
    return tuple(genres), tuple(genres)


def _parts(genres: Sequence[str]) -> list[str]:
    return [part.strip() for genre in genres for part in genre.split(V23_SEPARATOR) if part.strip()]
