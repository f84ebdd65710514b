"""Bundles that need no training: the tags of mn04, mapped to the nodes of any genre tree."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from genretree.bundle.bundle import Bundle
from genretree.models.families.tagger.model import TaggerModel, load_network
from genretree.models.families.tagger.settings import SLICE_SECONDS, TaggerSettings
from genretree.models.families.tagger.tag_tree import TagTree
from genretree.models.pretrained.mn04_export import open_mn04_export
from genretree.models.pretrained.sources import MN04, find_source
from genretree.models.runtime.types import REFERENCE
from genretree.settings import ImageSettings
from genretree.taxonomy import Taxonomy
from genretree.vocabulary import Vocabulary, describe_unreached

GENERAL = "general"
NOTE = "untrained: derived from the tags of the audio tagger mn04; for finer genres, train a bundle on your own music"


def load_tagger() -> TaggerModel:
    """Load the tagger, to detect speech and other sounds for bundles that don't.

    Runs its export in the cache if there is one, which `genretree weights get mn04` writes where OpenVINO is installed.

    Raises
    ------
    TrainingError
        If the weights are not on this machine.
    """
    bundle = untrained_bundle(runtime="auto")
    assert isinstance(bundle.model, TaggerModel)
    if bundle.runtime == REFERENCE:
        bundle.model.torch_module()
    return bundle.model


def untrained_bundle(
    tree: Taxonomy | str | Path = GENERAL,
    vocabulary: Vocabulary | None = None,
    runtime: Literal["torch", "auto"] = "torch",
) -> Bundle:
    """Return a bundle for a genre tree, without training.

    Parameters
    ----------
    tree : Taxonomy, path or str
        A tree, its YAML file, or the name of a built-in tree, such as "general" or "ccmusic".
    vocabulary : Vocabulary, optional
        The names and tags of genres; by default the built-in vocabulary.
    runtime : "torch" or "auto"
        auto runs the export of mn04 in the cache if there is one; otherwise torch.

    Returns
    -------
    Bundle
        Save it with `genretree.bundle.bundle.save_bundle` to export or serve it. Its taxonomy has the nodes that tags
        indicate; `training["unreached"]` lists the others.

    Raises
    ------
    TaxonomyError
        If the tree can't be read, or no tag indicates any of its genres.

    Examples
    --------
    >>> from genretree.prediction.untrained import untrained_bundle
    >>> untrained_bundle("ccmusic").taxonomy.leaves[1]
    ('Classic', 'Symphony')
    """
    taxonomy = tree if isinstance(tree, Taxonomy) else Taxonomy.load(tree)
    match = (vocabulary or Vocabulary.builtin()).match(taxonomy)
    settings = TaggerSettings()
    run, config = (open_mn04_export() if runtime == "auto" else None) or (None, REFERENCE)
    model = TaggerModel(TagTree.of(match, settings.floor), settings, load_network, run)
    note = "; ".join(filter(None, [NOTE, describe_unreached(match)]))
    source = find_source(MN04)
    assert source is not None
    weights = {"source": source.location, "sha256": source.sha256, "licence": source.licence, "summary": source.summary}
    training = {"note": note, "unreached": [list(node) for node in match.unreached], "initial_weights": weights}
    images = ImageSettings(slice_seconds=SLICE_SECONDS)
    return Bundle(
        folder=Path("untrained"),
        family="tagger",
        taxonomy=match.taxonomy,
        images=images,
        settings=settings,
        model=model,
        training=training,
        runtime=str(config),
    )
