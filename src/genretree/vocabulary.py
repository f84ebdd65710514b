"""The vocabulary of genres: which tags of a pretrained tagger indicate which nodes of any genre tree.

It is data, `tags/vocabulary.yaml`: concepts with the names that people give them and the tags that indicate them. The
nodes of a tree are matched to concepts by name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import yaml

from genretree.checks import did_you_mean, require_path
from genretree.errors import TaxonomyError
from genretree.taxonomy import UNSPECIFIED, NodePath, Taxonomy, format_path, load_yaml

Tagger = Literal["mn04", "msd", "mtt"]
TAGGERS: tuple[Tagger, ...] = get_args(Tagger)
Tags: TypeAlias = Mapping[Tagger, tuple[str, ...]]

_JOINED = re.compile(r"\s*(?:[&,+]|\band\b|\bor\b|\bund\b|\bet\b|\by\b)\s*", re.IGNORECASE)
_RNB = re.compile(r"\br\s?&\s?b\b", re.IGNORECASE)  # "R&B" has no parts
_NEGATIONS = {"non", "not", "no", "other", "anti", "misc"}
_FIELDS = {"also", "hints", "nearest", "narrower", *TAGGERS}
_MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A genre concept.

    Parameters
    ----------
    name : str
    also : tuple of str
        Further names.
    tags : mapping of tagger to tuple of str
        Tags that indicate the concept.
    hints : tuple of str
        Tags of mn04 that only distinguish it from its siblings.
    broader : str, optional
        The concept above it.
    nearest : tuple of str
        Concepts that its tags count towards in a tree that has neither this concept nor a broader one: the first that
        the tree has.
    """

    name: str
    also: tuple[str, ...] = ()
    tags: Tags = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    broader: str | None = None
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeMatch:
    """The concepts and tags of one node of a tree.

    Parameters
    ----------
    node : tuple of str
        Path of the node.
    concepts : tuple of str
        Concepts that its name matches.
    tags : mapping of tagger to tuple of str
        Tags that count towards the node and not towards one below it.
    hints : tuple of str
        Tags of mn04 that only distinguish the node from its siblings.
    reached : bool
        Whether any tag indicates the node or a node below it.
    """

    node: NodePath
    concepts: tuple[str, ...]
    tags: Tags
    hints: tuple[str, ...]
    reached: bool


@dataclass(frozen=True, kw_only=True)
class VocabularyMatch:
    """The match of a vocabulary with a tree.

    Parameters
    ----------
    leaves : tuple of tuple of str
        Leaves of the part of the tree that tags reach. Where they don't reach all children of a node, and where tags
        indicate the node itself, it has a further leaf `UNSPECIFIED`, at which a path stops.
    levels : tuple of str
        Names of the levels of the whole tree.
    nodes : tuple of NodeMatch
        All nodes of the whole tree, each before those below it.
    """

    leaves: tuple[NodePath, ...]
    levels: tuple[str, ...]
    nodes: tuple[NodeMatch, ...]

    @property
    def taxonomy(self) -> Taxonomy:
        """The part of the tree that tags reach.

        Raises
        ------
        TaxonomyError
            If that are fewer than two genres.
        """
        if len(self.leaves) < 2:
            found = f"only {format_path(self.leaves[0])}" if self.leaves else "none of its genres"
            same = [
                f"{format_path(node.node)} means the same as {format_path(other)}; "
                for node in self.nodes
                if (other := self.synonym(node))
            ]
            raise TaxonomyError(
                f"tags indicate {found} in this tree, and at least 2 genres are needed; {''.join(same[:2])}use common "
                "English names, or add names to a vocabulary file"
            )
        return Taxonomy(self.leaves, self.levels[: max(map(len, self.leaves))])

    def synonym(self, node: NodeMatch) -> NodePath:
        """Return a node that means the same as a node that no tag indicates; empty if there is none."""
        if node.reached:
            return ()
        return next((other.node for other in self.nodes if other.reached and {*other.concepts} & {*node.concepts}), ())

    @property
    def unreached(self) -> tuple[NodePath, ...]:
        """Nodes that no tag indicates."""
        return tuple(match.node for match in self.nodes if not match.reached)


