"""Frozen audio networks of transformers: from slices to embeddings.

Each architecture is a class of transformers itself, with the feature extractor that its publishers give; code from a
repository is never loaded. MAEST has the architecture of AST and an extractor of its own, whose result is the stored
feature `mel_16k`, normalised.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapFeatureExtractor,
    HubertConfig,
    HubertModel,
    PreTrainedConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from genretree.arrays import Array, Float32Array
from genretree.errors import BundleError, TrainingError
from genretree.files import read_json_text, write_text
from genretree.models.finite_weights import require_finite
from genretree.models.pretrained.backbone_checkpoints import BackboneCheckpoint
from genretree.models.pretrained.backbones import load_state, read_config, require_weights
from genretree.models.pretrained.names import BACKBONE_FILE, WEIGHTS_FILE
from genretree.models.pretrained.weight_files import explain_mismatch, read_weights
from genretree.settings import MEL_16K_BANDS, MEL_16K_FFT, MEL_16K_RATE
from genretree.sound.features import MEL_16K, WAVE_16K, WAVE_48K
from genretree.sound.mel_16k import MEL_16K_HOP, compress
from genretree.sound.wave import wave_to_float

PREPROCESSOR_FILE = "preprocessor.json"
_WAVES = {16000: WAVE_16K, 48000: WAVE_48K}
_SPEECH_SECONDS = 10.0  # networks for speech take any length; this is that of the others
_BATCH_SIZE = 8  # windows run at a time
_AST_FRAME, _AST_HOP = 400, 160  # samples, of Kaldi's filter bank at 16 kHz
_MAX_SECONDS = 120
_MAX_FRAMES = 20_000
_MAX_JSON_BYTES = 1 << 16
_REFUSED = ("auto_map", "quantization_config", "dtype", "torch_dtype", "use_kernels")
_COUNTER = "num_batches_tracked"
_UNUSED = ("masked_spec_embed",)  # only for pretraining; some checkpoints lack it
# The mean and standard deviation of Discogs20, as published with MAEST.
_MAEST_FRONT_END = {
    "sampling_rate": MEL_16K_RATE,
    "n_fft": MEL_16K_FFT,
    "hop_length": MEL_16K_HOP,
    "num_mel_bins": MEL_16K_BANDS,
    "log_compression": "logC",
    "do_normalize": True,
}


class _Architecture:
    """Classes of an architecture, and the parameters of its feature extractor that are kept."""

    def __init__(
        self,
        model: type[Any],
        config: type[PreTrainedConfig],
        extractor: type[Any] | None,
        parameters: tuple[str, ...],
        prefix: str,
    ) -> None:
        self.model = model
        self.config = config
        self.extractor = extractor
        self.parameters = parameters
        self.prefix = prefix


_SPEECH = ("feature_size", "sampling_rate", "padding_value", "do_normalize")
_ARCHITECTURES: Mapping[str, _Architecture] = {
    "ast": _Architecture(
        ASTModel,
        ASTConfig,
        ASTFeatureExtractor,
        ("sampling_rate", "num_mel_bins", "max_length", "padding_value", "do_normalize", "mean", "std"),
        "audio_spectrogram_transformer.",
    ),
    "maest": _Architecture(
        ASTModel,
        ASTConfig,
        None,
        (*_MAEST_FRONT_END, "max_length", "mean", "std"),
        "audio_spectrogram_transformer.",
    ),
    "clap": _Architecture(
        ClapAudioModelWithProjection,
        ClapAudioConfig,
        ClapFeatureExtractor,
        (
            "feature_size",
            "sampling_rate",
            "hop_length",
            "max_length_s",
            "fft_window_size",
            "padding_value",
            "frequency_min",
            "frequency_max",
            "top_db",
            "padding",
        ),
        "",
    ),
    "hubert": _Architecture(HubertModel, HubertConfig, Wav2Vec2FeatureExtractor, _SPEECH, "hubert."),
    "wav2vec2": _Architecture(Wav2Vec2Model, Wav2Vec2Config, Wav2Vec2FeatureExtractor, _SPEECH, "wav2vec2."),
    "wavlm": _Architecture(WavLMModel, WavLMConfig, Wav2Vec2FeatureExtractor, _SPEECH, "wavlm."),
    "whisper": _Architecture(
        WhisperEncoder,
        WhisperConfig,
        WhisperFeatureExtractor,
        ("feature_size", "sampling_rate", "hop_length", "chunk_length", "n_fft", "padding_value"),
        "encoder.",
    ),
}


class AudioBackbone:
    """A frozen network, the preprocessing of its publishers, and the pooling of its output to one vector a slice.

    Parameters
    ----------
    architecture : str
        "ast", "maest", "clap", "hubert", "wav2vec2", "wavlm" or "whisper".
    network : PreTrainedModel
    preprocessor : mapping
        Parameters of the feature extractor.
    origin : mapping of str to str, optional
        Source, revision, licence and hash of the weights; None after loading from a bundle.

    Attributes
    ----------
    input_feature : str
        "wave_16k" or "wave_48k", or "mel_16k" for MAEST.
    width : int
        Number of values of an embedding.
    """

    def __init__(
        self,
        architecture: str,
        network: Any,
        preprocessor: Mapping[str, Any],
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self.architecture = architecture
        self.network = network.eval().requires_grad_(False)
        self.preprocessor = dict(preprocessor)
        self.origin = None if origin is None else dict(origin)
        self.input_feature = _input_feature(architecture, self.preprocessor)
        config = network.config
        width = "projection_dim" if architecture == "clap" else "hidden_size"
        self.width = int(getattr(config, "output_hidden_size" if getattr(config, "add_adapter", False) else width))
        self.backend: Callable[[Tensor], tuple[Tensor, ...]] | None = None
        self._poolings: dict[int, EmbeddingNetwork] = {}
        self._extract = None if architecture == "maest" else self._build_extractor()

    def embed(self, values: Array, windows: int = 1) -> Float32Array:
        """Compute embeddings of slices.

        Parameters
        ----------
        values : array, shape (n, ...)
            The feature `input_feature` of the slices.
        windows : int
            If slices are longer than the network's input, the number of evenly spaced windows whose embeddings are
            averaged; 1 takes the middle.

        Returns
        -------
        float32 array, shape (n, width)
        """
        pooling = self.pooling(values.shape[1])
        device = torch.device("cuda" if torch.cuda.is_available() and self.backend is None else "cpu")
        pooling.to(device)
        embeddings = np.zeros((len(values), self.width), np.float32)
        size = max(1, _BATCH_SIZE // windows)
        for start in range(0, len(values), size):
            batch, n_windows = self.prepare(values[start : start + size], windows)
            with torch.inference_mode():
                outputs = (self.backend or pooling)(batch.to(device))[0].float().cpu()
            embeddings[start : start + size] = outputs.unflatten(0, (-1, n_windows)).mean(dim=1).numpy()
        return embeddings

    def pooling(self, length: int) -> EmbeddingNetwork:
        """Return the network with its pooling, for features of a length: shape[1] of the input of `embed`."""
        if length not in self._poolings:
            self._poolings[length] = EmbeddingNetwork(self, length)
        return self._poolings[length]

    def prepare(self, values: Array, windows: int = 1) -> tuple[Tensor, int]:
        """Compute the network's input for slices, and the number of windows of each slice.

        Windows of a slice are consecutive: shape (n * n_windows, ...).
        """
        if self.architecture == "maest":
            frames = min(values.shape[1], int(self.preprocessor["max_length"]))
            mean, std = float(self.preprocessor["mean"]), float(self.preprocessor["std"])
            cut = [compress(mel[at : at + frames]) for mel in values for at in _starts(len(mel), frames, windows)]
            batch = torch.from_numpy((np.stack(cut) - np.float32(mean)) / np.float32(2 * std))
            return batch, len(cut) // len(values)
        assert self._extract is not None
        pieces: list[Float32Array] = []
        longest = self.max_samples
        for wave in values:
            y = wave_to_float(wave)
            length = len(y) if longest is None else min(len(y), longest)
            pieces += [y[at : at + length] for at in _starts(len(y), length, windows)]
        return self._extract(pieces), len(pieces) // len(values)

    @property
    def max_samples(self) -> int | None:
        """Number of samples of the longest input, at the network's sample rate; None if there is no limit."""
        values = self.preprocessor
        if self.architecture == "ast":
            return _AST_FRAME + (int(values["max_length"]) - 1) * _AST_HOP
        if self.architecture == "clap":
            return int(values["max_length_s"]) * int(values["sampling_rate"])
        if self.architecture == "whisper":
            return int(values["chunk_length"]) * int(values["sampling_rate"])
        return None

    @property
    def slice_seconds(self) -> float:
        """Length of a slice that fills the network's input, in seconds, from 1 to 60."""
        if self.architecture == "maest":
            seconds = (int(self.preprocessor["max_length"]) - 1) * MEL_16K_HOP / MEL_16K_RATE
        elif self.max_samples is None:
            seconds = _SPEECH_SECONDS
        else:
            seconds = self.max_samples / int(self.preprocessor["sampling_rate"])
        return min(60.0, max(1.0, seconds))

    def _build_extractor(self) -> Callable[[list[Float32Array]], Tensor]:
        extractor = _ARCHITECTURES[self.architecture].extractor
        assert extractor is not None
        extract = _create(extractor, self.preprocessor)
        # CLAP's extractor would take a random part of longer inputs; they are cut before.
        options = {"truncation": "rand_trunc"} if self.architecture == "clap" else {}
        key = extract.model_input_names[0]

        def run(pieces: list[Float32Array]) -> Tensor:
            rate = self.preprocessor["sampling_rate"]
            found: Tensor = extract(pieces, sampling_rate=rate, return_tensors="pt", **options)[key]
            return found.float()

        return run

    @property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing, for caches of embeddings."""
        content = hashlib.sha256(json.dumps([self.architecture, self.preprocessor], sort_keys=True).encode())
        for value in self.network.state_dict().values():
            content.update(value.cpu().numpy().tobytes())
        return content.hexdigest()[:16]

    def save(self, folder: Path) -> list[str]:
        """Write weights, configuration and preprocessing to a bundle's folder, and return the file names."""
        write_text(folder / BACKBONE_FILE, self.network.config.to_json_string())
        write_text(
            folder / PREPROCESSOR_FILE,
            json.dumps({"architecture": self.architecture, "parameters": self.preprocessor}, indent=1),
        )
        # transformers writes the arrays under published names, whatever its version calls them inside.
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            copy.deepcopy(self.network).cpu().save_pretrained(draft, max_shard_size="1TB")
            (Path(draft) / WEIGHTS_FILE).replace(folder / WEIGHTS_FILE)
        return [BACKBONE_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE]


