"""The models of a service: loading bundles, and their metadata for clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.manifest import read_description
from genretree.bundle.ready import SCHEME
from genretree.errors import SettingsError
from genretree.explanation.methods.registry import choose_method
from genretree.explanation.similar.neighbours import FOLDER as INDEX
from genretree.explanation.slices import is_explainable, require_views
from genretree.library.scan.classifier import model_digest
from genretree.models.differentiable import supported_methods
from genretree.models.runtime.types import Precision, RuntimeChoice
from genretree.service.errors import Problem
from genretree.taxonomy import NodePath, Taxonomy

_CAPTUM_METHODS = ("gradcam", "integrated-gradients")


@dataclass(frozen=True)
class LoadedModel:
    """A loaded bundle.

    Parameters
    ----------
    name : str
        Name of its folder, or of the ready model.
    bundle : Bundle
    metadata : mapping
        Response of `GET /v1/models` for this model.
    """

    name: str
    bundle: Bundle
    metadata: Mapping[str, Any]


def load_models(
    folders: Sequence[str | Path], runtime: RuntimeChoice = "auto", precision: Precision = "auto"
) -> dict[str, LoadedModel]:
    """Load bundles; returns them by name, the default first.

    Raises
    ------
    BundleError, MissingExtraError
        Raised by `load_bundle`.
    SettingsError
        If two bundles have the same name.
    """
    models: dict[str, LoadedModel] = {}
    for folder in folders:
        name = Path(folder).resolve().name.removeprefix(SCHEME)
        if name in models:
            raise SettingsError(f"two bundles are named '{name}'; rename one of the folders, which name the models")
        bundle = load_bundle(folder, runtime, precision)
        models[name] = LoadedModel(name, bundle, _model_metadata(name, bundle, default=not models))
    return models


def find_model(models: Mapping[str, LoadedModel], name: str | None) -> LoadedModel:
    """Return the model with this name, or the default. Raises Problem (not_found) if there is none."""
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise Problem("not_found", f"unknown model '{name}'; available: {', '.join(models)}")
    return models[name]


def check_method(loaded: LoadedModel, method: str | None) -> None:
    """Raise SettingsError if a model does not support an explanation method."""
    require_views(loaded.bundle)
    methods = loaded.metadata["methods"]
    chosen = choose_method(method)
    if chosen not in methods:
        raise SettingsError(
            f"the model '{loaded.name}' does not support the method '{chosen}'; available: {', '.join(methods)}"
        )


def taxonomy_tree(taxonomy: Taxonomy) -> dict[str, Any]:
    """Return a taxonomy as nested nodes with names, paths and children."""

    def node(path: NodePath) -> dict[str, Any]:
        below = dict.fromkeys(leaf[: len(path) + 1] for leaf in taxonomy.leaves if leaf[: len(path)] == path)
        children = [node(child) for child in below if len(child) > len(path)]
        return {"name": path[-1] if path else "", "path": list(path), "children": children}

    return node(())


def _model_metadata(name: str, bundle: Bundle, default: bool) -> dict[str, Any]:
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
    """List the explanation methods of a model, the default first; none if explanations don't cover its inputs."""
    if not is_explainable(bundle):
        return []
    captum = find_spec("captum") is not None
    supported = [name for name in supported_methods(bundle.model) if captum or name not in _CAPTUM_METHODS]
    return ["occlusion", *supported]