class Vocabulary:
    """Concepts by name.

    Parameters
    ----------
    concepts : iterable of Concept

    Examples
    --------
    >>> from genretree.taxonomy import Taxonomy
    >>> from genretree.vocabulary import Vocabulary
    >>> tree = Taxonomy.from_nested({"Rock": ["Metal", "Polka rock"], "Hip-Hop": None})
    >>> match = Vocabulary.builtin().match(tree)
    >>> [node.concepts for node in match.nodes]
    [('Rock',), ('Metal',), (), ('Hip hop',)]
    >>> match.unreached
    (('Rock', 'Polka rock'),)
    """

    def __init__(self, concepts: Mapping[str, Concept]) -> None:
        self.concepts = dict(concepts)
        self._by_name: dict[str, str] = {}
        for concept in self.concepts.values():
            for name in concept.also:
                self._by_name.setdefault(_fold(name), concept.name)
        self._by_name |= {_fold(name): name for name in self.concepts}

    @classmethod
    @lru_cache(maxsize=1)
    def builtin(cls) -> Vocabulary:
        """Load the vocabulary that is included in the package."""
        text = (resources.files("genretree") / "tags" / "vocabulary.yaml").read_text(encoding="utf-8")
        return cls(_read_concepts(text, "vocabulary.yaml", {}))

    @classmethod
    def load(cls, path: str | Path | None = None) -> Vocabulary:
        """Load the built-in vocabulary, and add the concepts, names and tags of a YAML file of the same form.

        Parameters
        ----------
        path : path, optional
            A concept of the same name is extended: names and tags are added to it.

        Raises
        ------
        TaxonomyError
            If the file can't be read, or names an unknown tag or field; the message suggests a similar one.
        """
        if path is None:
            return cls.builtin()
        path = require_path("path", path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaxonomyError(f"{path}: cannot read the vocabulary ({error})") from error
        return cls(_read_concepts(text, str(path), cls.builtin().concepts))

    def find(self, name: str) -> tuple[str, ...]:
        """Return the concepts that a genre name matches: the whole name, its parts ("Soul & R&B"), or its ending.

        Letter case, accents, spaces, punctuation and the word "music" are ignored.
        """
        return self._find(name)[1]

    def _find(self, name: str) -> tuple[int, tuple[str, ...]]:
        """Return how a name matches, from 0 for a concept's own name to 3 for an ending, and the concepts."""
        whole = self._by_name.get(_fold(name))
        if whole is not None:
            return 0 if _fold(whole) == _fold(name) else 1, (whole,)
        words = re.split(r"[\s_\-]+", name.strip())
        if words[0].casefold() in _NEGATIONS:
            return 0, ()
        parts = [self._by_name.get(_fold(part)) for part in _JOINED.split(_RNB.sub("rnb", name.replace("_", " ")))]
        if len(parts) > 1 and any(parts):
            return 2, tuple(dict.fromkeys(part for part in parts if part is not None))
        for start in range(1, len(words)):
            ending = self._by_name.get(_fold(" ".join(words[start:])))
            if ending is not None:
                return 3, (ending,)
        return 0, ()

    def match(self, tree: Taxonomy, tagger: Tagger = "mn04") -> VocabularyMatch:
        """Match the nodes of a tree to concepts, and assign every tag to the most specific node that it indicates.

        Parameters
        ----------
        tree : Taxonomy
        tagger : {"mn04", "msd", "mtt"}
            The tagger whose tags decide which nodes are reached.

        Returns
        -------
        VocabularyMatch
        """
        nodes = list(dict.fromkeys(leaf[:cut] for leaf in tree.leaves for cut in range(1, len(leaf) + 1)))
        nodes.sort(key=_tree_order(tree))
        found = {node: self._find(node[-1]) for node in nodes}
        owners = self._choose_owners(found)
        tags: dict[NodePath, dict[Tagger, tuple[str, ...]]] = {node: {} for node in nodes}
        hints: dict[NodePath, tuple[str, ...]] = dict.fromkeys(nodes, ())
        for concept in self.concepts.values():
            for node in self._find_owners(concept, owners):
                for name, values in concept.tags.items():
                    tags[node][name] = (*tags[node].get(name, ()), *values)
                if node in owners.get(concept.name, ()):
                    hints[node] += concept.hints
        direct = {node for node in nodes if tags[node].get(tagger) or (tagger == "mn04" and hints[node])}
        reached = {other[:cut] for other in direct for cut in range(1, len(other) + 1)}
        matches = tuple(
            NodeMatch(node=node, concepts=found[node][1], tags=tags[node], hints=hints[node], reached=node in reached)
            for node in nodes
        )
        return VocabularyMatch(leaves=_reached_leaves(nodes, reached, tags, tagger), levels=tree.levels, nodes=matches)

    def _choose_owners(self, found: Mapping[NodePath, tuple[int, tuple[str, ...]]]) -> dict[str, tuple[NodePath, ...]]:
        """Choose the node of each concept: that with the closest name.

        Of several, it is their lowest common ancestor, since the tags can't tell them apart; in different branches of
        the tree, each of them.
        """
        candidates: dict[str, dict[int, list[NodePath]]] = {}
        for node, (rank, names) in found.items():
            for name in names:
                candidates.setdefault(name, {}).setdefault(rank, []).append(node)
        owners = {}
        for name, by_rank in candidates.items():
            nodes = by_rank[min(by_rank)]
            common = _common_ancestor(nodes)
            owners[name] = (common,) if common else tuple(nodes)
        return owners

    def _find_owners(self, concept: Concept, owners: Mapping[str, tuple[NodePath, ...]]) -> tuple[NodePath, ...]:
        """Find the nodes that a concept's tags count towards: its own, those of a broader concept, or the nearest."""
        name: str | None = concept.name
        nearest: tuple[str, ...] = ()
        while name is not None:
            if name in owners:
                return owners[name]
            nearest += self.concepts[name].nearest
            name = self.concepts[name].broader
        return next((owners[other] for other in nearest if other in owners), ())


@lru_cache(maxsize=len(TAGGERS))
def tag_names(tagger: Tagger) -> tuple[str, ...]:
    """Return the names of a tagger's tags in the order of its outputs.

    Parameters
    ----------
    tagger : {"mn04", "msd", "mtt"}
        mn04: the 527 classes of AudioSet; msd and mtt: the 50 tags of a MusiCNN network.
    """
    file = "audioset" if tagger == "mn04" else tagger
    text = (resources.files("genretree") / "tags" / f"{file}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _fold(name: str) -> str:
    """Reduce a name to what is compared: letters and digits, without accents and the word "music"."""
    plain = unicodedata.normalize("NFKD", name.replace("&", " and ").replace("_", " ")).casefold()
    letters = "".join(char if char.isalnum() else " " for char in plain if not unicodedata.combining(char))
    words = [word for word in letters.split() if word != "music"] or letters.split()
    return "".join(words)


def _common_ancestor(nodes: list[NodePath]) -> NodePath:
    """Return the lowest common ancestor of nodes; empty if there is none."""
    common = nodes[0]
    for node in nodes[1:]:
        length = 0
        while length < min(len(common), len(node)) and common[length] == node[length]:
            length += 1
        common = common[:length]
    return common


def _tree_order(tree: Taxonomy) -> Any:
    """Return a sorting key: nodes in the order of the tree, each before those below it."""
    first: dict[NodePath, int] = {}
    for number, leaf in enumerate(tree.leaves):
        for cut in range(1, len(leaf) + 1):
            first.setdefault(leaf[:cut], number)
    return lambda node: (first[node], len(node))


def _reached_leaves(
    nodes: list[NodePath],
    reached: set[NodePath],
    tags: Mapping[NodePath, Mapping[Tagger, tuple[str, ...]]],
    tagger: Tagger,
) -> tuple[NodePath, ...]:
    """Return the leaves of the part of a tree that tags reach, and those at which a path stops."""
    leaves: list[NodePath] = []
    for node in nodes:
        if node not in reached:
            continue
        children = [other for other in nodes if other[:-1] == node]
        reached_children = [child for child in children if child in reached]
        if not reached_children:
            leaves.append(node)
        elif len(reached_children) < len(children) or tags[node].get(tagger):
            leaves.append((*node, UNSPECIFIED))
    leaves.sort(key=lambda leaf: nodes.index(leaf if leaf[-1] != UNSPECIFIED else leaf[:-1]))
    return tuple(leaves)


def _read_concepts(text: str, source: str, known: Mapping[str, Concept]) -> dict[str, Concept]:
    if len(text) > _MAX_CHARACTERS:
        raise TaxonomyError(f"{source}: longer than {_MAX_CHARACTERS:,} characters, not a vocabulary")
    try:
        content = load_yaml(text)
    except yaml.YAMLError as error:
        raise TaxonomyError(f"{source}: not valid YAML: {error}") from error
    if content is None:
        raise TaxonomyError(f"{source}: the file is empty")
    concepts = dict(known)
    try:
        for concept in _walk(content, None):
            concepts[concept.name] = _extend(concepts.get(concept.name), concept)
        for concept in concepts.values():
            for name in concept.nearest:
                if name not in concepts:
                    raise TaxonomyError(f"'{concept.name}': nearest names no concept: '{name}'")
    except TaxonomyError as error:
        raise TaxonomyError(f"{source}: {error}") from error
    return concepts


def _walk(content: Any, broader: str | None) -> Iterator[Concept]:
    if not isinstance(content, Mapping):
        where = "" if broader is None else f"'{broader}': "
        raise TaxonomyError(f"{where}concepts must be a mapping of names to fields, got {type(content).__name__}")
    for name, fields in content.items():
        if not isinstance(name, str) or not isinstance(fields, Mapping):
            raise TaxonomyError(f"'{name}' must be a concept's name with fields: {', '.join(sorted(_FIELDS))}")
        for unknown in set(fields) - _FIELDS:
            raise TaxonomyError(f"'{name}': unknown field '{unknown}'; choose from: {', '.join(sorted(_FIELDS))}")
        tags = {tagger: _read_tags(name, fields.get(tagger), tagger) for tagger in TAGGERS if fields.get(tagger)}
        yield Concept(
            name=name,
            also=_read_names(name, "also", fields.get("also")),
            tags=tags,
            hints=_read_tags(name, fields.get("hints"), "mn04"),
            broader=broader,
            nearest=_read_names(name, "nearest", fields.get("nearest")),
        )
        if fields.get("narrower") is not None:
            yield from _walk(fields["narrower"], name)


def _extend(known: Concept | None, new: Concept) -> Concept:
    if known is None:
        return new
    tags = {tagger: _join(known.tags.get(tagger, ()), new.tags.get(tagger, ())) for tagger in TAGGERS}
    return Concept(
        name=known.name,
        also=_join(known.also, new.also),
        tags={tagger: values for tagger, values in tags.items() if values},
        hints=_join(known.hints, new.hints),
        broader=new.broader or known.broader,
        nearest=_join(new.nearest, known.nearest),
    )


def _join(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*one, *other]))