class EmbeddingNetwork(nn.Module):
    """A network with its pooling, from preprocessed windows to embeddings, for slices of one length.

    Parameters
    ----------
    backbone : AudioBackbone
    length : int
        Samples, or frames of `mel_16k`, of a slice.
    """

    def __init__(self, backbone: AudioBackbone, length: int) -> None:
        super().__init__()
        self.architecture = backbone.architecture
        self.network = backbone.network
        self.n_frames = 0  # frames of the output that are not padding
        values = backbone.preprocessor
        if self.architecture == "maest" and length < values["max_length"]:
            self.network = _shorten(backbone.network, length)
        if self.architecture == "whisper":
            samples = min(length, backbone.max_samples or length)
            self.n_frames = math.ceil(samples / (2 * int(values["hop_length"])))  # the second convolution has stride 2

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        """Compute embeddings, shape (n, width), as a tuple of one."""
        if self.architecture in ("ast", "maest"):
            return (self.network(inputs).pooler_output,)
        if self.architecture == "clap":
            return (normalize(self.network(inputs).audio_embeds, dim=-1),)
        hidden = self.network(inputs).last_hidden_state
        return ((hidden[:, : self.n_frames] if self.n_frames else hidden).mean(dim=1),)


def _shorten(network: Any, frames: int) -> Any:
    """Copy an AST for shorter inputs: it shares the weights, and has the position embeddings of the first frames.

    PaSST, from which MAEST was trained, does the same.
    """
    config = network.config
    total = (config.max_length - config.patch_size) // config.time_stride + 1
    kept = (frames - config.patch_size) // config.time_stride + 1
    if kept < 1:
        raise BundleError(f"slices of {frames} frames are too short for this network; use longer slices")
    positions = network.embeddings.position_embeddings.detach()
    tokens, patches = positions[:, :2], positions[:, 2:]
    patches = patches.unflatten(1, (-1, total))[:, :, :kept].flatten(1, 2)
    embeddings = copy.copy(network.embeddings)
    embeddings._parameters = {
        **network.embeddings._parameters,
        "position_embeddings": nn.Parameter(torch.cat([tokens, patches], dim=1), requires_grad=False),
    }
    short = copy.copy(network)
    short._modules = {**network._modules, "embeddings": embeddings}
    return short


