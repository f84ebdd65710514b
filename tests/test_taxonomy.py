from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genretree.errors import ArgumentError, TaxonomyError
from genretree.taxonomy import (
    UNSPECIFIED,
    NodePath,
    Taxonomy,
    display_level,
    display_name,
    display_path,
    display_text,
    drop_unspecified,
    is_same_branch,
    same_name,
)

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


def test_a_level_is_found_by_its_index_or_name(tree: Taxonomy) -> None:
    for index, name in enumerate(tree.levels):
        assert tree.nodes(name) == tree.nodes(index) == tree.nodes(np.int64(index)) == tree.nodes(index - tree.depth)
        assert tree.labels(name) == tree.labels(index)
    for level in (3, -4, 1.0, True, None):
        with pytest.raises(ArgumentError, match=r"^level must be"):
            tree.nodes(level)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=f"^level must be one of {', '.join(tree.levels)}, got 'genre'$"):
        tree.nodes("genre")


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
    assert tree.leaves[tree.find_leaf(("Opera", "Opera"))] == ("Classic", "Opera")
    with pytest.raises(TaxonomyError, match="not a leaf"):
        tree.find_leaf(("Classic", "Opera", "Symphony"))


def test_a_leaf_with_its_parents_name_is_found() -> None:
    tree = Taxonomy.from_nested({"Pop": {"Indie": ["Indie", "Dream pop"]}, "Jazz": None})
    assert tree.find_leaf("Pop/Indie/Indie") == 0


def test_a_full_path_has_precedence_over_the_end_of_another() -> None:
    tree = Taxonomy.from_nested({"Metal": ["Rock", "Doom"], "Rock": None})
    assert tree.leaves[tree.find_leaf("Rock")] == ("Rock",)
    assert tree.leaves[tree.find_leaf("Metal/Rock")] == ("Metal", "Rock")


