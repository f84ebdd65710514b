"""`genretree library`: analyse a music library, preview and write genres, undo, and write playlists."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from genretree.cli.arguments import show_current_options, show_options
from genretree.cli.options import FILE, FOLDER, download_option, quiet_option, runtime_options, workers_option
from genretree.cli.output import RESUME_WITH, SafeOutput, echo, echo_json, echo_skipped
from genretree.files import printable

if TYPE_CHECKING:
    from rich.tree import Tree

    from genretree.library.apply.apply import HardLinks
    from genretree.library.apply.recover import Interrupted
    from genretree.library.database.connection import Database
    from genretree.library.database.records import FileResult, ModelKey
    from genretree.library.plan.genre_tree import GenreNode
    from genretree.library.plan.planner import Filters, Mode, TagPlan
    from genretree.library.plan.preview import Preview
    from genretree.library.scan.analyse import AnalysisCounts
    from genretree.library.scan.classifier import FileError
    from genretree.models.runtime.types import Precision, RuntimeChoice

_MAX_ROWS = 10  # per genre on the terminal
_MANY = 2000  # files from which planning takes long enough for a progress bar
_MAX_SKIPPED = 5  # per reason on the terminal
_MAX_REFUSALS = 20
_MAX_OUTLIERS = 20
_ACTION_OPTIONS = {"has_genre": "--append, --overwrite", "unsure": "--min-confidence, --min-depth"}
_MAX_FAILURES = 10  # listed at the end of library analyse


@click.group()
def library() -> None:
    """Analyse a music library, preview and write genres, and undo.

    \b
    genretree library analyse MUSIC --bundle BUNDLE    # continues after an interruption
    genretree library preview --html preview.html      # what would be written
    genretree library apply --write                    # without --write: a dry run
    genretree library undo                             # restores every byte
    """  # noqa: D301


def _database(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--db",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Library database.  [default: $GENRETREE_LIBRARY, or a file in your data folder]",
    )(command)


def _planning(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select files and genres."""
    options = [
        click.option(
            "--mapping", type=click.Path(path_type=Path), help="YAML file with your genre names, depth and threshold."
        ),
        click.option(
            "--min-confidence",
            type=click.FloatRange(0, 1),
            help="Minimum confidence of a genre that is written.  [default: 0.5]",
        ),
        click.option("--depth", type=click.IntRange(1, 4), help="Maximum number of levels."),
        click.option(
            "--min-depth",
            type=click.IntRange(1, 4),
            help="First level that may be written on its own; 1 is the top.  [default: 2]",
        ),
        click.option("--genres", type=click.IntRange(1, 20), help="Maximum number of genres of a file.  [default: 1]"),
        click.option("--level", help="Only files whose predicted path ends at this level (name or number)."),
        click.option("--folder", help="Only files below this folder."),
        click.option("--model", "digest", help="Hash of the model whose results are used.  [default: the last one]"),
        click.option(
            "--only-empty",
            "mode",
            flag_value="only-empty",
            default=True,
            help="Write only to files without a genre of their own (default).",
        ),
        click.option("--append", "mode", flag_value="append", help="Add to existing genres."),
        click.option("--overwrite", "mode", flag_value="overwrite", help="Replace existing genres."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _tagging(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that write genres, or show what would be written."""
    options = [
        click.option(
            "--by",
            type=click.Choice(["track", "album"]),
            default="track",
            show_default=True,
            help="Decide for each track, or for each album by the mean of its tracks.",
        ),
        click.option("--separator", help="Write several genres as one text, with this between them, such as '; '."),
        *_path_options(),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _path_options() -> list[Callable[..., Any]]:
    return [
        click.option("--only", multiple=True, metavar="PATH", help="Only this file or folder; may be repeated."),
        click.option("--skip", multiple=True, metavar="PATH", help="Not this file or folder; may be repeated."),
    ]


@library.command()
@click.argument("places", nargs=-1, required=True, metavar="DIR...")
@click.option("--bundle", type=FOLDER, help="Model bundle: a folder, a name on the Hub, or zoo:NAME. Required.")
@_database
@workers_option
@click.option("--salvage", is_flag=True, help="Analyse the decodable part of truncated files.")
@click.option("--check-music", is_flag=True, help="Detect speech, noise and silence; needs the weights of mn04.")
@click.option("--hidden", is_flag=True, help="Include hidden files and folders.")
@click.option("--retry-failed", is_flag=True, help="Retry files that failed before.")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Execution backend."
)
@click.option("--address", help="Address of a Ray cluster (default: start Ray on this machine).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per finished file.")
@runtime_options("auto", "auto")
@download_option
@quiet_option
def analyse(
    places: Sequence[str],
    bundle: Path | None,
    db: Path | None,
    workers: int,
    salvage: bool,
    check_music: bool,
    hidden: bool,
    retry_failed: bool,
    engine: str,
    address: str | None,
    as_json: bool,
    runtime: RuntimeChoice,
    precision: Precision,
    download: bool,
    quiet: bool,
) -> None:
    """Analyse all music below each DIR and store the results in the database.

    Run the same command again to continue after an interruption: only new and changed files are analysed, and copies
    only once. With --engine ray, DIR may be a URL (s3://, gs://). Files that can't be used are recorded with a reason.
    """
    from genretree.bundle.hub import find_bundle
    from genretree.library.apply.recover import TornFiles, recover
    from genretree.library.scan.analyse import analyse as analyse_places
    from genretree.library.scan.analyse import check_places
    from genretree.library.scan.classifier import load_file_classifier

    if address is not None and engine != "ray":
        raise click.UsageError("--address needs --engine ray")
    if bundle is None:
        raise click.UsageError(
            "--bundle is missing: name a trained bundle or one on the Hub, or make one that needs no training with: "
            "genretree vocabulary general --out BUNDLE"
        )
    bundle = find_bundle(bundle, download, not quiet)
    make = functools.partial(load_file_classifier, bundle, runtime, precision, salvage, check_music)
    check_places(places, remote=engine == "ray")
    options: dict[str, Any] = {"workers": workers, "hidden": hidden, "retry_failed": retry_failed}
    options["max_failures"] = None if as_json else _MAX_FAILURES
    if engine == "ray":
        from genretree.library.scan.ray_backend import ray_options

        options |= ray_options(bundle, address, runtime, precision, salvage, check_music)
    report = _json_line if as_json else None
    with _open_for_writing(db, "library analyse", create=True) as database:
        torn = TornFiles(database)
        options["restore"] = torn.restore
        counts = analyse_places(database, places, make, progress=not quiet, report=report, **options)
        recover(database)  # the scan may have found files that were missing
    if torn.restored:
        echo(f"{torn.restored} files restored: an interrupted write had changed a part of their tags", err=True)
    _show_interrupted(torn.list_strays())
    _show_counts(counts, as_json)


def _json_line(path: str, outcome: FileResult | FileError, shared: bool, model_key: ModelKey) -> None:
    from genretree.library.scan.classifier import FileError
    from genretree.metrics.scores import decode_levels, name_path

    line: dict[str, Any] = {"file": printable(path)}
    if isinstance(outcome, FileError) or outcome.levels is None:
        line["error"] = {"kind": outcome.error, "message": outcome.message}
    else:
        tree = model_key.taxonomy
        nodes = decode_levels(tree, model_key.heads, outcome.levels)[0]
        probabilities = [float(level[0, node]) for level, node in zip(outcome.levels, nodes, strict=True)]
        line["path"] = list(name_path(tree, model_key.heads, nodes))
        line["probabilities"] = [round(probability, 6) for probability in probabilities]
        line |= {"slices": outcome.slices, "padded": outcome.padded, "runtime": outcome.runtime, "shared": shared}
    echo_json(line)


def _show_counts(counts: AnalysisCounts, as_json: bool) -> None:
    if as_json:
        failures = [
            {"file": printable(path), "kind": kind, "message": message} for path, kind, message in counts.failures
        ]
        echo_json({"summary": asdict(counts) | {"failures": failures}})
        return
    for path, kind, message in counts.failures:
        shown = show_current_options(message)
        echo(f"{printable(path)} ({kind}): {shown}", err=True)
    if counts.failed > len(counts.failures):
        more = counts.failed - len(counts.failures)
        echo(f"and {more} more failed; list them with: genretree library analyse --json", err=True)
    echo(
        f"{counts.files} files: {counts.known} known, {counts.analysed} analysed, {counts.shared} copies of others, "
        f"{counts.failed} failed{f'; {counts.gone} missing' if counts.gone else ''}."
    )
    echo_skipped(counts.skipped)
    echo("Next: genretree library preview, or: genretree library status")


@library.command()
@_database
@_planning
@_tagging
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write an HTML page.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write a CSV table; '-' for standard output.")
@click.option("--parquet", type=click.Path(path_type=Path, dir_okay=False), help="Write a Parquet table.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file.")
@quiet_option
def preview(
    db: Path | None,
    html: Path | None,
    csv_file: Path | None,
    parquet: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Show what would be written and the current tags, by genre, most confident first.

    Genres that genretree did not write stay unless --append or --overwrite is given. The CSV table can be edited in a
    spreadsheet, and written with: genretree library apply --plan FILE
    """
    from genretree.files import atomic_path
    from genretree.library.apply.recover import list_interrupted
    from genretree.library.plan.preview import Preview, write_json, write_page, write_parquet
    from genretree.library.plan.preview import write_csv as write_table
    from genretree.parallel import command_line

    with _open_for_reading(db) as database:
        model_key, make_plans = _prepare_plans(database, progress=not quiet, **options)
        rows = Preview(make_plans(), model_key.digest)
        _show_interrupted(list_interrupted(database))
        if html is not None:
            write_page(rows, html, model_key, command_line())
            echo(f"{html}: open it in a browser", err=True)
        if parquet is not None:
            write_parquet(rows, parquet)
        if csv_file is not None:
            if str(csv_file) == "-":
                write_table(rows, SafeOutput())
                return
            with atomic_path(csv_file) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as stream:
                write_table(rows, stream)
        if as_json:
            for line in write_json(rows):
                echo(line)
        elif html is None and csv_file is None and parquet is None:
            _show_preview(rows, model_key)
        else:
            _show_actions(rows.actions())


@library.command()
@_database
@_planning
@_tagging
@click.option("--plan", type=FILE, help="Write what this CSV table says: the output of preview --csv, edited.")
@click.option("--write", is_flag=True, help="Write the tags (default: dry run).")
@click.option("--keep-mtime", is_flag=True, help="Preserve modification times (backups may then miss the changes).")
@click.option("--skip-hardlinks", is_flag=True, help="Skip hard links that would become separate files.")
@quiet_option
@click.pass_context
def apply(
    context: click.Context,
    /,
    db: Path | None,
    plan: Path | None,
    write: bool,
    keep_mtime: bool,
    skip_hardlinks: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write genres into the files' tags, and the evidence into GENRETREE_* fields; a dry run unless --write is given.

    By default only files without a genre, or with one that genretree wrote, change. `library undo` restores every byte.
    With --plan, exactly the rows of an edited preview are written: changed genres as they are, removed rows not at all.
    """
    from genretree.library.apply.apply import HardLinks, apply_plans
    from genretree.library.database.connection import back_up
    from genretree.library.plan.planner import ACTIONS, find_hardlinks
    from genretree.library.plan.preview import Preview
    from genretree.parallel import command_line
    from genretree.progress import progress_bar

    if plan is not None:
        _refuse_unused(context, (*_NOT_WITH_PLAN,), "has no effect with --plan; its rows say what is written")
        prepare: Callable[..., tuple[ModelKey, Callable[..., Iterator[TagPlan]]]] = functools.partial(
            _prepare_edited_plan, plan=plan
        )
    else:
        prepare = _prepare_plans
    if not write:
        with _open_for_reading(db) as database:
            model_key, make_plans = prepare(database, progress=not quiet, **options)
            links: list[TagPlan] = []
            _show_preview(Preview(find_hardlinks(make_plans(), links)), model_key)
        if links:
            fate = "are skipped" if skip_hardlinks else "become separate files (to skip them: --skip-hardlinks)"
            echo(f"{len(links)} of them are hard links; those whose tags have no padding to be written into {fate}")
        echo("Nothing was written; to write, add --write")
        return
    changed: list[tuple[str, str]] = []
    with _open_for_writing(db, "library apply") as database:
        model_key, make_plans = prepare(database, progress=not quiet, **options)
        actions: Counter[str] = Counter()
        for item in make_plans():
            actions[item.action] += 1
            no_space = item.action == "no_space"
            if no_space or (plan is not None and item.action not in ("write", "same", "left_out")):
                changed.append((item.row.path, item.message or ACTIONS[item.action]))
        if actions["write"]:
            back_up(database)
        hardlinks = HardLinks()
        with progress_bar(actions["write"], "apply", "file", not quiet) as tick:
            run, written, refused = apply_plans(
                *(database, make_plans(show=False), model_key.digest, command_line()),
                keep_mtime=keep_mtime,
                skip_hardlinks=skip_hardlinks,
                hardlinks=hardlinks,
                report=lambda *_: tick(),
            )
    echo(f"{written} files written" + (f"; undo with: genretree library undo {run}" if run else "."))
    show_hardlinks(hardlinks)
    _show_actions({action: actions[action] for action in ACTIONS if actions[action] and action != "write"})
    _show_refusals([*changed, *((item.path, item.reason) for item in refused)])


_NOT_WITH_PLAN = ("mapping", "min_confidence", "depth", "min_depth", "genres", "level", "digest", "mode", "by")


def _refuse_unused(context: click.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that were given and have no effect."""
    for option in context.command.params:
        if option.name not in names or context.get_parameter_source(option.name) is not ParameterSource.COMMANDLINE:
            continue
        is_other_flag = getattr(option, "is_flag", False) and option.flag_value != context.params[option.name]  # type: ignore[attr-defined]
        if not is_other_flag:
            raise click.UsageError(f"{option.opts[0]} {why}")


def show_hardlinks(hardlinks: HardLinks) -> None:
    """Print what happened to hard links."""
    if hardlinks.inodes:
        further = f"; {hardlinks.names} more names were selected" if hardlinks.names else ""
        echo(f"hard links: {len(hardlinks.inodes)} files were written under all their names{further}", err=True)
    fates = {
        "became separate files, and their other names keep the old tags": hardlinks.separated,
        "were skipped, since their tags have no padding to be written into": hardlinks.skipped,
    }
    for fate, paths in fates.items():
        if paths:
            echo(f"hard links: {len(paths)} {fate}:", err=True)
        for path in paths[:_MAX_REFUSALS]:
            echo(printable(path), err=True)


@library.command()
@click.argument("run", type=int, required=False)
@_database
@click.option(
    "--force",
    is_flag=True,
    help="Also process files that other programs changed since; restores only genretree's fields.",
)
@_path_options()[0]
@_path_options()[1]
@quiet_option
def undo(run: int | None, db: Path | None, force: bool, only: Sequence[str], skip: Sequence[str], quiet: bool) -> None:
    """Restore the files that RUN (default: the last one) wrote to, byte for byte.

    This also undoes later runs on the same files. Files that other programs changed since need --force. With --only or
    --skip, the last run that wrote to the selected files; its other files stay, and can be restored later.
    """
    from genretree.library.apply.undo import undo as undo_run
    from genretree.library.database import journal
    from genretree.library.database.connection import back_up
    from genretree.library.database.path_selection import select_paths
    from genretree.progress import progress_bar

    with _open_for_writing(db, "library undo") as database:
        selection = select_paths(database, only, skip)
        number = journal.find_run(database, run, selection)
        if run is None:  # after an interruption, the same command could select the run before
            click.get_current_context().meta[RESUME_WITH] = (str(number),)
        back_up(database)
        with progress_bar(journal.count_chains(database, number, selection), "undo", "file", not quiet) as tick:
            restored, refused = undo_run(database, number, force=force, selection=selection, report=lambda *_: tick())
    echo(f"run {number}: {restored} files restored.")
    _show_refusals([(item.path, item.reason) for item in refused])


@library.command()
@click.argument("out", type=FOLDER)
@_database
@_planning
@click.option(
    "--format", "formats", type=click.Choice(["m3u8", "rekordbox", "both"]), default="m3u8", show_default=True
)
@click.option("--relative", is_flag=True, help="Write paths relative to the playlist (m3u8).")
@click.option("--like", type=FILE, help="Write one playlist instead: the tracks that are most similar to this song.")
@click.option("-n", "n", type=click.IntRange(1), default=30, show_default=True, help="Number of tracks, with --like.")
@click.option("--bundle", type=FOLDER, help="Bundle whose embeddings are compared, with --like.  [default: mn04]")
@download_option
@quiet_option
@click.pass_context
def playlists(
    context: click.Context,
    /,
    out: Path,
    db: Path | None,
    formats: str,
    relative: bool,
    like: Path | None,
    n: int,
    bundle: Path | None,
    download: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write a playlist per node into OUT, most confident first; for Rekordbox, one XML file to import.

    Here --min-depth defaults to 1, so that the top level has playlists, too. With --like, write the tracks that are
    most similar to a song (see: genretree similar --help).
    """
    from genretree.library.plan.playlists import PlaylistIndex, write_m3u8, write_rekordbox

    with_like = ("n", "bundle", "download")
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    unused = [
        option.opts[0]
        for option in context.command.params
        if option.name in given and option.name not in ("out", "db", "relative", "quiet", "like")
        if (option.name in with_like) is (like is None)
    ]
    if unused:
        raise click.UsageError(f"{unused[0]} {'needs' if like is None else 'has no effect with'} --like")
    if like is not None:
        _write_like_playlist(out, db, like, n, bundle, download, relative, quiet)
        return
    with _open_for_reading(db) as database:
        index = PlaylistIndex(_prepare_plans(database, progress=not quiet, top=True, **options)[1]())
    out.mkdir(parents=True, exist_ok=True)
    if formats in ("m3u8", "both"):
        echo(f"{out}: {len(write_m3u8(index, out, relative))} playlists")
    if formats in ("rekordbox", "both"):
        write_rekordbox(index, out / "rekordbox.xml")
        echo(f"{out / 'rekordbox.xml'}: in Rekordbox, Preferences > Advanced > rekordbox xml")


def _write_like_playlist(
    out: Path, db: Path | None, song: Path, n: int, bundle: Path | None, download: bool, relative: bool, quiet: bool
) -> None:
    from genretree.cli.similar import find_in_library
    from genretree.corpus.file_tags import read_tags
    from genretree.library.plan.playlists import write_like_playlist

    _, tracks = find_in_library(db, song, n, bundle, 2, download, quiet)
    tags = read_tags(song)
    title = f"{tags['artist']} - {tags['title']}" if {"artist", "title"} <= tags.keys() else song.stem
    files = [track.path for track in tracks if not track.relation]
    out.mkdir(parents=True, exist_ok=True)
    path = write_like_playlist(title, files, out, relative)
    echo(f"{path}: {len(files)} tracks")


@library.command()
@_database
@click.option(
    "--tree", "with_tree", is_flag=True, help="Show the tree of genres, with the most and least confident files."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(db: Path | None, with_tree: bool, as_json: bool) -> None:
    """Show the number of files and genres, problems, and the runs that can be undone."""
    from genretree.library.apply.recover import list_interrupted
    from genretree.library.database import journal, records

    with _open_for_reading(db) as database:
        model, model_key = records.find_model(database)
        here, gone = records.count_files(database)
        labels = model_key.taxonomy.labels(model_key.taxonomy.depth - 1)
        content = {
            "database": str(database.path),
            "model": {
                "digest": model_key.digest,
                "family": model_key.family,
                "bundle": model_key.bundle,
                "note": model_key.note,
            },
            "files": here,
            "gone": gone,
            "genres": {labels[leaf]: n for leaf, n in records.count_genres(database, model).items()},
            "problems": records.count_errors(database, model),
            "runs": [vars(run) for run in journal.list_runs(database)],
        }
        interrupted = list_interrupted(database)
        listed = records.list_errors(database, model, _MAX_REFUSALS)
        tree = None
        if with_tree:
            from genretree.library.plan.genre_tree import build_genre_tree

            tree = build_genre_tree(database, model, model_key)
    if as_json:
        if tree is not None:
            content["tree"] = _tree_json(tree)
        content["listed"] = [{"file": printable(path), "kind": kind, "message": text} for path, kind, text in listed]
        content["interrupted"] = [{"file": printable(item.path), "message": item.message} for item in interrupted]
        echo_json(content)
        return
    _show_status(content, listed, tree)
    _show_interrupted(interrupted)


def _tree_json(node: GenreNode) -> dict[str, Any]:
    most, least = (
        [{"file": printable(path), "confidence": round(confidence, 6)} for path, confidence in files]
        for files in (node.most_confident, node.least_confident)
    )
    children = [_tree_json(child) for child in node.children]
    path = list(node.path)
    return {"path": path, "files": node.n_files, "most_confident": most, "least_confident": least, "children": children}


def _add_to_tree(branch: Tree, node: GenreNode) -> None:
    """Add the files and the children of a node to its branch on the terminal."""
    from rich.markup import escape

    for title, files in (("most confident", node.most_confident), ("least confident", node.least_confident)):
        for path, confidence in files:
            branch.add(f"[dim]{title} {confidence:.0%}: {escape(printable(path))}[/]")
    for child in node.children:
        _add_to_tree(branch.add(f"[bold]{escape(child.path[-1])}[/]: {child.n_files}"), child)


def _show_status(
    content: dict[str, Any], listed: Sequence[tuple[str, str, str]], tree: GenreNode | None = None
) -> None:
    import time

    from rich.markup import escape
    from rich.tree import Tree

    from genretree.cli.tables import make_console

    console = make_console()
    model, genres, problems = content["model"], content["genres"], content["problems"]
    console.print(f"[bold]{escape(content['database'])}[/]: {content['files']} files, {content['gone']} missing")
    console.print(escape(f"model {model['digest']}: {model['family']} ({model['note']}), {model['bundle']}"))
    if tree is not None:
        branch = Tree(f"[bold]all genres[/]: {tree.n_files}")
        _add_to_tree(branch, tree)
        console.print(branch)
    else:
        for genre, n in sorted(genres.items(), key=lambda item: -item[1]):
            console.print(escape(f"  {genre}: {n}"))
    for kind, n in sorted(problems.items()):
        console.print(escape(f"failed, {kind}: {n}"))
    for path, kind, text in listed:
        console.print(f"  [dim]{escape(f'{printable(path)} ({kind}): {text}')}[/]")
    for run in content["runs"]:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"]))
        console.print(escape(f"run {run['id']} ({when}): {run['written']} files written, {run['undone']} undone"))


def _show_interrupted(found: Sequence[Interrupted]) -> None:
    for item in found[:_MAX_REFUSALS]:
        echo(f"{printable(item.path)}: {item.message}", err=True)
    if len(found) > _MAX_REFUSALS:
        echo(f"and {len(found) - _MAX_REFUSALS} more interrupted writes", err=True)


@contextmanager
def _open_for_reading(db: Path | None) -> Iterator[Database]:
    from genretree.library.database.connection import convert_errors, default_database, open_database

    path = db or default_database()
    with convert_errors(path), open_database(path, read_only=True) as database:
        yield database


@contextmanager
def _open_for_writing(db: Path | None, what: str, create: bool = False) -> Iterator[Database]:
    from genretree.library.apply.recover import list_interrupted, recover
    from genretree.library.database.connection import convert_errors, default_database, lock_database, open_database

    path = db or default_database()
    if not create:
        open_database(path, check=False).close()  # refuse a missing database before the lock file is created next to it
    with convert_errors(path), lock_database(path, what), open_database(path, create=create, check=True) as database:
        if recovered := recover(database):
            echo(f"{len(recovered)} files were being written when an earlier run ended; none is damaged", err=True)
        for item in [item for item in recovered if item.edited][:_MAX_REFUSALS]:
            message = show_options(item.message, library.commands["undo"])  # the options are those of undo
            echo(f"{printable(item.path)}: {message}", err=True)
        if not create:  # analyse looks for the files first
            _show_interrupted(list_interrupted(database))
        yield database


def _prepare_plans(
    database: Database,
    *,
    mapping: Path | None,
    min_confidence: float | None,
    depth: int | None,
    min_depth: int | None,
    genres: int | None,
    level: str | None,
    folder: str | None,
    digest: str | None,
    mode: Mode,
    progress: bool,
    by: str = "track",
    separator: str | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    top: bool = False,
) -> tuple[ModelKey, Callable[..., Iterator[TagPlan]]]:
    """Return the model, and a function that makes the plans for the options; with `top`, the minimum depth is 1."""
    from genretree.library.database.records import count_files, find_model
    from genretree.library.plan.albums import Albums
    from genretree.library.plan.mapping import Mapping as Rules
    from genretree.library.plan.mapping import load_mapping, override_settings
    from genretree.library.plan.planner import iter_plans
    from genretree.progress import progress_bar

    model, model_key = find_model(database, digest)
    filters = _make_filters(database, folder, only, skip, _level(level, model_key.taxonomy.levels))
    rules = Rules() if mapping is None else load_mapping(mapping, model_key.taxonomy)
    if top and rules.settings.min_depth is None:
        min_depth = min_depth or 1
    rules = override_settings(rules, min_confidence, depth, min_depth, genres, separator)
    total = sum(count_files(database))
    albums = None
    if by == "album":
        with progress_bar(total, "albums", "file", progress and total > _MANY) as tick:
            albums = Albums(database, model, model_key, rules, filters.folder, tick)

    def make_plans(show: bool = True) -> Iterator[TagPlan]:
        return _with_progress(
            iter_plans(database, model, model_key, rules, mode, filters, albums), total, progress and show
        )

    return model_key, make_plans


def _prepare_edited_plan(
    database: Database,
    *,
    plan: Path,
    folder: str | None,
    only: Sequence[str],
    skip: Sequence[str],
    separator: str | None,
    progress: bool,
    **_: Any,
) -> tuple[ModelKey, Callable[..., Iterator[TagPlan]]]:
    """Return the model of an edited plan, and a function that makes its plans."""
    from genretree.library.database.records import count_files, find_model
    from genretree.library.plan.edited_plan import EditedPlan, iter_edited_plans
    from genretree.library.plan.mapping import Mapping as Rules
    from genretree.library.plan.mapping import override_settings

    edited = EditedPlan(plan)
    edited.match(database)
    model, model_key = find_model(database, edited.model)
    filters = _make_filters(database, folder, only, skip, None)
    override_settings(Rules(), separator=separator)  # checks it
    total = sum(count_files(database))

    def make_plans(show: bool = True) -> Iterator[TagPlan]:
        plans = iter_edited_plans(database, model, model_key, edited, filters, separator)
        return _with_progress(plans, total, progress and show)

    return model_key, make_plans


def _make_filters(
    database: Database, folder: str | None, only: Sequence[str], skip: Sequence[str], level: int | None
) -> Filters:
    from genretree.library.database.folders import check_folder
    from genretree.library.database.path_selection import select_paths
    from genretree.library.plan.planner import Filters
    from genretree.remote import local_path

    if folder is not None:
        folder = local_path(folder)
        check_folder(database, folder)
    return Filters(folder, level, select_paths(database, only, skip))


def _with_progress(plans: Iterator[TagPlan], total: int, progress: bool) -> Iterator[TagPlan]:
    from genretree.progress import progress_bar

    with progress_bar(total, "plan", "file", progress and total > _MANY) as tick:
        for plan in plans:
            tick()
            yield plan


def _level(level: str | None, names: Sequence[str]) -> int | None:
    if level is None:
        return None
    if level in names:
        return names.index(level) + 1
    if level.isdecimal() and 1 <= int(level) <= len(names):
        return int(level)
    raise click.UsageError(f"--level: unknown level '{level}'; levels: {', '.join(names)} (or their numbers)")


def _action_text(action: str) -> str:
    """Return the text for an action, with the options that change it."""
    from genretree.library.plan.planner import ACTIONS

    options = _ACTION_OPTIONS.get(action)
    return ACTIONS[action] + (f" (see {options})" if options else "")  # type: ignore[index]


def _show_actions(actions: Mapping[str, int]) -> None:
    for action, n in actions.items():
        echo(f"{n} {_action_text(action)}")


def _show_preview(preview: Preview, model_key: ModelKey) -> None:
    from rich.markup import escape
    from rich.table import Table

    from genretree.cli.tables import make_console
    from genretree.library.database.records import UNCALIBRATED

    console = make_console()

    def show(title: str, n: int, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
        table = Table(title=escape(f"{title}: {n}"), title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        if n > len(rows):
            console.print(f"[dim]{n - len(rows)} more; list all with --html, --csv, --parquet or --json[/]")

    albums, compilations, n_outliers = preview.count_albums()
    for genre, n in preview.genres():
        rows = preview.rows("write", genre, _MAX_ROWS)
        predicted = [
            (row.file, f"{row.confidence:.0%}", row.path, row.now or "-", *((row.album or "-",) if albums else ()))
            for row in rows
        ]
        columns = ("file", "confidence", "path", "current genre", *(("album",) if albums else ()))
        show(genre, n, columns, predicted)
    if n_outliers:
        outliers = [(row.file, row.outlier, row.genre or "-", row.album) for row in preview.outliers(_MAX_OUTLIERS)]
        columns = ("file", "on its own", "as part of the album", "album")
        show("outliers, which differ from their album", n_outliers, columns, outliers)
    for action, n in preview.actions().items():
        if action in ("write", "same"):
            continue
        skipped = [
            (row.file, row.message or (f"would be {row.genre}" if row.genre else "-"), row.now or "-")
            for row in preview.rows(action, limit=_MAX_SKIPPED)
        ]
        show(_action_text(action), n, ("file", "reason", "current genre"), skipped)
    _show_actions(preview.actions())
    if albums:
        echo(f"{albums} albums, {compilations} of them compilations; {n_outliers} outliers")
    if UNCALIBRATED in model_key.note:
        echo("The model is not calibrated: its confidence values are probably too high.")


def _show_refusals(refused: Sequence[tuple[str, str]]) -> None:
    for path, reason in refused[:_MAX_REFUSALS]:
        reason = show_current_options(reason)
        echo(f"skipped: {printable(path)}: {reason}", err=True)
    if len(refused) > _MAX_REFUSALS:
        echo(f"{len(refused) - _MAX_REFUSALS} more were skipped", err=True)
    if refused:
        sys.exit(1)
