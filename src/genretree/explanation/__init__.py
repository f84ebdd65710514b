"""Explanations: which parts of the audio drove a prediction at each level of the tree, and how faithfully."""

from __future__ import annotations

from genretree.explanation.api import explain
from genretree.explanation.methods.registry import METHODS
from genretree.explanation.result import Explanation, Neighbour, NodeExplanation, Passage, Relevance, Timeline

__all__ = ["METHODS", "Explanation", "Neighbour", "NodeExplanation", "Passage", "Relevance", "Timeline", "explain"]
