"""Model families with a common interface, and their components."""

from __future__ import annotations

from genretree.models.registry import family_names, get_family, register_family

__all__ = ["family_names", "get_family", "register_family"]
