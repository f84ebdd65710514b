"""The bundles that a service uses: which there are, and what is to be known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import read_description
from genretree.errors import SettingsError
from genretree.explanation.methods.registry import choose_method
from genretree.explanation.similar.neighbours import FOLDER as INDEX
from genretree.library.listen import model_digest
from genretree.models.runtime.types import Precision, RuntimeChoice
from genretree.service.batching import Batcher
from genretree.service.limits import Limits
from genretree.service.problems import Problem
from genretree.taxonomy import NodePath, Taxonomy

_NEED_CAPTUM = ("gradcam", "integrated-gradients")


@dataclass(frozen=True)
class Served:
    """A bundle in use.

    Parameters
    ----------
    name : str
        That of its folder.
    bundle : Bundle
    facts : mapping
        What `GET /v1/models` says of it.
    batcher : Batcher
    """

    name: str
    bundle: Bundle
    facts: Mapping[str, Any]
    batcher: Batcher


def load_models(
    folders: Sequence[str | Path],
    limits: Limits,
    executor: Executor,
    more: Callable[[], bool],
    count: Callable[[int, int], None],
    runtime: RuntimeChoice = "auto",
    precision: Precision = "auto",
) -> dict[str, Served]:
    """Load bundles, by name; the first is the default.

    Raises
    ------
    BundleError, MissingExtraError
        As `load_bundle`.
    SettingsError
        If two have the same name.
    """
    found: dict[str, Served] = {}
    for folder in folders:
        name = Path(folder).resolve().name
        if name in found:
            raise SettingsError(f"two bundles are named '{name}'; models go by their folder's name, so rename one")
        bundle = load_bundle(folder, runtime, precision)
        batcher = Batcher(
            bundle.model.predict_proba, executor, limits.batch_slices, limits.batch_seconds, more=more, count=count
        )
        found[name] = Served(name, bundle, _describe(name, bundle, default=not found), batcher)
    return found


def find_model(models: Mapping[str, Served], name: str | None) -> Served:
    """Give the model of a name, or the default. Raises Problem (not_found) if there is none."""
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise Problem("not_found", f"no model '{name}'; there are: {', '.join(models)}")
    return models[name]


def check_method(served: Served, method: str | None) -> None:
    """Refuse a method of explaining that doesn't fit a model. Raises SettingsError."""
    methods = served.facts["methods"]
    if choose_method(method) not in methods:
        raise SettingsError(f"{method} is not for the model '{served.name}'; it has: {', '.join(methods)}")


def nest(taxonomy: Taxonomy) -> dict[str, Any]:
    """Give a tree as nested nodes with names, paths and children."""

    def node(path: NodePath) -> dict[str, Any]:
        below = dict.fromkeys(leaf[: len(path) + 1] for leaf in taxonomy.leaves if leaf[: len(path)] == path)
        children = [node(child) for child in below if len(child) > len(path)]
        return {"name": path[-1] if path else "", "path": list(path), "children": children}

    return node(())


def _describe(name: str, bundle: Bundle, default: bool) -> dict[str, Any]:
    taxonomy = bundle.taxonomy
    note = str(bundle.training.get("note", ""))
    arithmetic = bundle.runtime.rpartition(" ")[2]
    return {
        "name": name,
        "id": model_digest(read_description(bundle.folder), arithmetic, False),
        "family": bundle.family,
        "levels": list(taxonomy.levels),
        "classes": [len(taxonomy.nodes(level)) for level in range(taxonomy.depth)],
        "runtime": bundle.runtime,
        "methods": _methods(bundle),
        "neighbours": (bundle.folder / INDEX).is_dir(),
        "calibrated": bundle.calibration is not None,
        **({"note": note} if note else {}),
        "default": default,
    }


def _methods(bundle: Bundle) -> list[str]:
    """Name the methods of explaining that a model has, the default first."""
    own: tuple[str, ...] = getattr(bundle.model, "explain_methods", ())
    captum = find_spec("captum") is not None
    found = [name for name in own if captum or name not in _NEED_CAPTUM]
    return ["occlusion", *found]
