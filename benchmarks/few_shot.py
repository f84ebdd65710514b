r"""Learning curves on held-out artists: 1, 2, 5, 10 and 20 training tracks a genre, and all.

    genretree weights get mn04; genretree weights get musicnn
    python benchmarks/few_shot.py FOLDER --tree TREE.yaml --out DIR [--seeds 0 1 2] [--merge pop rock] \
        [--learners untrained tagger tagger-ours no-tags linear musicnn-ours] [--table]

FOLDER has `tracks.csv` (path, genre, artist). Each seed makes five folds without common artists; the training tracks of
a fold are sampled from the other four. Every track is tested once for each seed. Everything that is selected is
selected within the training tracks. Learners:

- untrained: the tags of mn04 alone;
- tagger: the family's default settings; tagger-ours: the recipe, with MusiCNN's outputs as well;
- no-tags: as tagger-ours, but from equal probabilities instead of the tags';
- linear: multinomial logistic regression on mn04's embeddings, with cross-validated regularisation;
- musicnn-ours: the recipe;
- product: the normalised geometric mean of the tracks' probabilities by tagger-ours and musicnn-ours, with equal
  weights, from their saved results (the recipe ensemble-tagger selects the weights by cross-validation).

Intervals (95 %) are for new artists. The second table has only the artists that were not used to design the
tagger's learner: a third of the artists of Emotify was (`--development-seed` samples it again). Results are saved for
each learner, size and seed; a repeated command continues, and `--table` prints the tables of what is there.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.splits import fold_groups
from genretree.corpus.store import Store
from genretree.files import atomic_path
from genretree.metrics.calibration import average_by
from genretree.metrics.intervals import accuracy_interval
from genretree.models.base import SliceDataset
from genretree.models.families.musicnn.family import MusicnnSettings
from genretree.models.families.tagger.model import TaggerModel, extract_dataset, load_network
from genretree.models.families.tagger.settings import TaggerSettings
from genretree.models.families.tagger.tag_tree import TagTree
from genretree.models.linear.hierarchical import LabelledRows, LinearTree, choose_features
from genretree.models.linear.prior_correction import PriorCorrection, TrackRows, choose_regularisation
from genretree.models.pretrained.musicnn_features import IMAGES, extract_dataset_features
from genretree.models.pretrained.musicnn_features import load_network as load_musicnn
from genretree.taxonomy import Taxonomy
from genretree.training.data import slice_dataset_of
from genretree.training.recipes import Recipe
from genretree.vocabulary import Vocabulary

SIZES: tuple[int | None, ...] = (1, 2, 5, 10, 20, None)
LEARNERS = ("untrained", "tagger", "tagger-ours", "no-tags", "linear", "musicnn-ours", "product")
MEMBERS = ("tagger-ours", "musicnn-ours")  # of the learner `product`
Learner = Callable[[np.ndarray, np.ndarray], np.ndarray]  # training and test slices to leaf probabilities


def build_learners(store: Store, data: SliceDataset, names: list[str]) -> dict[str, Learner]:
    """Compute the features of all slices, and return the learners, which use the families' own functions."""
    tree = store.taxonomy
    settings = TaggerSettings()
    tags = TagTree.of(Vocabulary.builtin().match(tree), settings.floor, tree)
    network = load_network()
    tagger = TaggerModel(tags, settings, lambda: network)
    outputs = extract_dataset(tagger, data, progress=True)
    prior, embedding = tagger.predict_by_tags(outputs), outputs.embedding
    musicnn: dict[str, np.ndarray] = {}
    if {"tagger-ours", "no-tags", "musicnn-ours"} & set(names):
        musicnn = extract_dataset_features(data, {"msd": load_musicnn("msd")}, 4, images=True, progress=True)

    def labels(rows: np.ndarray) -> LabelledRows:
        return LabelledRows.of([data.select(rows)])

    def tagger_learner(blocks: list[np.ndarray], Cs: tuple[float, ...], prior: np.ndarray = prior) -> Learner:
        features, widths = np.concatenate(blocks, axis=1), [block.shape[1] for block in blocks]

        def learn(train: np.ndarray, test: np.ndarray) -> np.ndarray:
            tracks = TrackRows.of(features[train], prior[train], labels(train))
            C = choose_regularisation(tracks, Cs, widths, tree, 0, False)[1]
            fitted = PriorCorrection.fit(tracks, C, widths, tree, "tree")
            return fitted.predict(features[test], prior[test])[-1]

        return learn

    def linear_learner(candidates: list[list[np.ndarray]], Cs: tuple[float, ...]) -> Learner:
        def learn(train: np.ndarray, test: np.ndarray) -> np.ndarray:
            labelled = labels(train)
            cut = [[block[train] for block in blocks] for blocks in candidates]
            _, best, C = choose_features(cut, Cs, labelled, len(tree.leaves), 0, False)
            fitted = LinearTree.fit(cut[best], labelled, C, tree, "tree")
            return fitted.predict([block[test] for block in candidates[best]])[-1]

        return learn

    learners: dict[str, Learner] = {"untrained": lambda train, test: prior[test]}
    learners["tagger"] = tagger_learner([embedding], settings.Cs)
    recipe_Cs = MusicnnSettings().Cs
    learners["linear"] = linear_learner([[embedding]], recipe_Cs)
    if musicnn:
        ours = TaggerSettings.build(Recipe.load("tagger-ours").settings)
        layers = [musicnn["msd/tags"], musicnn["msd/penultimate"]]
        assert ours.musicnn == ("msd",)
        learners["tagger-ours"] = tagger_learner([embedding, *layers], ours.Cs)
        uniform = np.full_like(prior, 1 / prior.shape[1])
        learners["no-tags"] = tagger_learner([embedding, *layers], ours.Cs, uniform)
        recipe = MusicnnSettings.build(Recipe.load("musicnn-ours").settings)
        blocks = [[musicnn[name if name == IMAGES else f"msd/{name}"] for name in names] for names in recipe.layers]
        learners["musicnn-ours"] = linear_learner(blocks, recipe.Cs)
    return {name: learners[name] for name in names if name != "product"}