def _starts(total: int, length: int, windows: int) -> list[int]:
    """Return the starts of evenly spaced windows; a single one is in the middle."""
    if windows == 1 or total == length:
        return [(total - length) // 2]
    starts: list[int] = np.unique(np.linspace(0, total - length, windows).round().astype(int)).tolist()
    return starts


def _input_feature(architecture: str, preprocessor: Mapping[str, Any]) -> str:
    return MEL_16K if architecture == "maest" else _WAVES[preprocessor["sampling_rate"]]


def find_input_feature(checkpoint: BackboneCheckpoint) -> str:
    """Return the name of the feature of slices that a checkpoint takes.

    Raises
    ------
    TrainingError
        If the preprocessing is not supported.
    """
    architecture = find_architecture(checkpoint)
    return _input_feature(architecture, _read_preprocessor(architecture, checkpoint))


def _read_preprocessor(architecture: str, checkpoint: BackboneCheckpoint) -> dict[str, Any]:
    try:
        return _select_parameters(architecture, checkpoint.preprocessor)
    except ValueError as error:
        raise TrainingError(f"{checkpoint.name}: {error}; choose another backbone") from error


def find_architecture(checkpoint: BackboneCheckpoint) -> str:
    """Return the key of a checkpoint's architecture: its model type, or "maest" for AST with MAEST's extractor."""
    if checkpoint.model_type != "audio-spectrogram-transformer":
        return checkpoint.model_type
    return "maest" if checkpoint.preprocessor.get("feature_extractor_type") == "MAESTFeatureExtractor" else "ast"


def load_backbone(checkpoint: BackboneCheckpoint) -> AudioBackbone:
    """Load the audio network of a checkpoint.

    Raises
    ------
    TrainingError
        If weights are missing or of another shape, or the preprocessing is not supported.
    """
    architecture = find_architecture(checkpoint)
    classes = _ARCHITECTURES[architecture]
    preprocessor = _read_preprocessor(architecture, checkpoint)
    content = clean_config(checkpoint.config)
    try:
        config: Any = (
            ClapConfig.from_dict(content).audio_config if architecture == "clap" else classes.config.from_dict(content)
        )
    except Exception as error:  # transformers raises many types of errors
        raise TrainingError(
            f"{checkpoint.name}: config.json does not describe such a network ({error}); get the checkpoint again"
        ) from error
    if getattr(config, "enable_fusion", False):
        raise TrainingError(
            f"{checkpoint.name}: CLAP with feature fusion takes random parts of its input; choose a checkpoint without "
            "fusion, such as clap"
        )
    read = read_weights(checkpoint.name, checkpoint.folder / checkpoint.origin["file"])
    network, info = load_state(classes.model, config, _select_weights(architecture, read.weights), checkpoint.name)
    missing = [name for name in info["missing_keys"] if not name.endswith((*_UNUSED, _COUNTER))]
    shapes = {name: (found, requested) for name, found, requested in info["mismatched_keys"]}
    if missing or shapes:
        reason = explain_mismatch(f"transformers' {classes.model.__name__}", missing, (), shapes)
        raise TrainingError(f"{checkpoint.name}: {reason}")
    network.config.dtype = torch.float32
    return AudioBackbone(architecture, network, preprocessor, {**read.origin, **checkpoint.origin})


def clean_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what makes transformers load code, kernels or quantised weights, also in nested configurations."""
    return {
        name: clean_config(value) if name.endswith("_config") and isinstance(value, Mapping) else value
        for name, value in content.items()
        if name not in _REFUSED and "_implementation" not in name
    }


def _select_weights(architecture: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the arrays of the audio network, with the names that its class gives them."""
    if architecture == "clap":
        return {name: value for name, value in weights.items() if name.startswith("audio_")}
    prefix = _ARCHITECTURES[architecture].prefix
    if architecture == "whisper":
        cut = {name.removeprefix("model."): value for name, value in weights.items()}
        return {name.removeprefix(prefix): value for name, value in cut.items() if name.startswith(prefix)}
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    return own or dict(weights)


def read_backbone(folder: Path) -> AudioBackbone:
    """Load the network that `AudioBackbone.save` wrote to a bundle.

    Raises
    ------
    BundleError
        If a file is missing or damaged.
    """
    path = folder / PREPROCESSOR_FILE
    try:
        content = json.loads(read_json_text(path, _MAX_JSON_BYTES))
        architecture = content["architecture"]
        classes = _ARCHITECTURES[architecture]
        preprocessor = _select_parameters(architecture, content["parameters"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
    config = classes.config.from_dict(clean_config(read_config(classes.config, folder).to_dict()))
    weights = folder / WEIGHTS_FILE
    try:
        require_weights(classes.model, config, folder)
        network, info = load_state(classes.model, config, load_file(weights), str(weights))
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, AttributeError, TrainingError) as error:
        raise BundleError(
            f"{weights}: the weights don't fit this model ({error}); copy or train the bundle again"
        ) from error
    shapes = {name: (found, requested) for name, found, requested in info["mismatched_keys"]}
    if info["missing_keys"] or info["unexpected_keys"] or shapes:
        reason = explain_mismatch(classes.model.__name__, info["missing_keys"], info["unexpected_keys"], shapes)
        raise BundleError(f"{weights}: {reason}; copy or train the bundle again")
    require_finite(weights, network.state_dict())
    try:
        return AudioBackbone(architecture, network, preprocessor)
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: can't be used ({error}); copy or train the bundle again") from error


def _select_parameters(architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Select the parameters of a feature extractor and check their types and ranges.

    Raises
    ------
    ValueError
        If one is missing or out of range.
    """
    classes = _ARCHITECTURES[architecture]
    if not isinstance(values, Mapping):
        raise ValueError("the parameters of the feature extractor are not a mapping")
    expected = "MAESTFeatureExtractor" if classes.extractor is None else classes.extractor.__name__
    found = values.get("feature_extractor_type", expected)
    if found != expected:
        raise ValueError(f"its feature extractor is {found}, not {expected}")
    selected = {name: values[name] for name in classes.parameters if name in values}
    if classes.extractor is None:
        for name, value in _MAEST_FRONT_END.items():
            if selected.get(name, value) != value:
                raise ValueError(f"its feature extractor has {name} {selected[name]}, not {value}")
            selected[name] = value
        if not {"max_length", "mean", "std"} <= selected.keys():
            raise ValueError("its feature extractor lacks max_length, mean or std")
    else:
        complete = _create(classes.extractor, selected).to_dict()
        selected = {name: complete[name] for name in classes.parameters if name in complete}
    for name, value in selected.items():
        if value is None or isinstance(value, bool | str):
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} must be a number, got {value!r}")
    if architecture != "maest" and selected["sampling_rate"] not in _WAVES:
        rates = " or ".join(map(str, _WAVES))
        raise ValueError(f"its sampling_rate must be {rates} Hz, got {selected['sampling_rate']}")
    _check_range(selected, "max_length", 16, _MAX_FRAMES)
    _check_range(selected, "num_mel_bins", 1, 1024)
    _check_range(selected, "feature_size", 1, 1024)
    _check_range(selected, "hop_length", 1, 1 << 16)
    for name in ("max_length_s", "chunk_length"):
        _check_range(selected, name, 1, _MAX_SECONDS)
    for name in ("n_fft", "fft_window_size"):
        _check_range(selected, name, 1, 1 << 16)
    if "std" in selected and not selected["std"] > 0:
        raise ValueError(f"std must be greater than 0, got {selected['std']}")
    return selected


def _create(extractor: type[Any], parameters: Mapping[str, Any]) -> Any:
    """Create a feature extractor without a warning about mel filters that are empty as published."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        return extractor(**parameters)


def _check_range(values: Mapping[str, Any], name: str, low: int, high: int) -> None:
    if name in values and not low <= values[name] <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {values[name]}")
