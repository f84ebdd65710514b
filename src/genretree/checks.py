"""Checks of arguments at the border of the public functions, so that a mistake is named where it was made."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from genretree.errors import ArgumentError


def require_type(name: str, value: object, expected: type, hint: str = "") -> None:
    """Refuse an argument that is not an instance of a class.

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> require_type("tree", 7, dict)
    Traceback (most recent call last):
    genretree.errors.ArgumentError: tree must be a dict, got int
    """
    if not isinstance(value, expected):
        article = "an" if expected.__name__[0] in "AEIO" else "a"
        more = f"; {hint}" if hint else ""
        raise ArgumentError(f"{name} must be {article} {expected.__name__}, got {type(value).__name__}{more}")


def require_path(name: str, value: Any) -> Path:
    """Convert a path, as text or path-like, to a `Path`. Raises ArgumentError for anything else, and for empty text."""
    if not isinstance(value, str | os.PathLike):
        raise ArgumentError(f"{name} must be a path, got {type(value).__name__}")
    if value == "":  # as a path it would be the current folder
        raise ArgumentError(f"{name} is empty; pass '.' for the current folder")
    return Path(value)


def require_paths(name: str, value: Any) -> list[Path]:
    """Convert a path, or a sequence of paths, to a list. Raises ArgumentError for anything else, naming the item."""
    if isinstance(value, str | os.PathLike):
        return [require_path(name, value)]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise ArgumentError(f"{name} must be a path or a sequence of paths, got {type(value).__name__}")
    return [require_path(f"{name}[{number}]", item) for number, item in enumerate(value)]


def require_text(name: str, value: object) -> None:
    """Refuse what is not text. Raises ArgumentError."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name} must be text, got {type(value).__name__}")


def require_integer(name: str, value: object, minimum: int = 1, maximum: int | None = None) -> None:
    """Refuse what is not a whole number, or is too small or too large. Raises ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentError(f"{name} must be an integer, got {value!r}")
    if int(value) < minimum:
        raise ArgumentError(f"{name} must be at least {minimum}, got {value}")
    if maximum is not None and int(value) > maximum:
        raise ArgumentError(f"{name} must be at most {maximum}, got {value}")


def require_number(name: str, value: object) -> None:
    """Refuse what is not a real number. Raises ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(f"{name} must be a number, got {value!r}")


def require_names(name: str, value: Any) -> list[str]:
    """Convert a sequence of names to a list; one text is not a sequence. Raises ArgumentError for anything else."""
    require_iterable(name, value, "names")
    names = list(value)
    for each in names:
        require_text(f"each of {name}", each)
    return names


def require_name_or_path(name: str, value: Any) -> str | tuple[str, ...]:
    """Convert a node's name, or the names of its path, to text or a tuple. Raises ArgumentError for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise ArgumentError(f"{name} must be a name, or a sequence of names, got {type(value).__name__}")
    return tuple(require_names(name, value))


def require_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse what is not one of several names; the message suggests the closest. Raises ArgumentError."""
    require_text(name, value)
    options = list(choices)
    if value not in options:
        raise ArgumentError(f"{name} must be one of {', '.join(options)}, got '{value}'{did_you_mean(value, options)}")


def require_iterable(name: str, value: Any, of: str) -> None:
    """Refuse what can't be iterated over, and text. Raises ArgumentError."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ArgumentError(f"{name} must be a sequence of {of}, got {type(value).__name__}")


def suggest(name: str, options: Iterable[str]) -> str:
    """Suggest the option that is closest to an unknown name, or list all.

    Examples
    --------
    >>> from genretree.checks import suggest
    >>> suggest("cn", ["cnn", "ast"])
    "did you mean 'cnn'?"
    >>> suggest("x", ["cnn", "ast"])
    'choose from: cnn, ast'
    """
    names = list(options)
    return did_you_mean(name, names).removeprefix("; ") or f"choose from: {', '.join(names)}"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return the end of a message that suggests the option closest to an unknown name; empty if none is close."""
    close = difflib.get_close_matches(name, options, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
