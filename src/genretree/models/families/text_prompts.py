"""Zero-shot classification by text: CLAP compares the audio with one prompt for each leaf of a tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field, field_validator
from scipy.special import softmax

from genretree.arrays import Float32Array
from genretree.errors import BundleError
from genretree.models.base import LevelProbabilities, check_inputs
from genretree.models.pretrained.audio_backbones import AudioBackbone, load_backbone
from genretree.models.pretrained.backbone_checkpoints import BackboneCheckpoint
from genretree.models.pretrained.clap_text import TextEmbeddings, embed_texts
from genretree.settings import Heads, Settings
from genretree.sound.features import Inputs
from genretree.taxonomy import Taxonomy

PLACEHOLDER = "{genre}"
DEFAULT_PROMPT = f"This is {PLACEHOLDER} music."


class TextPromptSettings(Settings):
    """Settings of zero-shot classification by text."""

    backbone: str = Field("clap", min_length=1, description="a CLAP checkpoint")
    prompt: str = Field(DEFAULT_PROMPT, description=f"template of the prompts; {PLACEHOLDER} is the name of the genre")
    windows: int = Field(1, ge=1, le=8, description="number of windows averaged where slices are longer than 10 s")

    @field_validator("prompt")
    @classmethod
    def _has_placeholder(cls, value: str) -> str:
        if PLACEHOLDER not in value:
            raise ValueError(f"must contain {PLACEHOLDER}")
        return value


class TextPromptModel:
    """CLAP's audio network, and the embeddings of one prompt for each leaf."""

    heads: Heads = "tree"

    def __init__(
        self, backbone: AudioBackbone, texts: TextEmbeddings, taxonomy: Taxonomy, settings: TextPromptSettings
    ) -> None:
        self.backbone = backbone
        self.texts = texts
        self.taxonomy = taxonomy
        self.settings = settings
        self.input_features: tuple[str, ...] = (backbone.input_feature,)

    @classmethod
    def load(cls, checkpoint: BackboneCheckpoint, taxonomy: Taxonomy, settings: TextPromptSettings) -> TextPromptModel:
        """Load a checkpoint and embed the prompts of a tree.

        Raises
        ------
        TrainingError
            If the checkpoint is not CLAP, or is damaged.
        """
        texts = embed_texts(checkpoint, [write_prompt(settings.prompt, leaf[-1]) for leaf in taxonomy.leaves])
        return cls(load_backbone(checkpoint), texts, taxonomy, settings)

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level.

        The leaves' probabilities are the softmax of the scaled cosine similarities; a parent's is the sum of its
        children's.
        """
        similarities = self.embed(inputs).astype(np.float64) @ self.texts.values.T.astype(np.float64)
        return self.taxonomy.sum_levels(softmax(self.texts.scale * similarities, axis=1))

    def embed(self, inputs: Inputs) -> Float32Array:
        """Compute CLAP's audio embeddings, of length 1: shape (n, embedding_dim)."""
        check_inputs(self, inputs)
        embeddings = self.backbone.embed(inputs[self.backbone.input_feature], self.settings.windows)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        normalised: Float32Array = embeddings / np.maximum(lengths, 1e-12)
        return normalised

    def save(self, folder: Path) -> list[str]:
        """Raise BundleError, since nothing was trained."""
        raise BundleError("a zero-shot model can't be saved as a bundle; train a family on a store instead")


def write_prompt(template: str, label: str) -> str:
    """Fill a template with the name of a genre; underscores become spaces.

    Examples
    --------
    >>> write_prompt("This is {genre} music.", "Soft_rock")
    'This is Soft rock music.'
    """
    return template.replace(PLACEHOLDER, label.replace("_", " "))
