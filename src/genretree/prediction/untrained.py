"""A bundle for those who have none yet: it names a path without any training."""

from __future__ import annotations

from pathlib import Path

from genretree.bundle.bundle import Bundle
from genretree.models.families.zero_shot import TagModel, zero_shot_settings
from genretree.settings import ImageSettings

NOTE = (
    "untrained: read from the tags of the published MusiCNN networks, which tell no more than this; "
    "for your own genres and finer ones, train a bundle"
)


def zero_shot_bundle() -> Bundle:
    """Give a bundle of the ccmusic tree, as far down as the tags of the MusiCNN networks reach.

    Raises
    ------
    TrainingError
        If the networks' weights are not on this machine; says how to get them.
    """
    model = TagModel.load("ccmusic")
    tree = model.tree.taxonomy
    return Bundle(Path("untrained"), "musicnn-tags", tree, ImageSettings(), zero_shot_settings(), model, {"note": NOTE})
