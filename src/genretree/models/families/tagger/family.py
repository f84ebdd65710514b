"""Family `tagger`: genres from the tags of the audio tagger mn04, corrected by what the training tracks show."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors import SafetensorError

from genretree.errors import BundleError, TrainingError
from genretree.models.base import FitContext, FitResult, Model, SliceDataset
from genretree.models.families.tagger.model import (
    EMBEDDING_DIM,
    TaggerModel,
    TaggerOutputs,
    extract_dataset,
    join_features,
    load_network,
    load_tagger,
)
from genretree.models.families.tagger.musicnn_blocks import MusicnnBlocks
from genretree.models.families.tagger.settings import TaggerSettings
from genretree.models.families.tagger.tag_tree import TagTree
from genretree.models.linear.hierarchical import LabelledRows
from genretree.models.linear.prior_correction import (
    PriorCorrection,
    TrackRows,
    choose_regularisation,
    predict_corrected_out_of_fold,
)
from genretree.models.pretrained.musicnn_features import load_network as load_musicnn
from genretree.models.pretrained.musicnn_features import load_networks
from genretree.models.pretrained.names import Weights
from genretree.taxonomy import Taxonomy
from genretree.vocabulary import Vocabulary


class TaggerFamily:
    """The genres that the tags of mn04 indicate, with a linear correction on its embeddings."""

    name: ClassVar[str] = "tagger"
    summary: ClassVar[str] = "genres by the tags of the audio tagger mn04, corrected on the training tracks"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[TaggerSettings]] = TaggerSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Run the network, and fit a correction of the probabilities by tags on the training and validation part.

        Regularisation is selected by cross-validation over groups within them.
        """
        tagger_settings: TaggerSettings = settings
        cached = tagger_settings.weights == Weights.CACHED
        network = load_network(None if cached else Path(tagger_settings.weights))
        tree = TagTree.of(Vocabulary.builtin().match(taxonomy), tagger_settings.floor, taxonomy)
        musicnn = _load_musicnn(tagger_settings) if tagger_settings.musicnn else None
        model = TaggerModel(tree, tagger_settings, lambda: network, musicnn=musicnn)
        parts = [train] if validation is None else [train, validation]
        labelled = LabelledRows.of(parts, tagger_settings.class_weight_power)
        further, widths = None, [EMBEDDING_DIM]
        with model.on_fastest_device():
            by_part = [extract_dataset(model, part, context.progress) for part in parts]
            if musicnn is not None:
                further = np.concatenate([musicnn.extract_dataset(part, context.progress) for part in parts])
                widths += musicnn.widths
        outputs = TaggerOutputs(*(np.concatenate(arrays) for arrays in zip(*by_part, strict=True)))
        features, prior = join_features(outputs, further), model.predict_by_tags(outputs)
        tracks = TrackRows.of(features, prior, labelled)
        seed, heads = tagger_settings.seed, tagger_settings.heads
        history, C = choose_regularisation(tracks, tagger_settings.Cs, widths, taxonomy, seed, context.progress)
        correction = PriorCorrection.fit(tracks, C, widths, taxonomy, heads)
        out_of_fold = predict_corrected_out_of_fold(features, prior, labelled, C, widths, taxonomy, heads, seed)
        metadata: dict[str, Any] = {"C": C, "parameters": correction.parameters}
        fitted = TaggerModel(tree, tagger_settings, lambda: network, None, correction, musicnn)
        return FitResult(fitted, history, metadata, out_of_fold)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load tags, network and classifier from a bundle."""
        tagger_settings: TaggerSettings = settings
        try:
            musicnn = None
            if tagger_settings.musicnn:
                networks = load_networks(tagger_settings.musicnn, folder)
                musicnn = MusicnnBlocks(networks, tagger_settings.patches)
            model = load_tagger(folder, None, taxonomy, tagger_settings, musicnn)
            model.torch_module()
        except (TrainingError, OSError, SafetensorError, RuntimeError) as error:
            raise BundleError(f"{folder}: can't load the weights ({error}); copy or make the bundle again") from error
        return model


def _load_musicnn(settings: TaggerSettings) -> MusicnnBlocks:
    networks = {name: load_musicnn(name, settings.musicnn_weights) for name in settings.musicnn}
    return MusicnnBlocks(networks, settings.patches)
