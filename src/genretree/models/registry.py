"""Registry of model families: the built-in ones, those of installed packages, and those registered at run time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from genretree.checks import suggest
from genretree.errors import ArgumentError, SettingsError
from genretree.models.base import ExportedFamily, Family
from genretree.settings import Settings

ENTRY_POINTS = "genretree.families"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class _BuiltIn(NamedTuple):
    """Where a built-in family is: `module:name` of its class, and of the `ExportedFamily` that runs its exports."""

    family: str
    exported: str = ""


_NEURAL = "genretree.models.neural.exported_model"
_BUILT_IN = {
    "cnn": _BuiltIn("genretree.models.families.cnn:CnnFamily", f"{_NEURAL}:CNN"),
    "efficientnet-b0": _BuiltIn("genretree.models.families.efficientnet:EfficientNetFamily", f"{_NEURAL}:EFFICIENTNET"),
    "ast": _BuiltIn("genretree.models.families.ast:AstFamily", f"{_NEURAL}:AST"),
    "boosting": _BuiltIn("genretree.models.families.boosting.family:BoostingFamily"),
    "tagger": _BuiltIn(
        "genretree.models.families.tagger.family:TaggerFamily", "genretree.models.families.tagger.model:EXPORTED"
    ),
    "musicnn": _BuiltIn("genretree.models.families.musicnn.family:MusicnnFamily"),
    "ensemble": _BuiltIn("genretree.models.families.ensemble:EnsembleFamily"),
    "backbone": _BuiltIn("genretree.models.families.backbone:BackboneFamily"),
}


_registered: dict[str, type[Family]] = {}


def register_family(family: type[Family]) -> type[Family]:
    """Register a model family under its name, for training and loading. Can be used as a decorator.

    Parameters
    ----------
    family : class
        A class with the attributes and methods of `genretree.models.base.Family`.

    Returns
    -------
    class
        The same class.

    Raises
    ------
    ArgumentError
        If an attribute is missing or invalid, or another family has this name.

    See Also
    --------
    genretree.testing.check_family : Check that a family conforms to the interface.

    Notes
    -----
    A package can register its families without being imported, with an entry point in the group `genretree.families`::

        [project.entry-points."genretree.families"]
        my-family = "my_package:MyFamily"

    Examples
    --------
    >>> from genretree.models import get_family, register_family
    >>> register_family(get_family("boosting"))
    Traceback (most recent call last):
    genretree.errors.ArgumentError: a family named 'boosting' is already registered; choose another name
    """
    check_attributes(family)
    name = family.name
    known = _registered.get(name)
    if name in _BUILT_IN or (known is not None and _origin(known) != _origin(family)):
        raise ArgumentError(f"a family named '{name}' is already registered; choose another name")
    _registered[name] = family
    return family


def family_names() -> list[str]:
    """List the names of all families: built-in, registered, and from installed packages.

    Examples
    --------
    >>> from genretree.models import family_names
    >>> "cnn" in family_names()
    True
    """
    return list(dict.fromkeys([*_BUILT_IN, *_registered, *_installed()]))


def get_family(name: str | type[Family]) -> type[Family]:
    """Import a family by its name; a class is registered and returned.

    Parameters
    ----------
    name : str or class

    Raises
    ------
    SettingsError
        If the name is unknown; the message suggests a similar one.
    ArgumentError
        If a class, or the object of an entry point, is not a family.

    Examples
    --------
    >>> from genretree.models import get_family
    >>> get_family("boosting").name
    'boosting'
    """
    if not isinstance(name, str | type):
        raise ArgumentError(f"family must be a name or a class, got {type(name).__name__}")
    if not isinstance(name, str):
        builtin = _BUILT_IN.get(getattr(name, "name", ""))
        return name if builtin is not None and builtin.family == _origin(name) else register_family(name)
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        family: type[Family] = _import(_BUILT_IN[name].family)
        return family
    installed = _installed()
    if name in installed:
        return _load(installed[name])
    names = family_names()
    raise SettingsError(f"unknown model family '{name}'; {suggest(name, names)}")


@contextmanager
def temporary_registration(family: type[Family]) -> Iterator[None]:
    """Register a family during a block, unless it is a built-in one. Raises ArgumentError as `register_family` does."""
    known = _registered.get(getattr(family, "name", ""))
    name = get_family(family).name
    try:
        yield
    finally:
        _registered.pop(name, None)
        if known is not None:
            _registered[name] = known


def get_exported_family(name: str) -> ExportedFamily | None:
    """Import what loads a family's exported networks without torch; None if the family needs torch."""
    if name not in _BUILT_IN or not _BUILT_IN[name].exported:
        return None
    exported: ExportedFamily = _import(_BUILT_IN[name].exported)
    return exported


def _import(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return getattr(import_module(module), attribute)


@lru_cache(maxsize=1)
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _load(entry: EntryPoint) -> type[Family]:
    try:
        family: type[Family] = entry.load()
    except Exception as error:  # whatever importing another package raises
        raise SettingsError(f"the family '{entry.name}' can't be imported from {entry.value}: {error}") from error
    try:
        check_attributes(family)
    except ArgumentError as error:
        raise ArgumentError(f"the family '{entry.name}', {entry.value}: {error}") from error
    if family.name != entry.name:
        raise ArgumentError(f"{entry.value}: its name is '{family.name}', and its entry point's '{entry.name}'")
    return family


def check_attributes(family: type[Family]) -> None:
    """Check that a class has the attributes of a model family, each of the right type.

    Raises
    ------
    ArgumentError
        If one is missing or of the wrong type.
    """
    if not inspect.isclass(family):
        raise ArgumentError(f"a family must be a class, got {type(family).__name__}")
    missing = [
        name for name in ("name", "summary", "distributed", "settings_type", "fit", "load") if not hasattr(family, name)
    ]
    if missing:
        raise ArgumentError(f"{family.__name__} lacks {', '.join(missing)}; see genretree.models.base.Family")
    if not isinstance(family.name, str) or not _NAME.fullmatch(family.name):
        raise ArgumentError(
            f"a family's name must consist of lower-case letters, digits, '-', '_' and '.', got {family.name!r}"
        )
    for attribute, expected in (("summary", str), ("distributed", bool)):
        value = getattr(family, attribute)
        if not isinstance(value, expected):
            raise ArgumentError(f"{family.__name__}.{attribute} must be a {expected.__name__}, got {value!r}")
    for method in ("fit", "load"):
        if not callable(getattr(family, method)):
            raise ArgumentError(f"{family.__name__}.{method} must be a static method or a class method")
    if not (inspect.isclass(family.settings_type) and issubclass(family.settings_type, Settings)):
        raise ArgumentError(f"{family.__name__}.settings_type must be a subclass of genretree.settings.Settings")


def _origin(family: type) -> str:
    return f"{family.__module__}:{family.__qualname__}"
