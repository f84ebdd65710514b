"""Family `ast`: Audio Spectrogram Transformers (Gong et al. 2021), small from scratch or with AudioSet weights.

With `architecture="study"` it is the published network, weight for weight (`study_networks.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ASTConfig, ASTModel, ViTConfig, ViTModel

from genretree.errors import SettingsError, TrainingError
from genretree.models.base import FitContext, FitResult, Model, SliceDataset
from genretree.models.families.study_networks import StudyTransformer
from genretree.models.neural.linear_probe import load_model
from genretree.models.neural.network import GenreNetwork, build_head
from genretree.models.neural.settings import AstSettings, as_settings
from genretree.models.pretrained.backbones import (
    PooledBackbone,
    build_from_config,
    build_pretrained,
    find_weights,
    read_config,
)
from genretree.models.pretrained.download import open_checkpoint
from genretree.models.pretrained.names import BACKBONE_FILE, Weights
from genretree.models.pretrained.weight_files import Checkpoint
from genretree.taxonomy import Taxonomy

_SMALL: dict[str, Any] = {
    "patch_size": 16,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "intermediate_size": 4 * 384,
}
_AUDIOSET_SCALE = 0.5  # the AudioSet checkpoints were trained on inputs with a standard deviation of 0.5


class AstFamily:
    """Audio Spectrogram Transformers."""

    name: ClassVar[str] = "ast"
    summary: ClassVar[str] = "Audio Spectrogram Transformer, small from scratch or with AudioSet weights"
    distributed: ClassVar[bool] = True
    callback_type: ClassVar[str] = "transformers:TrainerCallback"
    settings_type: ClassVar[type[AstSettings]] = AstSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Train from random weights, or fine-tune a checkpoint."""
        from genretree.models.neural.trainer import fit_network  # imports the Trainer, which takes seconds

        ast_settings = as_settings(settings, AstSettings)
        return fit_network(lambda: build_network(taxonomy, ast_settings), train, validation, ast_settings, context)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load a trained network."""
        ast_settings = as_settings(settings, AstSettings)
        if ast_settings.architecture == "study":
            return load_model(_build_study(taxonomy, ast_settings), folder)
        if is_small_transformer(folder / BACKBONE_FILE):
            small = build_from_config(ViTModel, read_config(ViTConfig, folder), folder, add_pooling_layer=False)
            return load_model(_assemble_small(small, taxonomy, ast_settings), folder)
        large = build_from_config(ASTModel, read_config(ASTConfig, folder), folder)
        return load_model(_assemble_audioset(large, taxonomy, ast_settings), folder)


def build_network(taxonomy: Taxonomy, settings: AstSettings) -> GenreNetwork:
    """Build a small transformer or the study's from random weights, or a transformer with a checkpoint's weights."""
    if settings.architecture == "study":
        return _build_study(taxonomy, settings)
    if settings.weights == Weights.NONE:
        config = ViTConfig(
            **_SMALL,
            image_size=settings.image_size,
            num_channels=len(settings.modalities),
            hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=0.0,
        )
        return _assemble_small(ViTModel(config, add_pooling_layer=False), taxonomy, settings)
    where = find_weights(settings.weights, AstFamily.name, settings.modalities)
    checkpoint = open_checkpoint(where)
    if checkpoint.config.get("model_type") == ViTConfig.model_type:
        return _assemble_small(_load_small(checkpoint, settings), taxonomy, settings)
    if len(settings.modalities) != 1:
        raise SettingsError(
            f"an AudioSet transformer takes one modality, got {', '.join(settings.modalities)}; set modalities=mel"
        )
    return _assemble_audioset(_load_resized(checkpoint, settings), taxonomy, settings)


def _build_study(taxonomy: Taxonomy, settings: AstSettings) -> GenreNetwork:
    head = build_head(taxonomy, settings)
    study = StudyTransformer(len(settings.modalities), settings.image_size, head.n_scores, settings.dropout)
    return GenreNetwork(study, head, settings, mean=0.0, scale=1.0)


def interpolate_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings to another grid of patches, bicubically (Touvron et al. 2021; Gong et al. 2021).

    Parameters
    ----------
    positions : tensor, shape (1, tokens + old rows * old columns, width)
        The first ones belong to the class and distillation tokens and are not changed.
    old, new : (int, int)
        Number of patches along frequency and time.

    Returns
    -------
    tensor, shape (1, tokens + new rows * new columns, width)
    """
    n_tokens = positions.shape[1] - old[0] * old[1]
    tokens, grid = positions[:, :n_tokens], positions[:, n_tokens:]
    width = positions.shape[2]
    image = grid.reshape(1, *old, width).permute(0, 3, 1, 2)
    interpolated = functional.interpolate(image, size=new, mode="bicubic", align_corners=False)
    return torch.cat([tokens, interpolated.permute(0, 2, 3, 1).reshape(1, -1, width)], dim=1)


