"""Model families by name."""

from __future__ import annotations

import difflib
from importlib import import_module

from genretree.errors import SettingsError
from genretree.models.contract import Family

_FAMILIES = {
    "cnn": "genretree.models.cnn:CnnFamily",
    "efficientnet-b0": "genretree.models.efficientnet:EfficientNetFamily",
    "ast": "genretree.models.ast:AstFamily",
    "boosting": "genretree.models.boosting:BoostingFamily",
    "musicnn": "genretree.models.musicnn:MusicnnFamily",
    "ensemble": "genretree.models.ensemble:EnsembleFamily",
}


def family_names() -> list[str]:
    """Names of all registered families."""
    return list(_FAMILIES)


def get_family(name: str) -> type[Family]:
    """Import a family by its name.

    Raises
    ------
    SettingsError
        For an unknown name, with the likely intended one.
    """
    if name not in _FAMILIES:
        close = difflib.get_close_matches(name, _FAMILIES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(_FAMILIES)}"
        raise SettingsError(f"no model family '{name}'; {hint}")
    module, _, attribute = _FAMILIES[name].partition(":")
    found: type[Family] = getattr(import_module(module), attribute)
    return found
