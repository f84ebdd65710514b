"""Family `tagger`: a linear classifier on the audio tagger mn04, and on its tags for the genres of the tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genretree.errors import BundleError, TaxonomyError, TrainingError
from genretree.models.base import FitContext, FitResult, Model, SliceDataset
from genretree.models.families.tagger.model import (
    TaggerModel,
    TaggerOutputs,
    extract_dataset,
    feature_blocks,
    load_network,
    load_tagger,
)
from genretree.models.families.tagger.settings import TaggerSettings
from genretree.models.families.tagger.tag_tree import TagTree
from genretree.models.linear.hierarchical import (
    LabelledRows,
    LinearTree,
    choose_features,
    predict_out_of_fold_levels,
)
from genretree.models.pretrained.names import Weights
from genretree.taxonomy import Taxonomy
from genretree.vocabulary import Vocabulary


class TaggerFamily:
    """Linear classifiers on the outputs of mn04, and on what its tags say about the genres of the tree."""

    name: ClassVar[str] = "tagger"
    summary: ClassVar[str] = "linear classifier on the audio tagger mn04 and its tags for the genres"
    distributed: ClassVar[bool] = False
    settings_type: ClassVar[type[TaggerSettings]] = TaggerSettings

    @staticmethod
    def fit(
        train: SliceDataset, validation: SliceDataset | None, taxonomy: Taxonomy, settings: Any, context: FitContext
    ) -> FitResult:
        """Run the network, and fit a linear classifier on the training and validation part.

        Regularisation is selected by cross-validation over groups within them.
        """
        tagger_settings: TaggerSettings = settings
        cached = tagger_settings.weights == Weights.CACHED
        network = load_network(None if cached else Path(tagger_settings.weights))
        try:
            match = Vocabulary.builtin().match(taxonomy)
            tree = TagTree.of(match, tagger_settings.floor, taxonomy)
        except TaxonomyError:  # no tag indicates any genre
            tree = TagTree(taxonomy, {}, tagger_settings.floor)
        model = TaggerModel(tree, tagger_settings, lambda: network)
        parts = [train] if validation is None else [train, validation]
        labelled = LabelledRows.of(parts, tagger_settings.class_weight_power)
        by_part = [extract_dataset(model, part, context.progress) for part in parts]
        outputs = TaggerOutputs(*(np.concatenate(arrays) for arrays in zip(*by_part, strict=True)))
        blocks = feature_blocks(outputs, tree)
        Cs, seed, heads = tagger_settings.Cs, tagger_settings.seed, tagger_settings.heads
        history, _, C = choose_features([blocks], Cs, labelled, len(taxonomy.leaves), seed, context.progress)
        linear = LinearTree.fit(blocks, labelled, C, taxonomy, heads)
        out_of_fold = predict_out_of_fold_levels(blocks, labelled, C, taxonomy, heads, seed)
        metadata: dict[str, Any] = {"strength": C, "parameters": linear.parameters}
        fitted = TaggerModel(tree, tagger_settings, lambda: network, None, linear)
        return FitResult(fitted, history, metadata, out_of_fold)

    @staticmethod
    def load(folder: Path, taxonomy: Taxonomy, settings: Any) -> Model:
        """Load tags, network and classifier from a bundle."""
        model = load_tagger(folder, None, taxonomy, settings)
        try:
            model.torch_module()
        except TrainingError as error:
            raise BundleError(f"{folder}: can't load the weights ({error}); copy or make the bundle again") from error
        return model
