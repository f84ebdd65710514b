"""Tables and summaries that the command line prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.tree import Tree

from genretree.corpus.splits import PARTS
from genretree.corpus.store import Store
from genretree.evaluation.evaluate import Evaluation
from genretree.files import printable, printable_text
from genretree.metrics.scores import Difference, LevelScores
from genretree.models.pretrained.sources import WeightSource, find_local
from genretree.prediction.predict import Prediction, SlicePrediction
from genretree.taxonomy import NodePath, Taxonomy, format_path
from genretree.training.recipes import Recipe, ReportedResult
from genretree.vocabulary import VocabularyMatch

_MAX_FAILURES = 20  # lines printed for a store
_SHORT_HASH = 12


class _SafeConsole(Console):
    """A console that escapes control characters in text but not in its own escape sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_text(text), style, control)


def make_console() -> Console:
    """Create a console; if the output is not a terminal, it is wide enough not to wrap tables."""
    console = _SafeConsole(highlight=False)
    return console if console.is_terminal else _SafeConsole(highlight=False, width=160)


def show_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Print accuracy with its confidence interval and macro-F1 for each level, by track and by slice."""
    console = make_console()
    first = evaluations[0]
    table = Table(title="accuracy in % (95 % confidence interval over groups), macro-F1", title_justify="left")
    table.add_column("model")
    table.add_column("unit")
    table.add_column("cut")
    for level in first.track.levels:
        table.add_column(escape(level.name), justify="right")
    table.add_column("Overall", justify="right")
    table.add_column("n", justify="right")
    for evaluation in evaluations:
        for unit in evaluation.units:
            scores = getattr(evaluation, unit)
            cells = [_accuracy(level) for level in scores.levels]
            table.add_row(
                escape(evaluation.label),
                unit,
                evaluation.disjoint,
                *cells,
                f"{100 * scores.overall:.1f}",
                str(scores.n),
            )
    console.print(table)
    console.print("Overall is the mean of the levels' accuracies.")
    for note in dict.fromkeys(evaluation.protocol for evaluation in evaluations):
        console.print(f"Protocol: {escape(note)}.")
    for note in dict.fromkeys(evaluation.few_groups_note for evaluation in evaluations):
        if note:
            console.print(f"[yellow]{escape(note)}[/]")
    for evaluation in evaluations:
        _show_trust(console, evaluation)
        if evaluation.heads == "independent":
            share = f"{evaluation.track.contradictions:.1%}"
            console.print(
                f"{evaluation.family}, independent heads: levels contradict each other on {share} of the tracks."
            )


def _show_trust(console: Console, evaluation: Evaluation) -> None:
    unit = evaluation.units[0]
    scores = getattr(evaluation, unit)
    hierarchical = scores.hierarchical
    paths = f"hierarchical F1 {100 * hierarchical.f1:.1f}, tree distance {hierarchical.tree_distance:.2f} edges"
    errors = ", ".join(f"{level.trust.ece:.3f}" for level in scores.levels)
    accuracy_at_80 = ", ".join(f"{100 * level.trust.accuracy_at_80:.1f}" for level in scores.levels)
    console.print(
        f"{evaluation.label} by {unit} ({evaluation.disjoint}): {paths}; expected calibration error by level {errors}; "
        f"accuracy on the most confident 80 %: {accuracy_at_80}."
    )


def show_classes(evaluation: Evaluation) -> None:
    """Print precision, recall, F1 and support of every class, for each level and the evaluation's first unit."""
    console = make_console()
    unit = evaluation.units[0]
    for level in getattr(evaluation, unit).levels:
        table = Table(title=f"{level.name}, by {unit}", title_justify="left")
        table.add_column("class")
        for column in ("precision", "recall", "F1", "support"):
            table.add_column(column, justify="right")
        for item in level.classes:
            values = (f"{value:.3f}" for value in (item.precision, item.recall, item.f1))
            table.add_row(escape(item.name), *values, str(item.support))
        console.print(table)


def show_differences(title: str, differences: Mapping[str, Sequence[Difference]]) -> None:
    """Print the result of `compare_evaluations`."""
    table = Table(title=title, title_justify="left")
    for column in ("unit", "level", "difference in points (95 % CI)", "only first", "only second", "McNemar p"):
        table.add_column(column, justify="left" if column in ("unit", "level") else "right")
    for unit, items in differences.items():
        for item in items:
            low, high = item.ci95
            points = f"{100 * item.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            table.add_row(
                unit, escape(item.name), points, str(item.only_first), str(item.only_second), f"{item.p_value:.3f}"
            )
    make_console().print(table)


