"""Synthetic corpus of music for all 16 leaves of the ccmusic tree, composed from rules and rendered with a soundfont.

It replaces recordings in tests and the quickstart. Each leaf has style rules (styles.yaml) that overlap with those of
neighbouring leaves, and each artist has a signature, so that unseen artists are harder to classify than seen ones.
"""

from genretree.datasets.composed.compose import ComposeSettings, Part, Piece, TrackMetadata, compose_score
from genretree.datasets.composed.render import compose_track
from genretree.datasets.composed.writer import COLUMNS, compose_corpus

__all__ = [
    "COLUMNS",
    "ComposeSettings",
    "Part",
    "Piece",
    "TrackMetadata",
    "compose_corpus",
    "compose_score",
    "compose_track",
]
