"""The directive `models`: the catalogue of ready models, with what each is right for, its limits and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from genretree.bundle.ready import ReadyModel


class Models(SphinxDirective):
    """A paragraph, a list and a table of figures for each model."""

    def run(self) -> list[nodes.Node]:
        """Make the list."""
        from genretree.bundle.ready import read_catalogue

        lines = [line for model in read_catalogue().models.values() for line in _describe(model)]
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source="models"), self.content_offset, box)
        return box.children


def _describe(model: ReadyModel) -> Iterator[str]:
    from genretree.bundle.ready import read_catalogue

    size = f"{model.size / 1e6:.1f} MB"
    yield from (f"**{model.name}** ({size}, tree `{model.tree}`, licence {model.licence}). {model.summary}", "")
    yield f"- Right for: {model.use}."
    yield from (f"- Limit: {limit}" for limit in model.limits)
    if model.train is not None:
        corpus = read_catalogue().corpora[model.train.corpus]
        yield f"- Training music: {corpus.summary} (licence: {corpus.licence})."
    hub = f"<https://huggingface.co/{model.hub}>, commit `{model.commit}`, digest `{model.sha256}`"
    yield f"- Published: {hub if model.is_published else 'not yet'}."
    yield from (f"- Make it: `{f'{model.needs}; ' if model.needs else ''}genretree models make {model.name}`", "")
    for result in model.results:
        yield from ("| level | accuracy in %, by track (95 % confidence interval over artists) |", "| --- | --- |")
        for level, share in result.accuracy.items():
            low, high = result.ci95[level]
            yield f"| {level} | {share:.1f} ({low:.1f} to {high:.1f}) |"
        yield from ("", f"{result.data}; {result.split}; seed {result.seed}; machine: {result.machine}.", "")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("models", Models)
    return {"parallel_read_safe": True}