def show_prediction(prediction: Prediction) -> None:
    """Print the predicted path of a file, the probabilities of each level, and the timeline."""
    console = make_console()
    console.print(f"[bold]{escape(prediction.file)}[/]: [bold cyan]{escape(prediction.shown)}[/]")
    content = prediction.content
    if content is not None and not content.is_music:
        console.print(f"  [dim]{escape(content.tag)} {content.probability:.0%}[/]")
    for level in prediction.levels if prediction.path or content is None or content.is_music else ():
        if not level.sure:
            candidates = ", ".join(f"{item.label} {item.probability:.0%}" for item in level.top)
            console.print(f"  {escape(level.name)}: ?  [dim]({escape(candidates)})[/]")
            continue
        others = ", ".join(f"{item.label} {item.probability:.0%}" for item in level.top if item.label != level.label)
        best = escape(f"{level.name}: {level.label} {level.probability:.0%}")
        console.print(f"  {best}  [dim]({escape(others or 'no other')})[/]")
    if prediction.genres is not None:
        genres = ", ".join(f"{format_path(item.path)} {item.probability:.0%}" for item in prediction.genres)
        console.print(f"  genres: {escape(genres or 'none')}")
    runs = [list(run) for _, run in groupby(prediction.timeline, key=_shown)]
    segments = [f"{_clock(run[0].start)}-{_clock(run[-1].end)} {_shown(run[0])}" for run in runs]
    console.print(f"  [dim]timeline: {escape(', '.join(segments))}[/]")
    if not prediction.consistent:
        console.print("  [dim]independent heads: the levels contradict each other[/]")
    if prediction.training_distance is not None and prediction.training_distance > 1:
        distance = f"{prediction.training_distance:.2f}"
        console.print(f"  [yellow]unlike the training data (distance {distance}): the probabilities may be too high[/]")
    if prediction.padded:
        console.print("  [dim]shorter than one slice: repeated to fill the slice[/]")


def show_vocabulary(match: VocabularyMatch) -> None:
    """Print the nodes of a tree as a tree, with the tags that indicate them."""
    root = Tree("")
    root.hide_root = True
    branches: dict[NodePath, Tree] = {(): root}
    for node in match.nodes:
        name = escape(node.node[-1])
        if not node.reached:
            same = match.synonym(node)
            reason = f"has the same tags as {escape(format_path(same))}" if same else "no tag"
            text = f"[yellow]{name}[/]  [dim]{reason}; a path stops above[/]"
        else:
            hints = f" (among its siblings: {', '.join(node.hints)})" if node.hints else ""
            text = f"[bold]{name}[/]  [dim]{escape(', '.join(node.tags.get('mn04', ())) + hints)}[/]"
        branches[node.node] = branches[node.node[:-1]].add(text)
    make_console().print(root)


def _shown(item: SlicePrediction) -> str:
    """The last node of a slice's path, or what it contains instead of music."""
    if item.path:
        return item.path[-1]
    return "?" if item.content is None else item.content.type


def show_store(store: Store) -> None:
    """Print a summary of a store."""
    console = make_console()
    metadata = store.metadata
    console.print(
        f"[bold]{escape(str(store.folder))}[/]: {store.n_tracks} tracks, {store.n_slices} slices from "
        f"{escape(metadata.source)}"
    )
    console.print(
        f"images {store.settings.size}x{store.settings.size}, slices of {store.settings.slice_seconds} s, "
        f"grouped by {metadata.group_by}, engine {metadata.engine}, genretree {metadata.version}"
    )
    table = Table()
    for column in ("split", "protocol", *PARTS):
        table.add_column(column)
    for name in store.split_names():
        split = store.split(name)
        table.add_row(name, split.protocol, *(str(split.parts.count(part)) for part in PARTS))
    console.print(table)
    counts = store.track_leaves.tolist()
    console.print(_tree(store.taxonomy, [counts.count(leaf) for leaf in range(len(store.taxonomy.leaves))]))
    for failure in store.failures[:_MAX_FAILURES]:
        console.print(f"failed ({escape(failure.kind)}): {escape(printable(failure.message))}")
    if len(store.failures) > _MAX_FAILURES:
        console.print(f"[dim]... and {len(store.failures) - _MAX_FAILURES} more; list all with --json[/]")


def show_bundle(folder: Path, content: dict[str, Any]) -> None:
    """Print a summary of a bundle."""
    console = make_console()
    training = content["training"]
    origin = escape(f"{content['family']}, written by genretree {content.get('genretree', '?')}")
    console.print(f"[bold]{escape(str(folder))}[/]: {origin}")
    for name in ("finished", "seconds", "machine"):
        if name in training:
            console.print(escape(f"{name}: {training[name]}"))
    for title, values in (
        ("images", content["images"]),
        ("settings", content["settings"]),
        ("metadata", training.get("facts", {})),
        ("initial weights", training.get("initial_weights", {})),
    ):
        if not values:
            continue
        console.print(f"{title}: " + escape(", ".join(f"{name} {value}" for name, value in values.items())))
    if "store" in training:
        split = training.get("split", {})
        source, name, note = training["store"].get("source"), split.get("name"), split.get("note")
        console.print(escape(f"data: {source}, split {name}: {note}"))
    console.print(_tree(Taxonomy.from_json(content["taxonomy"])))