def sample_tracks(pool: np.ndarray, leaves: np.ndarray, size: int | None, rng: np.random.Generator) -> np.ndarray:
    """Sample up to `size` tracks of each leaf; all if it is None."""
    if size is None:
        return pool
    return np.concatenate([rng.permutation(pool[leaves[pool] == leaf])[:size] for leaf in np.unique(leaves)])


def measure(store: Store, data: SliceDataset, learn: Learner, size: int | None, seed: int) -> np.ndarray:
    """Predict every track with a model trained on tracks of other artists: shape (n_tracks, n_leaves)."""
    leaves, groups = store.track_leaves, store.track_groups
    found = np.full((store.n_tracks, len(store.taxonomy.leaves)), np.nan)
    for number, split in enumerate(fold_groups(leaves, groups, folds=5, seed=seed, name=f"cv{seed}")):
        test_tracks = np.unique(store.slice_tracks[store.rows("test", split)])
        pool = np.flatnonzero(~np.isin(groups, groups[test_tracks]))
        chosen = sample_tracks(pool, leaves, size, np.random.default_rng([seed, number, size or 0]))
        train, test = (np.flatnonzero(np.isin(data.tracks, tracks)) for tracks in (chosen, test_tracks))
        position = np.unique(data.tracks[test], return_inverse=True)[1]
        found[test_tracks] = average_by(learn(train, test), position, len(test_tracks))
    return found


def mark(store: Store, leaves: np.ndarray, merged: list[int]) -> np.ndarray:
    """Mark the tracks that are right at the leaves, at the first level, and with leaves merged: (3, n_tracks)."""
    tree, truth = store.taxonomy, store.track_leaves
    chosen = tree.decode(tree.sum_levels(leaves))
    kept = np.array([merged[0] if leaf in merged else leaf for leaf in range(len(tree.leaves))])
    summed = np.zeros_like(leaves)
    np.add.at(summed.T, kept, leaves.T)
    return np.array(
        [
            chosen == truth,
            tree.ancestors[chosen, 0] == tree.ancestors[truth, 0],
            summed.argmax(axis=1) == kept[truth],
        ],
        dtype=float,
    )


def sample_development_artists(store: Store, seed: int) -> np.ndarray:
    """Sample the third of the artists that were used to design the learner, by main genre: bool, shape (n_tracks,)."""
    rng = np.random.default_rng(seed)
    artists, groups = np.unique(np.array(store.tracks["artist"]), return_inverse=True)
    n_leaves = len(store.taxonomy.leaves)
    main = [np.bincount(store.track_leaves[groups == a], minlength=n_leaves).argmax() for a in range(len(artists))]
    chosen: list[int] = []
    for leaf in range(n_leaves):
        of_leaf = rng.permutation(np.flatnonzero(np.array(main) == leaf))
        chosen += list(of_leaf[: round(len(of_leaf) / 3)])
    return np.isin(groups, chosen)


