"""The commands `explain` and `index`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.cli.options import (
    FOLDER,
    OUT_FOLDER,
    download_option,
    images_option,
    quiet_option,
    refuse,
    require_folder,
    runtime_options,
)
from genretree.cli.output import echo, echo_json
from genretree.errors import SettingsError

if TYPE_CHECKING:
    from genretree.bundle.bundle import Bundle
    from genretree.corpus.store import Store
    from genretree.corpus.triples import ImageSet
    from genretree.explanation import Explanation
    from genretree.models.runtime.types import Precision, RuntimeChoice
    from genretree.sound.images import ImageForm


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE|IMAGES...|STORE")
@click.option("--track", help="Track of the STORE, by path or row number (#12).")
@click.option("--node", help="Node to explain.  [default: each node of the predicted path]")
@click.option("--against", help="Contrast with this node.  [default: its siblings]")
@click.option("--level", help="Explain the predicted node of this level only.")
@click.option("--class", "genre", help="Explain this node over its tracks in the STORE.")
@click.option("--method", help="Method: occlusion (default), gradcam, rollout or integrated-gradients.")
@click.option(
    "--masks",
    type=click.IntRange(0),
    default=0,
    help="Number of random masks for occlusion; 0 occludes each part in turn.",
)
@click.option("--neighbours", type=click.IntRange(1), help="Number of nearest training tracks to list.")
@click.option("--clips", type=OUT_FOLDER, help="Folder for audio clips of typical and untypical passages.")
@click.option(
    "--check", is_flag=True, help="Measure the faithfulness of the map; for a STORE, over its held-out tracks."
)
@click.option("--part", help="Part of the split for --class and --check, or all.  [default: test]")
@click.option(
    "--most", type=click.IntRange(1), help="Maximum number of tracks for --class and --check.  [default: 10, 50]"
)
@click.option("--seed", default=0, show_default=True, help="Seed for random masks and checks.")
@click.option("--salvage", is_flag=True, help="Use the decodable part of a truncated file.")
@images_option
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@click.option("--out", type=OUT_FOLDER, help="Folder for pictures, page and arrays.")
@runtime_options("auto", "auto")
@download_option
@quiet_option
def explain(
    bundle: Path,
    sources: Sequence[Path],
    track: str | None,
    node: str | None,
    against: str | None,
    level: str | None,
    genre: str | None,
    method: str | None,
    masks: int,
    neighbours: int | None,
    clips: Path | None,
    check: bool,
    part: str | None,
    most: int | None,
    seed: int,
    salvage: bool,
    image_form: ImageForm,
    as_json: bool,
    out: Path | None,
    runtime: RuntimeChoice,
    precision: Precision,
    download: bool,
    quiet: bool,
) -> None:
    """Show which parts of the audio drove the prediction of BUNDLE.

    The source is an audio FILE; IMAGES of the spectrograms of one track (mel.png cqt.png chroma.png, or a folder of
    slices); or a prepared STORE with --track (one track), --class (a genre over its tracks) or --check (faithfulness
    over its held-out tracks).
    """
    from genretree.bundle.bundle import load_bundle
    from genretree.bundle.hub import find_bundle
    from genretree.corpus.store import Store

    source = sources[0]
    store = Store(source) if (source / "store.json").is_file() else None
    images = [] if store is not None else _find_images(sources)
    if not images and len(sources) > 1:
        raise click.UsageError(f"expected one audio file or store, got {len(sources)}: {sources[0]}, {sources[1]} ...")
    if image_form != "auto" and not images:
        raise click.UsageError(f"--images needs images as the source, but {source} is not an image")
    if images:
        unsupported = {"track": track, "class": genre, "part": part, "most": most, "clips": clips, "salvage": salvage}
        refuse("images", **unsupported)
    elif store is None:
        refuse("an audio file, only with a store", **{"track": track, "class": genre, "part": part, "most": most})
    elif (track is not None) + (genre is not None) + (check and track is None) != 1:
        raise click.UsageError(f"{source} is a store; add --track NAME, --class GENRE or --check")
    else:
        refuse("a store, which has no audio", clips=clips)
    if precision == "auto" and method not in (None, "occlusion"):
        precision = "float32"  # gradients are not measured in bf16
    loaded = load_bundle(find_bundle(bundle, download, not quiet), runtime, precision)
    if store is not None and track is None:
        options = {"part": part or "test", "progress": not quiet, **({} if most is None else {"max_tracks": most})}
        refuse("a whole store", node=node, level=level, neighbours=neighbours, masks=masks)
        summary = _explain_genre(loaded, store, genre, against, method, out, options) if genre else None
        summary = summary or _run_survey(loaded, store, method, out, {**options, "seed": seed})
        echo_json(summary) if as_json else _show_summary(summary)
        return
    from genretree.explanation import explain as explain_track
    from genretree.explanation.render.page import save_explanation

    for folder in (out, clips):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # fail before the computation if the folder is not writable
    result = explain_track(
        loaded,
        source if track is None else track,
        store=store,
        images=images,
        image_form=image_form,
        node=node,
        against=against,
        method=method,
        level=level,
        masks=masks,
        neighbours=neighbours,
        seed=seed,
        salvage=salvage,
        check=check,
        progress=not quiet,
    )
    if clips is not None and out is None:
        from genretree.explanation.render.clips import write_clips
        from genretree.sound.decode import decode

        write_clips(result, decode(source, salvage=salvage), clips)
    page = None if out is None else save_explanation(result, out, None if store or images else source, clips, salvage)
    if as_json:
        echo_json(result.to_json())
        return
    _show(result)
    if page is not None:
        echo(f"Page with pictures and audio: {page}")


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("store", type=FOLDER)
@click.option("--part", default="train", show_default=True, help="Part of the training split to index, or all.")
@click.option("--overwrite", is_flag=True, help="Replace an existing index.")
@quiet_option
def index(bundle: Path, store: Path, part: str, overwrite: bool, quiet: bool) -> None:
    """Add an index of the tracks of STORE to BUNDLE, so that `genretree explain` can list the nearest.

    The index holds the name, the genre and a vector of each track. Everyone who has the bundle can read them.
    """
    from genretree.corpus.store import Store
    from genretree.explanation.similar.neighbours import FOLDER as NAME
    from genretree.explanation.similar.neighbours import build_index

    n = build_index(require_folder(bundle), Store(store), part, overwrite, progress=not quiet)
    echo(f"{bundle / NAME}: {n} tracks.")


def _find_images(sources: Sequence[Path]) -> list[ImageSet]:
    """Group the images of one track; returns an empty list if the sources are not images."""
    from genretree.prediction.from_images import find_image_sets, holds_images

    are_images = [holds_images(path) for path in sources]
    if not any(are_images):
        return []
    if not all(are_images):
        raise click.UsageError(f"{sources[are_images.index(False)]}: not an image; give images only, or one audio file")
    return find_image_sets(sources)


def _explain_genre(
    bundle: Bundle,
    store: Store,
    genre: str,
    against: str | None,
    method: str | None,
    out: Path | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    from genretree.explanation.genre.page import save_genre
    from genretree.explanation.genre.view import view_genre
    from genretree.explanation.methods.registry import choose_method

    view = view_genre(bundle, store, genre, choose_method(method), against=against, **options)
    if out is not None:
        save_genre(view, store, out)
    return view.to_json()


def _run_survey(
    bundle: Bundle, store: Store, method: str | None, out: Path | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    from genretree.explanation.methods.registry import choose_method
    from genretree.explanation.survey import survey
    from genretree.files import write_text

    content = survey(bundle, store, choose_method(method), **options).to_json()
    if out is not None:
        write_text(out / "check.json", json.dumps(content, indent=1, ensure_ascii=False))
    if not content["tracks"]:
        raise SettingsError(
            f"the bundle predicts none of {content['looked_at']} tracks correctly; choose another part or more tracks"
        )
    return content


def _show(explanation: Explanation) -> None:
    from rich.markup import escape

    from genretree.cli.tables import make_console, show_prediction
    from genretree.taxonomy import display_text

    show_prediction(explanation.prediction)
    console = make_console()
    for reason in explanation.reasons:
        odds, empty = reason.log_odds.mean(), reason.baseline.mean()
        console.print(f"[bold]{escape(display_text(reason.target.question))}[/]")
        for sentence in reason.sentences:
            measured = f" [dim]({sentence.relevance:+.2f} ± {sentence.noise:.2f})[/]"
            console.print(f"  {escape(sentence.text)}{'' if sentence.aspect == 'tags' else measured}")
        if not reason.sentences:
            console.print("  No kind of sound stands out from the noise of the measurement.")
        console.print(f"  log odds {odds:+.2f} (baseline {empty:+.2f})")
        shares = ", ".join(f"{view} {values.mean():+.2f}" for view, values in reason.shares.items())
        bands = ", ".join(f"{item['name']} ({item['view']})" for item in reason.bands() if item["relevance"] > 0)
        console.print(f"  views: {shares}")
        if reason.baseline_dominates:
            console.print("  [yellow]the baseline alone scores as high as the audio, so the maps explain little[/]")
        console.print(f"  most relevant ({explanation.method}): {escape(bands or 'nothing')}")
    for kind, passages in (("most", explanation.line.typical), ("least", explanation.line.untypical)):
        spans = ", ".join(f"{item.start:.1f}-{item.end:.1f} s ({item.probability:.0%})" for item in passages)
        if spans:
            console.print(f"  {kind} typical of {escape(explanation.line.node[-1])}: {spans}")
    for item in explanation.neighbours or ():
        note = "" if item.learned else ", not in training"
        console.print(f"  nearest: {escape(item.track)} [dim]({escape(item.genre[-1])}, {item.distance:.3f}{note})[/]")
    if explanation.check is not None:
        _show_check(explanation.check)


def _show_check(check: Mapping[str, Any]) -> None:
    from rich.table import Table

    from genretree.cli.tables import make_console

    table = Table(title="Area under the curve", title_justify="left")
    for column in ("order", "deletion (lower is better)", "insertion (higher is better)"):
        table.add_column(column)
    for order, area in check["deletion"].items():
        table.add_row(order, f"{area:.3f}", f"{check['insertion'][order]:.3f}")
    console = make_console()
    console.print(table)
    correlation = check["randomised_weights"]
    shuffled = "no network to shuffle" if correlation is None else f"{correlation:.2f} with shuffled weights (ideal: 0)"
    console.print(
        f"Rank correlation of the map: {shuffled}, {check['inaudible_noise']:.2f} with inaudible noise (ideal: 1)"
    )


def _show_summary(summary: Mapping[str, Any]) -> None:
    from rich.markup import escape

    from genretree.cli.tables import make_console

    console = make_console()
    if "node" in summary:
        node = escape(" > ".join(summary["node"]))
        console.print(f"[bold]{node}[/]: {summary['tracks']} tracks, {summary['method']}")
        for view in summary["by_band"]:
            bands = [band for band in summary["bands"] if band["view"] == view][:4]
            console.print(f"  {view}: {', '.join(_format_band(band) for band in bands)}")
        for kind in ("typical", "untypical"):
            listed = ", ".join(f"{item['track']} {item['probability']:.0%}" for item in summary[kind])
            console.print(f"  {kind}: {escape(listed)}")
        for kind, words in (("taken_for", "predicted instead"), ("taken_from", "wrongly predicted for")):
            listed = ", ".join(f"{item['path'][-1]} ({item['tracks']})" for item in summary[kind])
            console.print(f"  {words}: {escape(listed or 'none')}")
        return
    better = summary["deletion_better_than"]
    console.print(
        f"{summary['method']}: {summary['right']} of {summary['looked_at']} tracks are predicted correctly; of these,"
    )
    shares = ", ".join(f"than {order} for {better[order]:.0%}" for order in ("random", "energy", "edges"))
    console.print(f"the map has a better deletion curve {shares}.")
    _show_check(summary)


def _format_band(band: Mapping[str, Any]) -> str:
    return f"{band['name']} {band['relevance']:+.2f}"