def show_recipes(recipes: Mapping[str, Recipe]) -> None:
    """Print recipes with their summaries and first results."""
    table = Table()
    for column in ("recipe", "summary", "first result"):
        table.add_column(column)
    for name, recipe in recipes.items():
        table.add_row(name, recipe.summary, _format_result(recipe.results[0]) if recipe.results else "")
    make_console().print(table)


def show_weights(sources: Sequence[WeightSource]) -> None:
    """Print the sources of pretrained weights with abbreviated hashes and revisions."""
    table = Table()
    for column in ("name", "for", "licence", "MB", "pinned", "cached"):
        table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for source in sources:
        digest_type, _, digits = source.pinned.partition(" ")
        table.add_row(
            source.name,
            ", ".join(source.families) or "-",
            source.licence,
            f"{source.size / 1e6:.1f}",
            f"{digest_type} {digits[:_SHORT_HASH]}",
            "no" if find_local(source) is None else "yes",
        )
    console = make_console()
    console.print(table)
    for source in sources:
        console.print(escape(f"{source.name}: {source.summary}; {source.note or source.location}"), soft_wrap=True)
    console.print("Download: genretree weights get NAME. Full hashes and URLs: genretree weights list --json")


def show_models(models: Sequence[Mapping[str, Any]]) -> None:
    """Print the ready models, as `genretree models --json` describes them."""
    table = Table()
    for column in ("name", "state", "tree", "licence", "MB", "accuracy in %, by track"):
        table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for model in models:
        levels = model["results"][0]["accuracy"].items()
        accuracy = ", ".join(f"{level} {share:.1f}" for level, share in levels)
        state = model["state"] if model["origin"] is None else f"{model['state']} ({model['origin']})"
        table.add_row(model["name"], state, model["tree"], model["licence"], f"{model['size'] / 1e6:.1f}", accuracy)
    console = make_console()
    console.print(table)
    for model in models:
        result = model["results"][0]
        console.print(f"[bold]{model['name']}[/]: {escape(model['summary'])}", soft_wrap=True)
        console.print(f"  right for: {escape(model['use'])}", soft_wrap=True)
        for limit in model["limits"]:
            console.print(f"  limit: {escape(limit)}", soft_wrap=True)
        console.print(f"  measured on: {escape(result['data'])} ({escape(result['split'])})", soft_wrap=True)
        if model["problem"] is not None:
            console.print(f"  problem: {escape(model['problem'])}", soft_wrap=True)
        if model["folder"] is not None:
            console.print(f"  folder: {escape(model['folder'])}", soft_wrap=True)
        steps = "; ".join(filter(None, (model["needs"], model["command"])))
        command = steps if model["folder"] is None else f"genretree predict --model {model['name']} song.mp3"
        console.print(f"  next: {escape(command)}", soft_wrap=True)


def show_recipe(name: str, recipe: Recipe) -> None:
    """Print a recipe with its command, settings and results."""
    console = make_console()
    console.print(f"[bold]{name}[/] (family {recipe.family}): {escape(recipe.summary)}")
    for line in recipe.command:
        console.print(f"    {escape(line)}")
    console.print(f"settings: {escape(', '.join(f'{key} {value}' for key, value in recipe.settings.items()))}")
    console.print(f"time: {escape(recipe.time)}")
    for result in recipe.results:
        console.print(escape(_format_result(result)))


def _format_result(result: ReportedResult) -> str:
    levels = ", ".join(f"{level} {share:.1f}" for level, share in result.accuracy.items())
    return f"{levels} % by {result.unit} ({result.data}, {result.split}, seed {result.seed})"


def _tree(taxonomy: Taxonomy, counts: Sequence[int] | None = None) -> Tree:
    """Render a taxonomy, with the number of tracks after each leaf."""
    root = Tree(escape("tree: " + ", ".join(taxonomy.levels)))
    branches: dict[tuple[str, ...], Tree] = {(): root}
    for i, leaf in enumerate(taxonomy.leaves):
        for cut in range(1, len(leaf) + 1):
            if leaf[:cut] in branches:
                continue
            count = f" ({counts[i]})" if counts is not None and cut == len(leaf) else ""
            branches[leaf[:cut]] = branches[leaf[: cut - 1]].add(escape(leaf[cut - 1]) + count)
    return root


def _accuracy(level: LevelScores) -> str:
    low, high = level.ci95
    return f"{100 * level.accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f}), {level.macro_f1:.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