def print_table(store: Store, given: argparse.Namespace, tracks: np.ndarray, title: str) -> None:
    """Print accuracies of the leaves, the first level and with merged leaves, by learner and size."""
    merged = [store.taxonomy.find_leaf(leaf) for leaf in given.merge] or [0]
    print(f"\n{title}: {tracks.sum()} tracks by {len(np.unique(store.track_groups[tracks]))} artists\n")
    print(
        "| learner | " + " | ".join(str(size or "all") for size in SIZES) + " | all, interval of the leaves | seeds |"
    )
    print("| --- " * (len(SIZES) + 3) + "|")
    for name in given.learners:
        cells, interval, seeds = [], "", 0
        for size in SIZES:
            results = [found for seed in given.seeds if (found := load_result(given.out, name, size, seed)) is not None]
            if not results:
                cells.append("")
                continue
            marks = np.mean([mark(store, found, merged) for found in results], axis=0)[:, tracks]
            cells.append(" / ".join(f"{100 * value:.1f}" for value in marks.mean(axis=1)))
            if size is None:
                low, high = accuracy_interval(marks[0], store.track_groups[tracks])
                interval, seeds = f"{100 * low:.1f} to {100 * high:.1f}", len(results)
        print(f"| {name} | " + " | ".join([*cells, interval, str(seeds)]) + " |")


def print_losses(store: Store, given: argparse.Namespace) -> None:
    """Print the mean log loss of the leaves over all tracks, by learner and size."""
    print("\nLog loss of the leaves, all artists\n")
    print("| learner | " + " | ".join(str(size or "all") for size in SIZES) + " |")
    print("| --- " * (len(SIZES) + 1) + "|")
    indices = np.arange(store.n_tracks)
    for name in given.learners:
        cells = []
        for size in SIZES:
            results = [found for seed in given.seeds if (found := load_result(given.out, name, size, seed)) is not None]
            true = [np.maximum(found[indices, store.track_leaves], 1e-9) for found in results]
            cells.append(f"{-np.log(true).mean():.2f}" if true else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def load_result(out: Path, name: str, size: int | None, seed: int) -> np.ndarray | None:
    """Load the saved leaf probabilities of all tracks, (n_tracks, n_leaves); None if they are not there."""
    names = MEMBERS if name == "product" else (name,)
    paths = [_path(out, member, size, seed) for member in names]
    if not all(path.exists() for path in paths):
        return None
    mean: np.ndarray = np.exp(np.mean([np.log(np.maximum(np.load(path), 1e-9)) for path in paths], axis=0))
    normalised: np.ndarray = mean / mean.sum(axis=1, keepdims=True)
    return normalised


def _path(out: Path, name: str, size: int | None, seed: int) -> Path:
    return out / f"{name}-{size or 'all'}-{seed}.npy"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="has tracks.csv and the audio")
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="gets the store and the results")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[], help="only these; 0: all tracks")
    parser.add_argument("--merge", nargs="*", default=[], metavar="LEAF")
    parser.add_argument("--development-seed", type=int, default=20261127)
    parser.add_argument("--table", action="store_true", help="train nothing; print the results that are there")
    given = parser.parse_args()
    folder = given.out / "store"
    manifest = read_manifest(given.folder / "tracks.csv", Taxonomy.load(given.tree), group="artist")
    store = prepare(manifest, folder, features=["mel_16k", "mel_32k"], progress=True)
    if not given.table:
        data = slice_dataset_of(store, np.arange(len(store.slice_tracks)))
        learners = build_learners(store, data, given.learners)
        for seed in given.seeds:
            for size in (size for size in SIZES if not given.sizes or (size or 0) in given.sizes):
                for name, learn in learners.items():
                    path = _path(given.out, name, size, seed)
                    if path.exists():
                        continue
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        found = measure(store, data, learn, size, seed)
                    with atomic_path(path) as temporary, temporary.open("wb") as stream:
                        np.save(stream, found)
                    accuracy = mark(store, found, [0])[0].mean()
                    print(f"{name}, {size or 'all'} tracks a genre, seed {seed}: {100 * accuracy:.1f}", flush=True)
    print_table(store, given, np.ones(store.n_tracks, bool), "All artists")
    development = sample_development_artists(store, given.development_seed)
    print_table(store, given, ~development, "Artists that were not used to design the learner")
    print_losses(store, given)


if __name__ == "__main__":
    main()
