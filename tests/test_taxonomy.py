from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genretree.errors import TaxonomyError
from genretree.taxonomy import Taxonomy

# Index order as published on the data set's card.
LEVEL_2 = ["Symphony", "Opera", "Solo", "Chamber", "Pop", "Dance_and_house", "Indie", "Soul_or_RnB", "Rock"]
LEVEL_3 = [
    "Symphony",
    "Opera",
    "Solo",
    "Chamber",
    "Pop_vocal_ballad",
    "Adult_contemporary",
    "Teen_pop",
    "Contemporary_dance_pop",
    "Dance_pop",
    "Classic_indie_pop",
    "Chamber_cabaret_and_art_pop",
    "Soul_or_RnB",
    "Adult_alternative_rock",
    "Uplifting_anthemic_rock",
    "Soft_rock",
    "Acoustic_pop",
]


@pytest.fixture
def tree() -> Taxonomy:
    return Taxonomy.builtin("ccmusic")


def test_ccmusic_has_the_published_names_in_the_published_order(tree: Taxonomy) -> None:
    assert tree.labels(0) == ("Classic", "Non_classic")
    assert list(tree.labels(1)) == LEVEL_2
    assert list(tree.labels(2)) == LEVEL_3


def test_a_short_leaf_stands_for_itself_at_deeper_levels(tree: Taxonomy) -> None:
    opera = tree.find_leaf("Opera")
    assert tree.leaves[opera] == ("Classic", "Opera")
    assert [tree.labels(level)[tree.ancestors[opera, level]] for level in range(3)] == ["Classic", "Opera", "Opera"]


@pytest.mark.parametrize(
    "genre",
    [
        "Soft_rock",
        "soft rock",
        "SOFT-ROCK",
        "Non_classic/Rock/Soft_rock",
        "Non_classic > Rock > Soft_rock",
        ("Rock", "Soft_rock"),
    ],
)
def test_a_leaf_is_found_by_name_or_path(tree: Taxonomy, genre: str | tuple[str, ...]) -> None:
    assert tree.leaves[tree.find_leaf(genre)] == ("Non_classic", "Rock", "Soft_rock")


def test_a_short_leaf_written_out_for_every_level_is_found(tree: Taxonomy) -> None:
    assert tree.leaves[tree.find_leaf(("Classic", "Opera", "Opera"))] == ("Classic", "Opera")


@pytest.mark.parametrize(
    ("genre", "hint"),
    [("Soft_rok", "did you mean 'Soft_rock'"), ("Rock", "sub-genres"), ("Polka", "its leaves are"), ("", "not a leaf")],
)
def test_an_unknown_name_says_what_comes_near(tree: Taxonomy, genre: str, hint: str) -> None:
    with pytest.raises(TaxonomyError, match=hint):
        tree.find_leaf(genre)


def test_a_name_under_two_parents_needs_its_path() -> None:
    tree = Taxonomy.from_nested({"Rock": ["Live", "Studio"], "Jazz": ["Live"]})
    assert tree.labels(1) == ("Rock > Live", "Studio", "Jazz > Live")
    assert tree.leaves[tree.find_leaf("Jazz/Live")] == ("Jazz", "Live")
    with pytest.raises(TaxonomyError, match="is ambiguous"):
        tree.find_leaf("Live")


def test_yaml_file_and_inferred_paths_agree(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text("Classic: [classical]\nNon_classic: [electronic, pop, rock]\n")
    read = Taxonomy.from_yaml(file)
    paths = [("Non_classic", "rock"), ("Classic", "classical"), ("Non_classic", "electronic"), ("Non_classic", "pop")]
    assert read == Taxonomy.from_paths(paths)
    assert Taxonomy.load(file) == read
    assert Taxonomy.from_json(read.to_json()) == read


def test_one_to_four_levels_with_leaves_at_different_depths() -> None:
    flat = Taxonomy.from_nested(["a", "b"])
    assert flat.depth == 1
    deep = Taxonomy.from_nested({"a": {"b": {"c": ["d", "e"]}}, "f": None})
    assert deep.depth == 4
    assert deep.labels(3) == ("d", "e", "f")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: {b: {c: {d: [e, f]}}}", "at most 4"),
        ("[a]", "at least 2"),
        ("a: [b, b]", "twice"),
        ("a: [1, 2]", "neither a name|not a genre name"),
        ("{yes: [b, c]}", "quote it"),
        ("a: [b/c, d]", "separate the levels"),
        ("a: [Big band, big_band]", "differ only in letter case"),
        ("", "neither a name|empty"),
        ("a: [b", "not valid YAML"),
    ],
)
def test_a_malformed_tree_file_is_refused_and_named(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(TaxonomyError, match=problem) as caught:
        Taxonomy.from_yaml(file)
    assert "bad.yaml" in str(caught.value)


def test_music_beside_its_sub_genres_is_refused() -> None:
    with pytest.raises(TaxonomyError, match="sub-genres"):
        Taxonomy.from_paths([("Rock",), ("Rock", "Soft"), ("Pop",)])


def test_an_unknown_builtin_tree_lists_those_there_are() -> None:
    with pytest.raises(TaxonomyError, match="ccmusic"):
        Taxonomy.load("nothing")


@given(arrays(np.float64, (5, 16), elements=st.floats(0.001, 1)))
def test_levels_are_distributions_and_parents_sum_their_children(scores: np.ndarray) -> None:
    tree = Taxonomy.builtin("ccmusic")
    leaves = scores / scores.sum(axis=1, keepdims=True)
    levels = tree.sum_levels(leaves)
    for probabilities in levels:
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(levels[1][:, 8], leaves[:, 12:16].sum(axis=1))  # Rock
    np.testing.assert_allclose(levels[0][:, 0], leaves[:, :4].sum(axis=1))  # Classic


def test_a_decoded_path_never_contradicts_itself_where_the_best_of_each_level_would() -> None:
    tree = Taxonomy.from_nested({"a": ["a1", "a2", "a3"], "b": ["b1"]})
    leaves = np.array([[0.2, 0.2, 0.2, 0.4]])  # level 1 says a (0.6), level 2 alone would say b1 (0.4)
    levels = tree.sum_levels(leaves)
    assert levels[0].argmax() == 0
    assert levels[1].argmax() == 3
    chosen = tree.decode(levels)[0]
    # b1 gains 0.4 + 0.4, a1 gains 0.6 + 0.2: equal sums, and either is a path of the tree.
    assert tree.leaves[chosen] in tree.leaves
    clear = tree.decode(tree.sum_levels(np.array([[0.25, 0.2, 0.2, 0.35]])))[0]
    assert tree.leaves[clear] == ("a", "a1")


@pytest.mark.parametrize(
    ("text", "message"), [("Rock: [Metal]\nRock: [Punk]\n", "two lines"), ("a: &x [b, *x]\n", "references")]
)
def test_repeated_keys_and_references_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaxonomyError, match=message):
        Taxonomy.load(path)
