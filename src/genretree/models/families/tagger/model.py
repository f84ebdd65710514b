"""Models of the family `tagger`: the network mn04, a vocabulary's tags for the nodes of a tree, and content detection.

Importing this doesn't import torch, so that an exported network runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from genretree.arrays import Array, Float32Array, Float64Array, Int64Array
from genretree.errors import BundleError
from genretree.models.base import ExportedFamily, LevelProbabilities, SliceDataset, check_inputs
from genretree.models.families.tagger.settings import TaggerSettings
from genretree.models.families.tagger.tag_tree import TagTree
from genretree.models.features.cache import FeatureCache
from genretree.models.finite_weights import require_finite
from genretree.models.linear.hierarchical import HEAD_FILE
from genretree.models.linear.prior_correction import PriorCorrection
from genretree.models.runtime.types import GRAPH, Runner
from genretree.settings import Heads
from genretree.sound.features import MEL_16K, MEL_32K, Inputs
from genretree.taxonomy import Taxonomy

if TYPE_CHECKING:
    from genretree.models.families.tagger.musicnn_blocks import MusicnnBlocks
    from genretree.models.pretrained.mn04 import Mn04
    from genretree.models.runtime.graph import Graph

N_TAGS = 527
EMBEDDING_DIM = 384
WINDOW_FRAMES = 1000  # 10 s, which the network was trained on
_BATCH_SIZE = 4


class TaggerOutputs(NamedTuple):
    """Outputs of mn04 for n slices."""

    logits: Float32Array  # (n, 527)
    embedding: Float32Array  # (n, 384)

    @property
    def tags(self) -> Float32Array:
        """Tag probabilities, shape (n, 527)."""
        from scipy.special import expit

        probabilities: Float32Array = expit(self.logits)
        return probabilities


class TaggerModel:
    """The network mn04 and the tags of a tree's nodes.

    Parameters
    ----------
    tree : TagTree
    settings : TaggerSettings
    load_network : callable
        Loads the network when it is first needed in torch.
    run : Runner, optional
        Runs an exported network instead.
    correction : PriorCorrection, optional
        Correction of the probabilities by tags, which was trained; without it, the tags decide.
    musicnn : MusicnnBlocks, optional
        Further features of the correction.
    """

    def __init__(
        self,
        tree: TagTree,
        settings: TaggerSettings,
        load_network: Callable[[], Mn04],
        run: Runner | None = None,
        correction: PriorCorrection | None = None,
        musicnn: MusicnnBlocks | None = None,
    ) -> None:
        self.tree = tree
        self.settings = settings
        self.heads: Heads = settings.heads
        self.correction = correction
        self.musicnn = musicnn
        self.input_features: tuple[str, ...] = (MEL_32K,) if musicnn is None else (MEL_32K, MEL_16K)
        self._load_network = load_network
        self._network: Mn04 | None = None
        self._run = run
        self._torch_run: Runner | None = None

    @property
    def network(self) -> Mn04:
        """The network in torch."""
        if self._network is None:
            self._network = self._load_network()
        return self._network

    @property
    def runs_torch(self) -> bool:
        """Whether the network runs in torch and float32, whose outputs are cached."""
        return self._run is None or self._run is self._torch_run

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the network's weights; empty for an exported network."""
        if not self.runs_torch:
            return ""
        from genretree.models.pretrained.musicnn_features import fingerprint_network

        return fingerprint_network(self.network)

    def graphs(self, image_size: int) -> dict[str, Graph]:
        """Return the networks as graphs."""
        from genretree.models.pretrained.mn04 import as_graph

        further = {} if self.musicnn is None else self.musicnn.graphs()
        return {GRAPH: as_graph(self.network), **further}

    def set_backend(self, runners: Mapping[str, Runner]) -> None:
        """Run the networks with another runtime."""
        self._run = runners[GRAPH]
        if self.musicnn is not None:
            self.musicnn.set_backend(runners)

    def on_fastest_device(self) -> AbstractContextManager[None]:
        """Compute on the GPU during the block, if there is one, what no other runtime does."""
        further = [] if self.musicnn is None else self.musicnn.torch_networks
        networks = [*([self.network] if self.runs_torch else []), *further]
        if not networks:  # torch need not be imported
            return nullcontext()
        from genretree.models.runtime.devices import on_fastest_device

        return on_fastest_device(*networks)

    def torch_module(self) -> Mn04:
        """Return the network in torch."""
        return self.network

    def extract(self, mel_32k: Array) -> TaggerOutputs:
        """Run the network on mel spectrograms, shape (n, 128, n_frames).

        Each is cut into windows of 10 s, evenly spaced, whose logits and embeddings are averaged; a shorter one is
        repeated.
        """
        if self._run is None:
            from genretree.models.pretrained.mn04 import as_graph
            from genretree.models.runtime.graph import run_torch

            self._run = self._torch_run = run_torch(as_graph(self.network), bf16=False)
        windows = _cut_windows(mel_32k)
        flat = windows.reshape(-1, 1, *windows.shape[2:])
        if not len(flat):
            return TaggerOutputs(np.zeros((0, N_TAGS), np.float32), np.zeros((0, EMBEDDING_DIM), np.float32))
        batches = [np.asarray(flat[at : at + _BATCH_SIZE], np.float32) for at in range(0, len(flat), _BATCH_SIZE)]
        outputs = [[np.array(array) for array in self._run(batch)] for batch in batches]
        joined = (np.concatenate(arrays) for arrays in zip(*outputs, strict=True))
        return TaggerOutputs(*(array.reshape(*windows.shape[:2], -1).mean(axis=1) for array in joined))

    def predict_proba(self, inputs: Inputs) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        return self.predict_with_tags(inputs)[0]

    def predict_with_tags(self, inputs: Inputs) -> tuple[LevelProbabilities, Float32Array]:
        """Predict the probabilities of every node, and of every tag: (n, 527)."""
        check_inputs(self, inputs)
        outputs = self.extract(inputs[MEL_32K])
        further = None if self.musicnn is None else self.musicnn.extract(inputs[MEL_16K])
        return self.classify(outputs, further), outputs.tags

    def classify(self, outputs: TaggerOutputs, further: Float32Array | None = None) -> LevelProbabilities:
        """Compute the probabilities of every node from the network's outputs, and further features of MusiCNN."""
        leaves = self.predict_by_tags(outputs)
        if self.correction is not None:
            return self.correction.predict(join_features(outputs, further), leaves)
        return self.tree.taxonomy.sum_levels(leaves)

    def predict_by_tags(self, outputs: TaggerOutputs) -> Float64Array:
        """Compute leaf probabilities from the tags alone, as without training: shape (n, n_leaves)."""
        return self.tree.leaf_probabilities({"mn04": outputs.tags.astype(np.float64)})

    def predict_dataset(self, dataset: SliceDataset, tick: Callable[[int], None] | None = None) -> LevelProbabilities:
        """Predict stored slices, with cached outputs of the network."""
        further = None if self.musicnn is None else self.musicnn.extract_dataset(dataset)
        levels = self.classify(extract_dataset(self, dataset), further)
        if tick is not None:
            tick(len(dataset))
        return levels

    def shuffle_weights(self, rng: np.random.Generator) -> TaggerModel:
        """Copy the model and shuffle the values within each weight array."""
        from genretree.models.neural.network import shuffle_network

        network = shuffle_network(self.network, rng)
        correction = None if self.correction is None else self.correction.shuffle(rng)
        musicnn = None if self.musicnn is None else self.musicnn.shuffle(rng)
        return TaggerModel(self.tree, self.settings, lambda: network, None, correction, musicnn)

    def embed(self, inputs: Inputs) -> Float32Array:
        """Return the network's embeddings: shape (n, 384)."""
        return self.extract(inputs[MEL_32K]).embedding

    def save(self, folder: Path) -> list[str]:
        """Write the tags as JSON, and the networks and the correction as safetensors."""
        from genretree.models.pretrained.mn04_weights import save_mn04

        if self.correction is not None:
            save_arrays(self.correction.to_arrays(), folder / HEAD_FILE)
        head = [] if self.correction is None else [HEAD_FILE]
        further = [] if self.musicnn is None else self.musicnn.save(folder)
        return [*self.tree.save(folder), save_mn04(self.network, folder), *head, *further]


