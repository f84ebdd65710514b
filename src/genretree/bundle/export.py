"""Export of a bundle's networks to OpenVINO and ONNX, verified against torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genretree.bundle.bundle import Bundle, open_bundle
from genretree.bundle.manifest import check_files, files_outside, read_description, update_files
from genretree.errors import BundleError
from genretree.files import atomic_folder, sha256_file, write_text
from genretree.models.runtime.convert import INPUT, require_export_library, write_checked_graph
from genretree.models.runtime.graph import Graph, HasGraphs
from genretree.models.runtime.types import ExportFormat, graph_file

_DESCRIPTION = "export.json"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An export: its folder, its files, and the maximum difference from torch, relative to the largest output."""

    folder: Path
    files: tuple[str, ...]
    difference: float


def export_bundle(
    folder: str | Path, to: ExportFormat, out: str | Path | None = None, overwrite: bool = False
) -> Exported:
    """Export the networks of a bundle to another format and compare their outputs with torch.

    Parameters
    ----------
    folder : path
        The bundle.
    to : "openvino" or "onnx"
    out : path, optional
        A separate output folder, which also gets a description, `export.json`. By default the export is added to the
        bundle as its folder `openvino` or `onnx`, where `load_bundle` finds it.
    overwrite : bool
        Replace an existing export.

    Raises
    ------
    BundleError
        If the bundle is damaged or has no network, or the export exists or differs from torch.
    MissingExtraError
        If the libraries for this format are not installed.
    """
    folder = Path(folder)
    content = read_description(folder)
    other_files = files_outside(content, to)
    check_files(folder, other_files)
    require_export_library(to)
    bundle = open_bundle(folder, content)
    graphs = bundle.model.graphs(bundle.images.size) if isinstance(bundle.model, HasGraphs) else {}
    if not graphs:
        raise BundleError(f"{folder}: nothing to export, the family '{bundle.family}' has no network")
    target = folder / to if out is None else Path(out)
    if target.exists() and not overwrite:
        raise BundleError(f"{target}: already exists; replace it with `overwrite=True`")
    if out is not None and target.exists() and not (target / _DESCRIPTION).is_file():
        raise BundleError(f"{target}: not an export, so it is not replaced; choose another name or delete it")
    with atomic_folder(target) as draft:
        difference = max(write_checked_graph(to, graph, name, draft) for name, graph in graphs.items())
        names = sorted(path.name for path in draft.iterdir())
        files = {name: sha256_file(draft / name) for name in names}
        if out is not None:
            write_text(draft / _DESCRIPTION, json.dumps(_describe(bundle, to, graphs, files), indent=1))
        elif other_files != content["files"]:  # the bundle never lists missing files
            update_files(folder, to, {})
    if out is None:
        update_files(folder, to, {f"{to}/{name}": digest for name, digest in files.items()})
    return Exported(folder=target, files=tuple(names), difference=difference)


def _describe(
    bundle: Bundle, to: ExportFormat, graphs: Mapping[str, Graph], files: Mapping[str, str]
) -> dict[str, Any]:
    """Build the description of a separate export, which is used without the bundle."""
    return {
        "format": 1,
        "genretree": version("genretree"),
        "to": to,
        "bundle": sha256_file(bundle.folder / "bundle.json"),
        "family": bundle.family,
        "heads": bundle.model.heads,
        "taxonomy": bundle.taxonomy.to_json(),
        "images": bundle.images.model_dump(),
        "graphs": {
            name: {
                "file": graph_file(to, name),
                "input": {
                    "name": INPUT,
                    "type": str(graph.example.dtype).removeprefix("torch."),
                    "shape": ["rows", *graph.example.shape[1:]],
                },
                "outputs": list(graph.outputs),
            }
            for name, graph in graphs.items()
        },
        "files": dict(files),
    }
