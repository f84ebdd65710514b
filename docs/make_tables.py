"""Write the parts of pages that repeat a catalogue or a file, between `<!-- generated: NAME -->` and `<!-- end -->`.

    python docs/make_tables.py

They are plain Markdown, so that code hosts show them, too. `tests/test_docs.py` compares the pages with what this
writes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from genretree.bundle.ready import ReadyModel, read_catalogue
from genretree.models.pretrained.sources import SOURCES

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "genretree-nearest-centroid"
PAGES = ("README.md", "docs/models.md", "docs/weights.md", "docs/tutorial-family.md")


def list_ready_models() -> Iterator[str]:
    """Yield the README's table: a line for each ready model."""
    yield from (
        "| name | right for | accuracy in %, by level | measured on held-out artists |",
        "| --- | --- | --- | --- |",
    )
    for model in read_catalogue().models.values():
        accuracy = ", ".join(f"{share:.1f}" for share in model.results[0].accuracy.values())
        music = re.split("[,:]", model.results[0].data)[0]
        yield f"| {model.name} | {model.use} | {accuracy} | {music} |"


def describe_ready_models() -> Iterator[str]:
    """Yield a heading, a list and a table of figures for each ready model."""
    for model in read_catalogue().models.values():
        yield from ("", f"### {model.name}", "")
        yield from _describe(model)


def _describe(model: ReadyModel) -> Iterator[str]:
    yield from (f"{model.summary} {model.size / 1e6:.1f} MB, tree `{model.tree}`, licence {model.licence}.", "")
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
        yield from ("", f"{result.data}; {result.split}; seed {result.seed}; machine: {result.machine}.")


def list_weights() -> Iterator[str]:
    """Yield a table of all pretrained weights, and a list of their hashes, revisions and addresses."""
    yield from ("| name | for | weights | licence | MB |", "| --- | --- | --- | --- | ---: |")
    for source in SOURCES:
        families = ", ".join(f"`{family}`" for family in source.families) or "track recovery"
        yield f"| `{source.name}` | {families} | {source.summary} | {source.licence} | {source.size / 1e6:.1f} |"
    yield ""
    for source in SOURCES:
        place = source.location if source.access == "package" else f"<{source.location}>"
        yield f"- `{source.name}` ({place}): {source.pinned}{f'; {source.note}' if source.note else ''}"


def show_example_family() -> Iterator[str]:
    """Yield the three classes of the example."""
    text = (EXAMPLE / "genretree_nearest_centroid.py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    lines = text.splitlines()[classes[0].lineno - 1 : classes[-1].end_lineno]
    yield from ("```python", *lines, "```")


def show_example_network() -> Iterator[str]:
    """Yield the model of the example with a network."""
    text = (EXAMPLE.parent / "tiny_network.py").read_text(encoding="utf-8")
    model = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "TinyModel")
    yield from ("```python", *text.splitlines()[model.lineno - 1 : model.end_lineno], "```")


def show_example_project() -> Iterator[str]:
    """Yield the example's pyproject.toml."""
    yield from ("```toml", *(EXAMPLE / "pyproject.toml").read_text(encoding="utf-8").splitlines(), "```")


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "ready models": list_ready_models,
    "descriptions of ready models": describe_ready_models,
    "weights": list_weights,
    "example family": show_example_family,
    "example network": show_example_network,
    "example project": show_example_project,
}


def fill(text: str) -> str:
    """Return a page with all its generated parts."""

    def part(found: re.Match[str]) -> str:
        return f"{found[1]}\n" + "\n".join(PARTS[found[2]]()) + f"\n{found[3]}"

    return re.sub(r"(<!-- generated: (.+?) -->)\n.*?(<!-- end -->)", part, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
