"""Count a library's files per node of the tree, with the most and the least confident files of each genre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from genretree.library.database.connection import Database
from genretree.library.database.records import FileResult, FileRow, ModelKey, count_genres, list_most_confident
from genretree.taxonomy import NodePath, drop_unspecified


@dataclass
class GenreNode:
    """A node of the tree and its files.

    Parameters
    ----------
    path : tuple of str
        Empty for the root.
    n_files : int
        Number of files that are predicted as this node or one below it.
    most_confident, least_confident : list of (str, float)
        Path and confidence of files that are predicted as exactly this node, the most and the least confident first. No
        file is in both.
    children : list of GenreNode
        Nodes with files, those with the most files first.
    """

    path: NodePath
    n_files: int = 0
    most_confident: list[tuple[str, float]] = field(default_factory=list)
    least_confident: list[tuple[str, float]] = field(default_factory=list)
    children: list[GenreNode] = field(default_factory=list)


def build_genre_tree(database: Database, model: int, model_key: ModelKey, n_listed: int = 2) -> GenreNode:
    """Count the present files per node, by their most probable path.

    Parameters
    ----------
    database : Database
    model : int
    model_key : ModelKey
    n_listed : int
        Maximum number of most confident files per genre, and of least confident ones.

    Returns
    -------
    GenreNode
        The root. Nodes without files are omitted.
    """
    leaves = model_key.taxonomy.leaves
    root = GenreNode(())
    for leaf, n in count_genres(database, model).items():
        node = root
        node.n_files += n
        path = drop_unspecified(leaves[leaf])
        for level in range(len(path)):
            node = _child(node, path[: level + 1])
            node.n_files += n
        node.most_confident = _listed(list_most_confident(database, model, model_key, leaf=leaf, limit=n_listed))
        n_rest = min(n_listed, n - len(node.most_confident))
        least = list_most_confident(database, model, model_key, leaf=leaf, limit=n_rest, reverse=True)
        node.least_confident = _listed(least)
    _sort(root)
    return root


def _child(parent: GenreNode, path: NodePath) -> GenreNode:
    for node in parent.children:
        if node.path == path:
            return node
    parent.children.append(GenreNode(path))
    return parent.children[-1]


def _sort(node: GenreNode) -> None:
    node.children.sort(key=lambda child: (-child.n_files, child.path))
    for child in node.children:
        _sort(child)


def _listed(rows: Sequence[tuple[FileRow, FileResult]]) -> list[tuple[str, float]]:
    return [(row.path, result.confidence) for row, result in rows]
