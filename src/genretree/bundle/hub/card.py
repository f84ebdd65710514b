"""The model card of a bundle: the Hub's README.md with metrics and metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genretree.bundle.hub.contents import read_json
from genretree.bundle.hub.names import parse_name
from genretree.bundle.ready import parse_place
from genretree.corpus.splits import WITHOUT_TRACKS
from genretree.errors import HubError
from genretree.settings import SAMPLE_RATE
from genretree.taxonomy import Taxonomy, format_path

CARD = "README.md"
_METRICS = "metrics.json"
_N_WEAKEST = 3
_FEW_GROUPS = 30
_MUSICNN = "the MusiCNN networks of Pons and Serra (ISC licence)"


@dataclass(frozen=True)
class CardInfo:
    """Content of a model card that a bundle does not contain.

    Parameters
    ----------
    report : path, optional
        The report folder, or `metrics.json`, that `genretree evaluate` wrote for this bundle; without it the card
        has no metrics.
    license : str, optional
        The Hub's identifier: `cc-by-4.0`, `mit`.
    data : str, optional
        Description of the training data, one sentence.
    limits : tuple of str
        Further limitations, one sentence each.
    """

    report: str | Path | None = None
    license: str | None = None
    data: str | None = None
    limits: tuple[str, ...] = ()


def read_metrics(report: str | Path | None, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read `metrics.json` and check that it belongs to this bundle.

    Raises
    ------
    HubError
        If the file does not exist, is not an evaluation, or belongs to another bundle.
    """
    if report is None:
        return None
    path = Path(report)
    path = path / _METRICS if path.is_dir() else path
    if not path.is_file():
        raise HubError(f"{path}: no such report; write one with `save_evaluation` or `genretree evaluate`")
    metrics = read_json(path)
    if not isinstance(metrics, dict) or not {"track", "slice", "training", "disjoint"} <= set(metrics):
        raise HubError(f"{path}: not the metrics of an evaluation; evaluate the bundle again")
    training = metrics["training"]
    if not training or any(content["training"].get(name) != value for name, value in training.items()):
        raise HubError(f"{path}: these metrics belong to another bundle; evaluate this one")
    return metrics


def write_card(content: Mapping[str, Any], card_info: CardInfo, repo: str, metrics: Mapping[str, Any] | None) -> str:
    """Render the model card of a bundle.

    Parameters
    ----------
    content : mapping
        The content of `bundle.json`.
    card_info : CardInfo
    repo : str
        `user/name` on the Hub, or `zoo:NAME` for a ready model that was made on this machine.
    metrics : mapping, optional
        The result of `read_metrics`.

    Returns
    -------
    str
        Markdown after a header with the Hub's metadata (YAML).
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("genretree", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown; untrusted text is escaped with `plain`
    )
    environment.filters["plain"] = plain
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    training = content["training"]
    tree = Taxonomy.from_json(content["taxonomy"])
    levels = [] if metrics is None else metrics[_unit(metrics)]["levels"]
    return environment.get_template("card.md.j2").render(
        metadata=_metadata(card_info, repo, metrics).to_yaml(),
        repo=repo,
        ready_model=parse_place(repo),
        family=content["family"],
        heads=content["settings"].get("heads", "tree"),
        seconds=content["images"]["slice_seconds"],
        sr=SAMPLE_RATE,
        example=format_path(tree.leaves[-1]),
        sizes=[(name, len(tree.labels(level))) for level, name in enumerate(tree.levels)],
        leaves=tree.leaves,
        training=training,
        split=training.get("split", {}),
        source=Path(str(training.get("store", {}).get("source", ""))).name,
        card_info=card_info,
        metrics=metrics,
        unit=None if metrics is None else _unit(metrics),
        scores=None if metrics is None else metrics[_unit(metrics)],
        weakest=_weakest(levels),
        few=_FEW_GROUPS,
        calibration=content.get("calibration"),
        origins=_weight_origins(content),
        version=content.get("genretree", "?"),
    )


def plain(text: object) -> str:
    """Escape text for Markdown, HTML and tables, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", line)


def _unit(metrics: Mapping[str, Any]) -> str:
    """Return the unit to report: slices if the store has no tracks."""
    return "slice" if metrics["group_by"] in WITHOUT_TRACKS else "track"


def _metadata(card_info: CardInfo, repo: str, metrics: Mapping[str, Any] | None) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    if metrics is not None:
        for level in metrics[_unit(metrics)]["levels"]:
            subset = f"{level['name']}, by {_unit(metrics)}, {metrics['disjoint']}"
            for metric, title in (("accuracy", "Accuracy"), ("macro_f1", "Macro-F1")):
                results.append(
                    EvalResult(
                        task_type="audio-classification",
                        dataset_type="genretree",
                        dataset_name=card_info.data or Path(str(metrics["store"])).name,
                        dataset_split=metrics["part"],
                        metric_type="f1" if metric == "macro_f1" else metric,
                        metric_name=f"{title}, {subset}",
                        metric_value=round(level[metric], 4),
                    )
                )
    return ModelCardData(
        license=card_info.license,
        library_name="genretree",
        pipeline_tag="audio-classification",
        tags=["genretree", "music", "music-genre", "music-information-retrieval"],
        model_name=(parse_place(repo) or repo.split("/")[-1]) if results else None,
        eval_results=results or None,
    )


def _weakest(levels: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the classes of the last level with the lowest F1, of those that have test examples."""
    tested = [item for item in levels[-1]["classes"] if item["support"]] if levels else []
    return sorted(tested, key=lambda item: float(item["f1"]))[:_N_WEAKEST]


def _weight_origins(content: Mapping[str, Any]) -> list[str]:
    """Name the origins of pretrained weights in the bundle and of its initial weights."""
    origins = []
    if any("musicnn-" in name for name in content["files"]):
        origins.append(f"It contains {_MUSICNN}.")
    own = content["training"].get("heard_before")  # pretrained by the user: a folder, not a name on the Hub
    initial = content["training"].get("initial_weights")
    if isinstance(initial, dict) and ("licence" in initial or not own):
        where = ", ".join(str(initial[name]) for name in ("source", "revision", "sha256") if name in initial)
        licence = f" (licence {initial['licence']})" if "licence" in initial else ""
        verb = "contains" if content["family"] == "backbone" else "was initialised with"
        origins.append(f"It {verb} the weights {where}{licence}, whose licence also applies to it.")
        return origins
    start = content["settings"].get("weights")
    if isinstance(start, str) and parse_name(start) is not None and not own:
        origins.append(f"It was initialised with {start}, whose licence also applies to it.")
    return origins