@pytest.mark.parametrize(
    ("genre", "message"),
    [
        ("Soft_rok", "'Soft_rok' is not a leaf of the tree; did you mean 'Soft_rock'?"),
        ("Rock", "'Rock' is not a leaf of the tree; it has sub-genres, use one of them"),
        ("Polka", f"'Polka' is not a leaf of the tree; its leaves are: {', '.join(LEVEL_3)}"),
        (("Opera", "Rock"), "'Opera > Rock' is not a leaf of the tree; it has sub-genres, use one of them"),
        ("", "'' is not a leaf of the tree"),
    ],
)
def test_an_unknown_name_says_what_comes_near(tree: Taxonomy, genre: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(TaxonomyError) as caught:
        tree.find_leaf(genre)
    assert str(caught.value) == message


def test_a_name_under_two_parents_needs_its_path() -> None:
    tree = Taxonomy.from_nested({"Rock": ["Live", "Studio"], "Jazz": ["Live"]})
    assert tree.labels(1) == ("Rock > Live", "Studio", "Jazz > Live")
    assert tree.leaves[tree.find_leaf("Jazz/Live")] == ("Jazz", "Live")
    with pytest.raises(TaxonomyError, match="'Live' is ambiguous: 'Rock > Live', 'Jazz > Live'; use the path"):
        tree.find_leaf("Live")


def test_yaml_file_and_inferred_paths_agree(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text("Classic: [classical]\nNon_classic: [electronic, pop, rock]\n")
    read = Taxonomy.from_yaml(file)
    paths = [("Non_classic", "rock"), ("Classic", "classical"), ("Non_classic", "electronic"), ("Non_classic", "pop")]
    assert read == Taxonomy.from_paths(paths)
    assert Taxonomy.load(file) == read
    assert Taxonomy.from_json(read.to_json()) == read


def test_levels_are_named_in_the_file_or_by_the_caller(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text("levels: [Branch, Genre]\ntree:\n  Classic: [Opera]\n  Pop:\n")
    read = Taxonomy.from_yaml(file)
    assert read.levels == ("Branch", "Genre")
    assert read.leaves == (("Classic", "Opera"), ("Pop",))
    assert Taxonomy.from_paths([("Pop",), ("Classic", "Opera")], ["Branch", "Genre"]) == read
    assert Taxonomy.from_paths([("Pop",), ("Classic", "Opera")]).levels == ("level_1", "level_2")


def test_a_tree_is_loaded_from_a_file_of_any_name_or_built_in(tmp_path: Path) -> None:
    (tmp_path / "my tree").write_text("[a, b]")
    assert Taxonomy.load(tmp_path / "my tree").leaves == (("a",), ("b",))
    assert Taxonomy.load("ccmusic") == Taxonomy.builtin() == Taxonomy.builtin("ccmusic")
    for name in ("none.yaml", "none.yml", "none.JSON"):  # not taken for names of built-in trees
        with pytest.raises(TaxonomyError, match=f"{name}: cannot read the tree file"):
            Taxonomy.load(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"leaves": [["a"], ["b"]], "levels": "g"},
        {"leaves": ["a", "b"], "levels": ["g"]},
        {"leaves": "ab", "levels": ["g"]},
        {"leaves": None, "levels": None},
    ],
)
def test_what_is_not_a_saved_tree_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(TaxonomyError, match=r"not a saved genre tree: .*(lists of names|'leaves')"):
        Taxonomy.from_json(content)


def test_level_names_that_are_not_a_sequence_are_refused() -> None:
    with pytest.raises(ArgumentError, match="levels must be a sequence of names, got str"):
        Taxonomy.from_nested({"a": ["b", "c"]}, "xy")
    with pytest.raises(ArgumentError, match="levels must be a sequence of names, got int"):
        Taxonomy.from_nested(["a", "b"], 3)  # type: ignore[arg-type]


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
        ("a: [b>c, d]", "separate the levels"),
        ("a: [b, 3]", "3 below 'a' is neither a name, a list nor a mapping"),
        ("3", "3 below 'the root' is neither a name, a list nor a mapping"),
        ("[]", "the tree is empty"),
        ("a: [Big band, big_band]", "'a > Big band' and 'a > big_band' differ only in letter case"),
        ("{Rock: [a, b], rock: [c]}", "'Rock' and 'rock' differ only in letter case"),
        ("[z, {a: {b: {c: {d: [e]}}}}]", "'a > b > c > d > e' is 5 levels deep"),
        ("", "neither a name|empty"),
        ("a: [b", "not valid YAML"),
        ("[" * 500, "not valid YAML: nested too deeply"),
        ("{levels: 3, tree: [a, b]}", "levels must be a list of names, got 3"),
        ("{levels: xy, tree: {a: [b, c]}}", "levels must be a list of names, got 'xy'"),
        ("{levels: [x, 1], tree: {a: [b, c]}}", "1 is not a name"),
    ],
)
def test_a_malformed_tree_file_is_refused_and_named(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(TaxonomyError, match=problem) as caught:
        Taxonomy.from_yaml(file)
    assert "bad.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("leaves", "levels", "message"),
    [
        ([["Rock"], ["Rock", "Punk"]], "ab", "'Rock' is a leaf but has children; move its music into one of them"),
        ([["Rock", "Punk"], ["Rock", "Punk"]], "ab", "'Rock > Punk' is in the tree twice; remove one"),
        ([["Rock"], ["Pop"]], "ab", "2 level names for a tree of 1 levels"),
        ([["Rock", "Punk"], ["Pop"]], "aa", "level names must differ: ['a', 'a']"),
        ([["Rock"], ["x" * 201]], "a", f"the name '{'x' * 40}...' has 201 characters, more than 200"),
        ([["Rock"], ["\x1b[2J"]], "a", "contains control characters or invalid Unicode; remove them"),
        ([["Rock"], ["\ud800"]], "a", "contains control characters or invalid Unicode; remove them"),
    ],
)
def test_a_saved_tree_that_is_inconsistent_is_refused(leaves: list[list[str]], levels: str, message: str) -> None:
    with pytest.raises(TaxonomyError, match=re.escape(message)):
        Taxonomy.from_json({"leaves": leaves, "levels": list(levels)})
    assert Taxonomy.from_json({"leaves": [["x" * 200], ["Pop"]], "levels": ["a"]}).depth == 1


