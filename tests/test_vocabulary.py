"""The vocabulary: genre names are matched to concepts, and every tag counts towards one node."""

from __future__ import annotations

from pathlib import Path

import pytest

from genretree.errors import TaxonomyError
from genretree.taxonomy import UNSPECIFIED, Taxonomy
from genretree.vocabulary import TAGGERS, Vocabulary, describe_unreached, tag_names

VOCABULARY = Vocabulary.builtin()


def _tags(tree: Taxonomy) -> dict[tuple[str, ...], tuple[str, ...]]:
    return {node.node: node.tags.get("mn04", ()) for node in VOCABULARY.match(tree).nodes}


@pytest.mark.parametrize(
    ("name", "concepts"),
    [
        ("Hip-Hop", ("Hip hop",)),
        ("hiphop", ("Hip hop",)),
        ("Rap", ("Hip hop",)),
        ("R&B", ("R&B",)),
        ("Soul_or_RnB", ("Soul", "R&B")),
        ("Soul & R&B", ("Soul", "R&B")),
        ("Drum & Bass", ("Drum and bass",)),
        ("drum n bass", ("Drum and bass",)),
        ("DnB", ("Drum and bass",)),
        ("Rock Music", ("Rock",)),
        ("Música latina", ("Latin",)),
        ("Melodic death metal", ("Metal",)),
        ("Dance_and_house", ("Dance", "House")),
        ("Rock and roll", ("Rock and roll",)),  # not Rock, and roll
        ("Non_classic", ()),
        ("Non-Rock", ()),
        ("Spoken word", ()),
        ("Music", ()),
        ("&", ()),
    ],
)
def test_names_are_matched_to_concepts(name: str, concepts: tuple[str, ...]) -> None:
    assert VOCABULARY.find(name) == concepts


def test_every_concept_and_synonym_is_unambiguous() -> None:
    for concept in VOCABULARY.concepts.values():
        assert VOCABULARY.find(concept.name) == (concept.name,)
        for name in concept.also:
            assert VOCABULARY.find(name) == (concept.name,), name


def test_a_tag_belongs_to_one_concept() -> None:
    for tagger in TAGGERS:
        tags = [tag for concept in VOCABULARY.concepts.values() for tag in concept.tags.get(tagger, ())]
        assert len(tags) == len(set(tags))
        assert set(tags) <= set(tag_names(tagger))
    assert [len(tag_names(tagger)) for tagger in TAGGERS] == [527, 50, 50]


def test_tags_count_towards_the_most_specific_node() -> None:
    flat = _tags(Taxonomy.from_nested(["Rock", "Pop"]))
    assert {"Rock music", "Heavy metal", "Punk rock"} <= set(flat["Rock",])
    assert {"Pop music", "Soul music", "Rhythm and blues"} == set(flat["Pop",])  # the nearest genre of this tree
    deep = _tags(Taxonomy.from_nested({"Rock": ["Metal", "Soft rock"], "Soul": None, "Pop": None}))
    assert deep["Rock", "Metal"] == ("Heavy metal",)
    assert "Heavy metal" not in deep["Rock",]
    assert deep["Pop",] == ("Pop music",)
    assert deep["Soul",] == ("Soul music", "Rhythm and blues")


def test_a_path_stops_above_what_no_tag_reaches() -> None:
    match = VOCABULARY.match(Taxonomy.from_nested({"Rock": ["Thrash metal", "Death metal", "Indie"], "Talk": None}))
    # The tags don't distinguish two kinds of metal: the tag counts towards the branch that has both.
    assert match.taxonomy.leaves == (("Rock", UNSPECIFIED), ("Rock", "Indie"))
    assert match.unreached == (("Rock", "Thrash metal"), ("Rock", "Death metal"), ("Talk",))
    assert describe_unreached(match) == (
        "no tag indicates Rock > Thrash metal, Rock > Death metal, Talk, or tells it from others; paths stop above"
    )


