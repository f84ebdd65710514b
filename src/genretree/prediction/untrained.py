"""A zero-shot bundle that maps the tags of the MusiCNN networks to genres."""

from __future__ import annotations

from pathlib import Path

from genretree.bundle.bundle import Bundle
from genretree.models.families.zero_shot import TagModel, zero_shot_settings
from genretree.settings import ImageSettings

NOTE = (
    "untrained: derived from the tags of the published MusiCNN networks; for your own genres and finer ones, "
    "train a bundle"
)


def zero_shot_bundle() -> Bundle:
    """Return a zero-shot bundle for the part of the ccmusic tree that the tags of the MusiCNN networks cover.

    Raises
    ------
    TrainingError
        If the networks' weights are not on this machine.
    """
    model = TagModel.load("ccmusic")
    tree = model.tree.taxonomy
    return Bundle(
        folder=Path("untrained"),
        family="musicnn-tags",
        taxonomy=tree,
        images=ImageSettings(),
        settings=zero_shot_settings(),
        model=model,
        training={"note": NOTE},
    )