def is_small_transformer(path: Path) -> bool:
    """Check whether a configuration is that of the small transformer, rather than of an ASTModel."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["model_type"] == ViTConfig.model_type)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _load_small(checkpoint: Checkpoint, settings: AstSettings) -> Any:
    """Load a pretrained small transformer, and adapt it to the image size."""
    place = checkpoint.place
    loaded: Any = build_pretrained(ViTModel, checkpoint, add_pooling_layer=False)
    config = loaded.config
    if config.num_channels != len(settings.modalities):
        raise TrainingError(
            f"{place}: the weights are for {config.num_channels} modalities, not {len(settings.modalities)}; "
            "set `modalities` accordingly"
        )
    old, new = (size // config.patch_size for size in (config.image_size, settings.image_size))
    config.image_size = settings.image_size
    config.hidden_dropout_prob = settings.dropout
    weights = loaded.state_dict()
    name = "embeddings.position_embeddings"
    weights[name] = interpolate_positions(weights[name], (old, old), (new, new))
    resized = ViTModel(config, add_pooling_layer=False)
    resized.load_state_dict(weights)
    return resized


def _load_resized(checkpoint: Checkpoint, settings: AstSettings) -> Any:
    """Load a checkpoint, and adapt it to the image size."""
    loaded: Any = build_pretrained(ASTModel, checkpoint)
    old = loaded.embeddings.get_shape(loaded.config)
    size = settings.image_size
    loaded.config.max_length, loaded.config.num_mel_bins = size, size
    new = loaded.embeddings.get_shape(loaded.config)
    interpolated = interpolate_positions(loaded.embeddings.position_embeddings.detach(), old, new)
    loaded.embeddings.position_embeddings = nn.Parameter(interpolated)
    return loaded


def _assemble_small(backbone: Any, taxonomy: Taxonomy, settings: AstSettings) -> GenreNetwork:
    head = build_head(taxonomy, settings)
    width = backbone.config.hidden_size
    return GenreNetwork(PooledBackbone(backbone, _class_token, width, settings.dropout, head.n_scores), head, settings)


def _assemble_audioset(backbone: Any, taxonomy: Taxonomy, settings: AstSettings) -> GenreNetwork:
    head = build_head(taxonomy, settings)
    scored = AudiosetBackbone(backbone, _pooler, backbone.config.hidden_size, settings.dropout, head.n_scores)
    return GenreNetwork(scored, head, settings, scale=_AUDIOSET_SCALE)


class AudiosetBackbone(PooledBackbone):
    """An ASTModel, whose input is (n, time, frequency) with the lowest band first."""

    def features(self, images: Tensor) -> Tensor:
        """Compute the pooled features (n, width) of images (n, 1, frequency, time) with the highest band first."""
        return self.pool(self.backbone(images[:, 0].flip(1).transpose(1, 2).contiguous()))


def _class_token(output: Any) -> Tensor:
    token: Tensor = output.last_hidden_state[:, 0]
    return token


def _pooler(output: Any) -> Tensor:
    pooled: Tensor = output.pooler_output
    return pooled
