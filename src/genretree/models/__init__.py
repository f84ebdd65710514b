"""Model families behind one interface, and what they are built from."""

from __future__ import annotations

from genretree.models.registry import family_names, get_family, register_family

__all__ = ["family_names", "get_family", "register_family"]
