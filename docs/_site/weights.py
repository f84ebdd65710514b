"""The directive `weights`: the registry of pretrained weights as a table."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Weights(SphinxDirective):
    """A table of all sources, and a list of their hashes, revisions and addresses."""

    def run(self) -> list[nodes.Node]:
        """Make the table and the list."""
        from genretree.models.pretrained.sources import SOURCES

        lines = ["| name | for | weights | licence | MB |", "| --- | --- | --- | --- | ---: |"]
        for source in SOURCES:
            families = ", ".join(f"`{family}`" for family in source.families) or "track recovery"
            megabytes = f"{source.size / 1e6:.1f}"
            lines.append(f"| `{source.name}` | {families} | {source.summary} | {source.licence} | {megabytes} |")
        lines.append("")
        for source in SOURCES:
            place = source.location if source.access == "package" else f"<{source.location}>"
            note = f"; {source.note}" if source.note else ""
            lines.append(f"- `{source.name}` ({place}): {source.pinned}{note}")
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source="weights"), self.content_offset, box)
        return box.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("weights", Weights)
    return {"parallel_read_safe": True}
