"""A zero-shot bundle that compares audio with text prompts, for any genre tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from genretree.bundle.bundle import Bundle
from genretree.models.families.text_prompts import DEFAULT_PROMPT, TextPromptModel, TextPromptSettings
from genretree.models.pretrained.backbone_checkpoints import (
    CheckpointPlan,
    explain_licence,
    find_checkpoint,
)
from genretree.settings import ImageSettings
from genretree.taxonomy import Taxonomy


def text_prompt_bundle(
    tree: Taxonomy,
    backbone: str = "clap",
    prompt: str = DEFAULT_PROMPT,
    *,
    download: bool = False,
    show: Callable[[CheckpointPlan], None] | None = None,
) -> Bundle:
    """Return a bundle that names the leaves of a tree without training, by text prompts.

    Parameters
    ----------
    tree : Taxonomy
        Any genre tree; the prompts contain the names of its leaves, with spaces instead of underscores.
    backbone : str
        A CLAP checkpoint: `clap`, `hf://user/name@revision`, or a folder.
    prompt : str
        Template of the prompts, with `{genre}` in the place of the name.
    download : bool
        Fetch the checkpoint from the Hub if it is not on this machine; by default no request is made.
    show : callable, optional
        Called with the plan of a download, which contains the licence, before it starts.

    Returns
    -------
    Bundle
        For `genretree.predict`; it can't be saved. Probabilities are not calibrated.

    Raises
    ------
    TrainingError
        If the checkpoint is not on this machine, is not CLAP, or is damaged.
    SettingsError
        If the prompt has no `{genre}`.

    Examples
    --------
    >>> import genretree
    >>> from genretree.prediction.text_prompts import text_prompt_bundle
    >>> tree = genretree.Taxonomy.from_nested({"Rock": ["Punk", "Indie"], "Jazz": None})
    >>> bundle = text_prompt_bundle(tree)  # doctest: +SKIP
    >>> [prediction] = genretree.predict(bundle, "song.mp3")  # doctest: +SKIP
    """
    settings = TextPromptSettings.build({"backbone": backbone, "prompt": prompt})
    checkpoint = find_checkpoint(backbone, download=download, show=show)
    licence = explain_licence(checkpoint.origin["licence"])
    note = f"zero-shot: compared with the text '{prompt}', not calibrated; {backbone} has the licence {licence}"
    training = {"note": note, "initial_weights": dict(checkpoint.origin)}
    model = TextPromptModel.load(checkpoint, tree, settings)
    images = ImageSettings(slice_seconds=model.backbone.slice_seconds)
    return Bundle(
        folder=Path("zero-shot"),
        family="clap-text",
        taxonomy=tree,
        images=images,
        settings=settings,
        model=model,
        training=training,
    )
