"""The tree of an explanation as SVG and as a list, in the colours of the page that contains them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from genretree.explanation.result import Explanation
from genretree.taxonomy import NodePath, display_name

_STEP, _ROW, _LEFT = 265, 24, 12  # pixels: width of a level, height of a leaf, margin
_LABEL = 205  # width of a name
_MAX_WIDTH = 9.0  # of a branch


def tree_rows(explanation: Explanation) -> list[tuple[NodePath, float, bool]]:
    """List the nodes depth first: path, probability, and whether the node is on the predicted path.

    Narrow screens show this list, because the picture needs about 850 pixels.
    """
    predicted = explanation.prediction.path
    # Sorted paths are in this order, as a path comes before those that it begins.
    return [(path, chance, predicted[: len(path)] == path) for path, chance in sorted(explanation.tree)]


def tree_svg(explanation: Explanation) -> str:
    """Draw the tree with the probability of each node; the page styles the classes `branch`, `name` and `on`."""
    probabilities: Mapping[NodePath, float] = dict(explanation.tree)
    paths = list(probabilities)
    leaves = [
        path for path in paths if not any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    ]
    heights = {leaf: _ROW * (rank + 0.5) for rank, leaf in enumerate(leaves)}
    inner = {path[:cut] for path in leaves for cut in range(len(path))}
    for path in sorted(inner, key=len, reverse=True):
        below = [heights[other] for other in paths if len(other) == len(path) + 1 and other[: len(path)] == path]
        heights[path] = (min(below) + max(below)) / 2
    predicted = explanation.prediction.path
    branches, names = [], []
    for path in sorted(paths, key=lambda path: predicted[: len(path)] == path):  # the predicted path lies on top
        on = " on" if predicted[: len(path)] == path else ""
        x1 = _LEFT + _STEP * (len(path) - 1) + (0 if len(path) == 1 else _LABEL - _STEP + 16)
        x2 = _LEFT + _STEP * (len(path) - 1) + 44
        y1, y2, bend = heights[path[:-1]], heights[path], (x1 + x2) / 2
        width = 1 + (_MAX_WIDTH - 1) * probabilities[path]
        curve = f"M{x1} {y1:.1f}C{bend} {y1:.1f} {bend} {y2:.1f} {x2} {y2:.1f}"
        branches.append(f'<path class="branch{on}" d="{curve}" stroke-width="{width:.1f}"/>')
        name = f"{escape(display_name(path[-1]))} <tspan>{100 * probabilities[path]:.0f} %</tspan>"
        names.append(f'<text class="name{on}" x="{x2 + 6}" y="{y2 + 5:.1f}">{name}</text>')
    width = _LEFT + _STEP * (max(map(len, paths)) - 1) + _LABEL + 100
    label = escape(" > ".join(map(display_name, predicted)) or "no genre", quote=True)
    return (
        f'<svg class="tree" viewBox="0 0 {width} {_ROW * len(leaves)}" width="{width}" height="{_ROW * len(leaves)}" '
        f'role="img" aria-label="The tree with the probability of each node; the predicted path is {label}">'
        f"{''.join(branches)}{''.join(names)}</svg>"
    )
