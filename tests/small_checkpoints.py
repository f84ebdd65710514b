"""Tiny random checkpoints of audio networks, written by transformers itself: no test downloads anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    HubertConfig,
    HubertForSequenceClassification,
    RobertaTokenizer,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

ARCHITECTURES = ("ast", "clap", "hubert", "maest", "wav2vec2", "wavlm", "whisper")
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
_SPEECH: dict[str, Any] = {
    **_SIZES,
    "conv_dim": [16, 16],
    "conv_stride": [10, 8],
    "conv_kernel": [10, 8],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
}
# The constants of MAEST's published feature extractor, but for the length.
MAEST: dict[str, Any] = {
    "feature_extractor_type": "MAESTFeatureExtractor",
    "auto_map": {"AutoFeatureExtractor": "feature_extraction_maest.MAESTFeatureExtractor"},
    "feature_size": 1,
    "sampling_rate": 16000,
    "num_mel_bins": 96,
    "n_fft": 512,
    "hop_length": 256,
    "log_compression": "logC",
    "padding_value": 0.0,
    "do_normalize": True,
    "mean": 2.06755686098554,
    "std": 1.268292820667291,
    "return_attention_mask": False,
}


def write_checkpoint(folder: Path, architecture: str, licence: str = "mit", **config: Any) -> Path:
    """Write a seeded random checkpoint with its feature extractor, and a model card with a licence."""
    torch.manual_seed(0)
    transformers.logging.disable_progress_bar()
    folder.mkdir(parents=True)
    model, extractor = _build(architecture, config)
    model.save_pretrained(folder)
    if extractor is None:
        extracting = {**MAEST, "max_length": model.config.max_length}
        (folder / "preprocessor_config.json").write_text(json.dumps(extracting))
    else:
        extractor.save_pretrained(folder)
    if architecture == "clap":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
        RobertaTokenizer(vocab={token: place for place, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: {licence}\ntags: [audio]\n---\n# A model\n")
    return folder


def _build(architecture: str, config: dict[str, Any]) -> tuple[Any, Any]:
    if architecture == "ast":
        model = ASTForAudioClassification(ASTConfig(**{**_SIZES, "max_length": 128, "num_mel_bins": 32, **config}))
        return model, ASTFeatureExtractor(max_length=model.config.max_length, num_mel_bins=32)
    if architecture == "maest":
        sizes = {**_SIZES, "max_length": 300, "num_mel_bins": 96, "time_stride": 10, **config}
        return ASTForAudioClassification(ASTConfig(**sizes)), None
    if architecture == "clap":
        audio = ClapAudioConfig(
            patch_embeds_hidden_size=16,
            hidden_size=64,
            depths=[1, 1, 1],
            num_attention_heads=[2, 2, 2],
            num_hidden_layers=3,
            spec_size=64,
            num_mel_bins=16,
            window_size=4,
            projection_dim=24,
            **config,
        )
        text = ClapTextConfig(
            **{**_SIZES, "num_hidden_layers": 1},
            vocab_size=300,
            max_position_embeddings=80,
            pad_token_id=1,
        )
        both = ClapConfig(
            text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=24, initializer_factor=10.0
        )
        clap = ClapModel(both)
        with torch.no_grad():  # so that different texts get different embeddings
            for name, weights in clap.text_model.named_parameters():
                if "word_embeddings" in name:
                    weights.mul_(10)
                elif "attention" in name and weights.ndim > 1:
                    weights.mul_(4)
        return clap, ClapFeatureExtractor(feature_size=16, max_length_s=2, truncation="rand_trunc")
    if architecture == "whisper":
        sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in _WHISPER.items()}
        whisper = WhisperConfig(
            **sizes,
            d_model=32,
            init_std=0.2,
            max_source_positions=100,
            num_mel_bins=20,
            vocab_size=300,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        return WhisperForConditionalGeneration(whisper), WhisperFeatureExtractor(feature_size=20, chunk_length=2)
    classes: dict[str, tuple[Any, Any]] = {
        "hubert": (HubertConfig, HubertForSequenceClassification),
        "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForPreTraining),
        "wavlm": (WavLMConfig, WavLMModel),
    }
    config_class, model_class = classes[architecture]
    return model_class(config_class(**_SPEECH)), Wav2Vec2FeatureExtractor()


_WHISPER = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