def load_network(folder: Path | None = None) -> Mn04:
    """Load the network from a folder, such as a bundle, or the published one from the cache. Raises TrainingError."""
    from genretree.models.pretrained.mn04_weights import load_mn04

    return load_mn04(folder)


def load_tagger(
    folder: Path,
    run: Runner | None,
    taxonomy: Taxonomy,
    settings: TaggerSettings,
    musicnn: MusicnnBlocks | None = None,
) -> TaggerModel:
    """Load the model of a bundle, whose network mn04 is run by `run`, or by torch if it is None."""
    tree = TagTree.load(folder, taxonomy, settings.floor)
    correction = None
    if (path := folder / HEAD_FILE).is_file():
        try:
            arrays = load_arrays(path)
            require_finite(path, arrays)
            width = EMBEDDING_DIM + (0 if musicnn is None else sum(musicnn.widths))
            correction = PriorCorrection.from_arrays(arrays, width, taxonomy, settings.heads)
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error
    return TaggerModel(tree, settings, partial(load_network, folder), run, correction, musicnn)


def join_features(outputs: TaggerOutputs, further: Float32Array | None) -> Float32Array:
    """Join the features of the correction, shape (n, n_features): the embedding, and those of MusiCNN."""
    return outputs.embedding if further is None else np.concatenate([outputs.embedding, further], axis=1)


