"""The model card: what a bundle and its evaluation say of themselves, as the Hub's README.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genretree.bundle.hub.contents import read_json
from genretree.bundle.hub.names import parse_name
from genretree.corpus.splits import WITHOUT_TRACKS
from genretree.errors import HubError
from genretree.settings import SAMPLE_RATE
from genretree.taxonomy import Taxonomy, format_path

_METRICS = "metrics.json"
_WEAKEST = 3
_FEW_GROUPS = 30
_MUSICNN = "the MusiCNN networks of Pons and Serra (ISC licence)"


@dataclass(frozen=True)
class CardInfo:
    """What a card says that a bundle doesn't hold.

    Parameters
    ----------
    report : path, optional
        The folder (or `metrics.json`) that `genretree evaluate` wrote about this bundle; without it the card has no
        figures, and says so.
    license : str, optional
        By the Hub's short names: `cc-by-4.0`, `mit`.
    data : str, optional
        What it was learned from, in a sentence.
    """

    report: str | Path | None = None
    license: str | None = None
    data: str | None = None


def read_figures(report: str | Path | None, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the figures of an evaluation, and make sure that they are of this bundle.

    Raises
    ------
    HubError
        If there are none, or they are of another bundle.
    """
    if report is None:
        return None
    path = Path(report)
    path = path / _METRICS if path.is_dir() else path
    if not path.is_file():
        raise HubError(f"{path}: no such report; make it with: genretree evaluate BUNDLE STORE --out REPORT")
    figures = read_json(path)
    if not isinstance(figures, dict) or not {"track", "slice", "training", "disjoint"} <= set(figures):
        raise HubError(f"{path}: these are no figures of genretree evaluate; evaluate the bundle again")
    learned = figures["training"]
    if not learned or any(content["training"].get(name) != value for name, value in learned.items()):
        raise HubError(f"{path}: these figures are of another bundle; evaluate this one: genretree evaluate")
    return figures


def write_card(content: Mapping[str, Any], card_info: CardInfo, repo: str, figures: Mapping[str, Any] | None) -> str:
    """Write the card of a bundle.

    Parameters
    ----------
    content : mapping
        The bundle's description.
    card_info : CardInfo
    repo : str
        `user/name`.
    figures : mapping, optional
        What `read_figures` gave.

    Returns
    -------
    str
        Markdown, with the Hub's metadata (YAML) at its head.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("genretree", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # it is Markdown; what comes from outside goes through `plain`
    )
    environment.filters["plain"] = plain
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    training = content["training"]
    tree = Taxonomy.from_json(content["taxonomy"])
    levels = [] if figures is None else figures[_unit(figures)]["levels"]
    return environment.get_template("card.md.j2").render(
        metadata=_metadata(card_info, repo, figures).to_yaml(),
        repo=repo,
        family=content["family"],
        heads=content["settings"].get("heads", "tree"),
        seconds=content["images"]["slice_seconds"],
        rate=SAMPLE_RATE,
        example=format_path(tree.leaves[-1]),
        sizes=[(name, len(tree.labels(level))) for level, name in enumerate(tree.levels)],
        leaves=tree.leaves,
        training=training,
        split=training.get("split", {}),
        source=Path(str(training.get("store", {}).get("source", ""))).name,
        card_info=card_info,
        figures=figures,
        unit=None if figures is None else _unit(figures),
        scores=None if figures is None else figures[_unit(figures)],
        weakest=_weakest(levels),
        few=_FEW_GROUPS,
        calibration=content.get("calibration"),
        borrowed=_borrowed(content),
        version=content.get("genretree", "?"),
    )


def plain(text: object) -> str:
    """Give text that means nothing in Markdown, HTML or a table but itself, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", line)


def _unit(figures: Mapping[str, Any]) -> str:
    """Say what to tell the figures by: slices, where nothing is known of tracks."""
    return "slice" if figures["group_by"] in WITHOUT_TRACKS else "track"


def _metadata(card_info: CardInfo, repo: str, figures: Mapping[str, Any] | None) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    if figures is not None:
        for level in figures[_unit(figures)]["levels"]:
            cut = f"{level['name']}, by {_unit(figures)}, {figures['disjoint']}"
            for metric, title in (("accuracy", "Accuracy"), ("macro_f1", "Macro-F1")):
                results.append(
                    EvalResult(
                        task_type="audio-classification",
                        dataset_type="genretree",
                        dataset_name=card_info.data or Path(str(figures["store"])).name,
                        dataset_split=figures["part"],
                        metric_type="f1" if metric == "macro_f1" else metric,
                        metric_name=f"{title}, {cut}",
                        metric_value=round(level[metric], 4),
                    )
                )
    return ModelCardData(
        license=card_info.license,
        library_name="genretree",
        pipeline_tag="audio-classification",
        tags=["genretree", "music", "music-genre", "music-information-retrieval"],
        model_name=repo.split("/")[1] if results else None,
        eval_results=results or None,
    )


def _weakest(levels: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Name the classes of the last level that it knows least, of those that were tried at all."""
    tried = [item for item in levels[-1]["classes"] if item["support"]] if levels else []
    return sorted(tried, key=lambda item: float(item["f1"]))[:_WEAKEST]


def _borrowed(content: Mapping[str, Any]) -> list[str]:
    """Say whose weights are in the bundle, or were the beginning of its own."""
    found = []
    if any("musicnn-" in name for name in content["files"]):
        found.append(f"It holds {_MUSICNN}.")
    own = content["training"].get("heard_before")  # of `genretree pretrain`: a folder, not a name on the Hub
    began = content["training"].get("initial_weights")
    if isinstance(began, dict) and ("licence" in began or not own):
        where = ", ".join(str(began[name]) for name in ("source", "revision", "sha256") if name in began)
        licence = f" (licence {began['licence']})" if "licence" in began else ""
        found.append(f"It started from the weights {where}{licence}, whose licence holds for it, too.")
        return found
    start = content["settings"].get("weights")
    if isinstance(start, str) and parse_name(start) is not None and not own:
        found.append(f"It started from {start}, whose licence holds for it, too.")
    return found