def test_a_name_in_two_branches_is_reached_in_both() -> None:
    tree = Taxonomy.from_nested({"Rock": ["Ska", "Metal"], "Reggae": ["Ska", "Polka"]})
    assert _tags(tree)["Rock", "Ska"] == _tags(tree)["Reggae", "Ska"] == ("Ska",)
    assert _tags(tree)["Reggae",] == ("Reggae",)


@pytest.mark.parametrize("name", ["ccmusic", "general"])
def test_built_in_trees_are_reached(name: str) -> None:
    tree = Taxonomy.builtin(name)
    match = VOCABULARY.match(tree)
    top = {node[0] for node in tree.leaves}
    assert {leaf[0] for leaf in match.taxonomy.leaves} == top
    if name == "general":
        assert not match.unreached
        assert set(tree.leaves) <= set(match.taxonomy.leaves)
    else:
        assert ("Classic", "Opera") in match.taxonomy.leaves
        assert {"Techno", "House music"} <= set(_tags(tree)["Non_classic", "Dance_and_house"])


def test_a_tree_with_less_than_two_known_names_is_shown_but_not_predicted() -> None:
    for names, message in ((["Aa", "Bb"], "indicate none of its genres"), (["Rock", "Bb"], "indicate only Rock")):
        match = VOCABULARY.match(Taxonomy.from_nested(names))
        assert ("Bb",) in match.unreached
        with pytest.raises(TaxonomyError, match=message):
            _ = match.taxonomy


def test_a_vocabulary_file_adds_names_and_concepts(tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(
        "Metal:\n  also: [blech]\nYodel:\n  mn04: [Yodeling]\nWorld:\n  narrower:\n    Throat singing:\n"
        "      hints: [Mantra]\n",
        encoding="utf-8",
    )
    more = Vocabulary.load(path)
    assert more.find("Blech") == ("Metal",)
    assert more.find("heavy metal") == ("Metal",)
    match = more.match(Taxonomy.from_nested(["Yodel", "Blech"]))
    assert [node.tags["mn04"] for node in match.nodes] == [("Yodeling",), ("Heavy metal",)]
    assert more.concepts["Throat singing"].broader == "World"
    assert VOCABULARY.find("Blech") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Rock:\n  mn04: [Rok music]\n", "no tag 'Rok music'; did you mean 'Rock music'"),
        ("Rock:\n  alsoo: [x]\n", "unknown field 'alsoo'"),
        ("Rock: 3\n", "must be a concept's name with fields"),
        ("- Rock\n", "must be a mapping"),
        ("Rock:\n  also: punk\n", "also must be a list"),
        ("New:\n  nearest: [Nothing]\n", "nearest names no concept"),
        ("a: [\n", "not valid YAML"),
        ("a: {}\na: {}\n", "'a' has two lines"),
        ("a: &x {narrower: *x}\n", "not valid YAML"),
        ("Metal:\n  also: [1980]\n", "quote it"),
        ("Metal:\n  narrower: [Doom]\n", "'Metal': concepts must be a mapping"),
    ],
)
def test_bad_vocabulary_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaxonomyError, match=message):
        Vocabulary.load(path)
    with pytest.raises(TaxonomyError, match="cannot read"):
        Vocabulary.load(tmp_path / "none.yaml")


def test_a_second_name_for_a_genre_is_called_a_synonym() -> None:
    match = VOCABULARY.match(Taxonomy.from_nested(["Hip hop", "Rap", "Talk"]))
    synonyms = {node.node: match.synonym(node) for node in match.nodes}
    assert synonyms == {("Hip hop",): (), ("Rap",): ("Hip hop",), ("Talk",): ()}
    with pytest.raises(TaxonomyError, match=r"only Hip hop in this tree.*Rap means the same as Hip hop"):
        _ = match.taxonomy


def test_empty_files_and_folders_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(TaxonomyError, match="the file is empty"):
        Vocabulary.load(tmp_path / "empty.yaml")
    with pytest.raises(TaxonomyError, match="the file is empty"):
        Taxonomy.load(tmp_path / "empty.yaml")
    with pytest.raises(TaxonomyError, match="a folder, not a tree file"):
        Taxonomy.load(tmp_path)