def _is_standalone(settings: Any) -> bool:
    """Whether a bundle with these settings, as JSON, runs without torch: MusiCNN's pooling needs it."""
    return not (isinstance(settings, Mapping) and settings.get("musicnn"))


def extract_dataset(model: TaggerModel, dataset: SliceDataset, progress: bool = False) -> TaggerOutputs:
    """Run the network on stored slices, with a cache in the store.

    Raises
    ------
    TrainingError
        If the store lacks the feature `mel_32k`.
    """
    mel_32k = dataset.require_feature(MEL_32K, "tagger")
    cached = dataset if model.runs_torch else replace(dataset, cache=None)
    cache = FeatureCache(cached, f"mn04-{model.fingerprint}.npy", N_TAGS + EMBEDDING_DIM)

    def compute(rows: Int64Array) -> Float32Array:
        return np.concatenate(model.extract(np.asarray(mel_32k[rows])), axis=1)

    values = cache.read(dataset.rows, compute, "mn04", progress)
    return TaggerOutputs(values[:, :N_TAGS], values[:, N_TAGS:])


def _cut_windows(mel_32k: Array) -> Array:
    """Cut spectrograms, (n, 128, n_frames), into evenly spaced windows: (n, n_windows, 128, 1000)."""
    n_frames = mel_32k.shape[2]
    if n_frames < WINDOW_FRAMES:
        repeats = -(-WINDOW_FRAMES // n_frames)
        return np.tile(mel_32k, (1, 1, repeats))[:, None, :, :WINDOW_FRAMES]
    starts = np.linspace(0, n_frames - WINDOW_FRAMES, max(1, round(n_frames / WINDOW_FRAMES))).round().astype(int)
    if len(starts) == 1:
        starts[0] = (n_frames - WINDOW_FRAMES) // 2
    return np.stack([mel_32k[:, :, start : start + WINDOW_FRAMES] for start in starts], axis=1)


EXPORTED = ExportedFamily(settings_type=TaggerSettings, load=load_tagger, bf16=False, is_standalone=_is_standalone)
