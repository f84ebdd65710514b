"""The composed corpus: music for all 16 leaves of the ccmusic tree, made from rules and a soundfont.

It stands in for recordings where none may be had: each leaf has style rules (styles.yaml) that overlap with its
neighbours', and each artist a signature, so that telling genres of unheard artists is harder than of heard ones.
"""

from genretree.datasets.composed.compose import ComposeSettings, Part, Piece, TrackFacts, compose_score
from genretree.datasets.composed.render import compose_track
from genretree.datasets.composed.writer import COLUMNS, compose_corpus

__all__ = [
    "COLUMNS",
    "ComposeSettings",
    "Part",
    "Piece",
    "TrackFacts",
    "compose_corpus",
    "compose_score",
    "compose_track",
]