def test_music_beside_its_sub_genres_is_refused() -> None:
    with pytest.raises(TaxonomyError, match="'Rock' contains music but has sub-genres"):
        Taxonomy.from_paths([("Rock",), ("Rock", "Soft"), ("Pop",)])


def test_an_unknown_builtin_tree_lists_those_there_are() -> None:
    with pytest.raises(TaxonomyError, match=r"unknown built-in tree 'nothing'; available: .*\bccmusic\b"):
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
    ("text", "message"),
    [("Rock: [Metal]\nRock: [Punk]\n", r"'Rock' has two lines\n.*line 2"), ("a: &x [b, *x]\n", "references")],
)
def test_repeated_keys_and_references_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaxonomyError, match=message):
        Taxonomy.load(path)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("Rock",), ("Rock", "Punk"), True),
        (("Rock", "Punk"), ("Rock",), True),
        (("Rock", "Punk"), ("Rock", "Punk"), True),
        (("Rock", "Punk"), ("Rock", "Indie"), False),
        (("Pop",), ("Rock", "Punk"), False),
    ],
)
def test_an_ancestor_is_on_the_same_branch(one: NodePath, other: NodePath, expected: bool) -> None:
    assert is_same_branch(one, list(other)) == expected


def test_names_are_the_same_up_to_case_and_separators() -> None:
    assert same_name(("Rock", "Soft_rock"), ["ROCK", "soft-rock"])
    assert not same_name(("Rock", "Soft rock"), ("Rock", "Softrock"))
    assert not same_name(("Soft rock",), ("Rock", "Soft rock"))


def test_only_an_unspecified_leaf_is_dropped() -> None:
    assert drop_unspecified(("Rock", "Punk", UNSPECIFIED)) == ("Rock", "Punk")
    assert drop_unspecified(("Rock", "Punk")) == ("Rock", "Punk")
    assert drop_unspecified((UNSPECIFIED, "Punk", "Oi")) == (UNSPECIFIED, "Punk", "Oi")
    assert drop_unspecified(()) == ()


def test_names_are_displayed_as_people_write_them() -> None:
    names = {
        "Non_classic": "Non-classical",
        "classic_RNB_pop": "Classic R&B pop",
        "rnb": "R&B",
        "non_fiction": "Non-fiction",
        "NON music": "Non-music",
        "Canon_music": "Canon music",
        "": "",
    }
    assert {name: display_name(name) for name in names} == names
    assert display_path(("Non_classic", "Rock", "Soft_rock")) == "Non-classical > Rock > Soft rock"
    assert display_path(("Classic", "classical")) == "Classical"
    assert display_text("rock, Soft_rock or Classic; live") == "rock, Soft rock or Classical; live"


@pytest.mark.parametrize(
    ("name", "level", "depth", "expected"),
    [
        ("sound_family", 0, 2, "Sound family"),
        ("level_1", 0, 1, "Genre"),
        ("level 2", 1, 2, "Subgenre"),
        ("fst_level", 0, 3, "Branch"),
        ("thr_level_label", 2, 3, "Subgenre"),
        ("level-4", 3, 4, "Style"),
        ("level_3", 2, 2, "Level 3"),  # of a deeper tree
        ("level_2", 1, 5, "Level 2"),
    ],
)
def test_a_level_without_a_name_of_its_own_gets_one(name: str, level: int, depth: int, expected: str) -> None:
    assert display_level(name, level, depth) == expected