def _read_names(concept: str, what: str, values: Any) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list):
        raise TaxonomyError(f"'{concept}': {what} must be a list of names, got {values!r}")
    for value in values:
        if not isinstance(value, str):
            raise TaxonomyError(f"'{concept}': {what} must be a list of names, got {value!r} in it; quote it")
    return tuple(values)


def _read_tags(concept: str, values: Any, tagger: Tagger) -> tuple[str, ...]:
    names = _read_names(concept, tagger, values)
    known = tag_names(tagger)
    for name in names:
        if name not in known:
            raise TaxonomyError(f"'{concept}': {tagger} has no tag '{name}'{did_you_mean(name, known)}")
    return names


def format_tags(match: NodeMatch, tagger: Tagger = "mn04") -> str:
    """Format the tags of a node for display: `Rock music, Grunge (hints: Guitar)`."""
    text = ", ".join(match.tags.get(tagger, ()))
    hints = f"(only among its siblings: {', '.join(match.hints)})" if match.hints and tagger == "mn04" else ""
    return " ".join(filter(None, [text, hints]))


def describe_unreached(match: VocabularyMatch) -> str:
    """Describe in one line what no tag reaches; empty if everything is reached."""
    if not match.unreached:
        return ""
    names = [format_path(node) for node in match.unreached]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"no tag indicates {shown}, or tells it from others; paths stop above"
