"""Registry of model families: the built-in ones, those of installed packages, and those registered at run time."""

from __future__ import annotations

import difflib
import inspect
import re
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from genretree.errors import ArgumentError, SettingsError
from genretree.models.base import Family
from genretree.settings import Settings

ENTRY_POINTS = "genretree.families"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_BUILT_IN = {
    "cnn": "genretree.models.families.cnn:CnnFamily",
    "efficientnet-b0": "genretree.models.families.efficientnet:EfficientNetFamily",
    "ast": "genretree.models.families.ast:AstFamily",
    "boosting": "genretree.models.families.boosting.family:BoostingFamily",
    "musicnn": "genretree.models.families.musicnn.family:MusicnnFamily",
    "ensemble": "genretree.models.families.ensemble:EnsembleFamily",
}


_registered: dict[str, type[Family]] = {}


def register_family(family: type[Family]) -> type[Family]:
    """Register a model family, so that it can be trained, loaded and used by its name; usable as a decorator.

    Parameters
    ----------
    family : class
        With the attributes and methods of `genretree.models.base.Family`.

    Returns
    -------
    class
        The same class.

    Raises
    ------
    ArgumentError
        If an attribute is missing, or another family has this name.

    See Also
    --------
    genretree.testing.check_family : Check that a family keeps the contract.

    Notes
    -----
    A package makes its families known without being imported by an entry point in the group `genretree.families`::

        [project.entry-points."genretree.families"]
        my-family = "my_package:MyFamily"
    """
    check_attributes(family)
    name = family.name
    known = _registered.get(name)
    if name in _BUILT_IN or (known is not None and _origin(known) != _origin(family)):
        raise ArgumentError(f"a family named '{name}' is already registered; choose another name")
    _registered[name] = family
    return family


def family_names() -> list[str]:
    """Names of all families: built in, registered, and of installed packages."""
    return list(dict.fromkeys([*_BUILT_IN, *_registered, *_installed()]))


def get_family(name: str | type[Family]) -> type[Family]:
    """Import a family by its name; a class is registered and returned.

    Raises
    ------
    SettingsError
        For an unknown name, with the likely intended one.
    ArgumentError
        If a class, or what an entry point leads to, is not a family.
    """
    if not isinstance(name, str):
        builtin = _BUILT_IN.get(getattr(name, "name", ""))
        return name if builtin is not None and builtin == _origin(name) else register_family(name)
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found: type[Family] = getattr(import_module(module), attribute)
        return found
    installed = _installed()
    if name in installed:
        return _load(installed[name])
    names = family_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(names)}"
    raise SettingsError(f"no model family '{name}'; {hint}")


@lru_cache(maxsize=1)
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _load(entry: EntryPoint) -> type[Family]:
    try:
        found: type[Family] = entry.load()
    except Exception as error:  # whatever importing another package raises
        raise SettingsError(f"the family '{entry.name}' can't be imported from {entry.value}: {error}") from error
    check_attributes(found)
    if found.name != entry.name:
        raise ArgumentError(f"{entry.value}: its name is '{found.name}', and its entry point's '{entry.name}'")
    return found


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
        raise ArgumentError(f"{family.__name__} has no {', '.join(missing)}; see genretree.models.base.Family")
    if not isinstance(family.name, str) or not _NAME.fullmatch(family.name):
        raise ArgumentError(f"a family's name has lower-case letters, digits, '-', '_' and '.', got {family.name!r}")
    if not (inspect.isclass(family.settings_type) and issubclass(family.settings_type, Settings)):
        raise ArgumentError(f"{family.__name__}.settings_type must be a subclass of genretree.settings.Settings")


def _origin(family: type) -> str:
    return f"{family.__module__}:{family.__qualname__}"
