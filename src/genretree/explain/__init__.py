"""Why: which part of the sound decided, at each level of the tree, and how far that can be believed."""

from __future__ import annotations

from genretree.explain.methods import METHODS
from genretree.explain.result import Explanation, Neighbour, Passage, Reason, Relevance, TimeLine
from genretree.explain.track import explain

__all__ = ["METHODS", "Explanation", "Neighbour", "Passage", "Reason", "Relevance", "TimeLine", "explain"]
