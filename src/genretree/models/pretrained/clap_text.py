"""Text embeddings of CLAP, for zero-shot classification by prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, ClapConfig, ClapTextModelWithProjection

from genretree.arrays import Float32Array
from genretree.errors import TrainingError
from genretree.models.pretrained.audio_backbones import clean_config
from genretree.models.pretrained.backbone_checkpoints import BackboneCheckpoint
from genretree.models.pretrained.backbones import load_state
from genretree.models.pretrained.weight_files import explain_mismatch, read_weights

_SCALE = "logit_scale_a"
# Prompts for different genres have a cosine similarity well below this; a broken text network gives 0.999 and more.
_MAX_SIMILARITY = 0.998


@dataclass(frozen=True)
class TextEmbeddings:
    """Embeddings of prompts.

    Parameters
    ----------
    values : float32 array, shape (n, width)
        Of length 1.
    scale : float
        Factor of the cosine similarities of audio and text before the softmax, which CLAP learned.
    """

    values: Float32Array
    scale: float


def embed_texts(checkpoint: BackboneCheckpoint, texts: Sequence[str]) -> TextEmbeddings:
    """Compute CLAP's embeddings of texts.

    Parameters
    ----------
    checkpoint : BackboneCheckpoint
    texts : sequence of str, at least two

    Raises
    ------
    TrainingError
        If the checkpoint is not CLAP, its tokenizer or an array is missing, or its text network is broken: all texts
        get nearly the same embedding.
    """
    if checkpoint.model_type != "clap":
        raise TrainingError(
            f"{checkpoint.name}: zero-shot classification needs CLAP, not {checkpoint.model_type}; use clap"
        )
    try:
        config: Any = ClapConfig.from_dict(clean_config(checkpoint.config))
        tokenizer: Any = AutoTokenizer.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises many types of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"{checkpoint.name}: its tokenizer can't be read ({reason}); fetch the whole checkpoint again"
        ) from error
    weights = read_weights(checkpoint.name, checkpoint.folder / checkpoint.origin["file"]).weights
    own = {name: value for name, value in weights.items() if name.startswith("text_")}
    network, info = load_state(ClapTextModelWithProjection, config.text_config, own, checkpoint.name)
    shapes = {name: (found, requested) for name, found, requested in info["mismatched_keys"]}
    missing = [*info["missing_keys"], *([] if _SCALE in weights else [_SCALE])]
    if missing or shapes:
        raise TrainingError(f"{checkpoint.name}: {explain_mismatch('CLAP', missing, (), shapes)}")
    network.eval()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        embeddings = normalize(network(**inputs).text_embeds, dim=-1)
    similar = embeddings @ embeddings.T
    n = len(embeddings)
    mean = (float(similar.sum()) - n) / (n * (n - 1))
    if mean > _MAX_SIMILARITY:
        raise TrainingError(
            f"{checkpoint.name}: its text network gives all prompts nearly the same embedding (mean cosine similarity "
            f"{mean:.4f}), so that it can't tell genres apart; choose another checkpoint, such as clap"
        )
    return TextEmbeddings(embeddings.numpy(), math.exp(float(weights[_SCALE])))
