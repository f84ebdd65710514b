"""A bundle's networks for other runtimes than torch: written, compared with torch, and made a part of the bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genretree.bundle.bundle import Bundle, open_bundle
from genretree.bundle.manifest import check_files, files_beside, list_part, read_description
from genretree.errors import BundleError, GenretreeError
from genretree.files import sha256_file, write_text
from genretree.models.runtime.backends import open_runner
from genretree.models.runtime.convert import INPUT, require_export_library, write_graph
from genretree.models.runtime.graph import Graph, HasGraphs
from genretree.models.runtime.types import ExportFormat, RuntimeConfig, graph_file

_DESCRIPTION = "export.json"
_FARTHEST = 1e-3  # as a share of the spread of what a network gives; rounding alone is below a tenth of it
_WAYS: Mapping[ExportFormat, RuntimeConfig] = {
    "openvino": RuntimeConfig("openvino", bf16=False),
    "onnx": RuntimeConfig("onnxruntime", bf16=False),
}


@dataclass(frozen=True)
class Exported:
    """Where an export is, its files, and how far it is from torch at most, as a share of the outputs' spread."""

    folder: Path
    files: tuple[str, ...]
    difference: float


def export_bundle(
    folder: str | Path, to: ExportFormat, out: str | Path | None = None, overwrite: bool = False
) -> Exported:
    """Write the networks of a bundle in another form, and compare what they say with torch.

    Parameters
    ----------
    folder : path
        The bundle.
    to : "openvino" or "onnx"
    out : path, optional
        A folder of its own, which also gets a description, `export.json`. By default the export becomes a part of the
        bundle, as its folder `openvino` or `onnx`, and `load_bundle` can use it.
    overwrite : bool
        Replace an export that is there.

    Raises
    ------
    BundleError
        If the bundle is damaged or has no network, or the export is there or doesn't agree with torch.
    MissingExtraError
        If what writes and runs this form is not installed.
    """
    folder = Path(folder)
    content = read_description(folder)
    kept = files_beside(content, to)
    check_files(folder, kept)
    require_export_library(to)
    bundle = open_bundle(folder, content)
    graphs = bundle.model.graphs(bundle.images.size) if isinstance(bundle.model, HasGraphs) else {}
    if not graphs:
        raise BundleError(
            f"{folder}: there is no network in it ({bundle.family}); it needs no other runtime than it has"
        )
    target = folder / to if out is None else Path(out)
    if target.exists() and not overwrite:
        raise BundleError(f"{target}: exists already; replace it with `overwrite=True`")
    if out is not None and target.exists() and not (target / _DESCRIPTION).is_file():
        raise BundleError(f"{target}: is no export, and is not replaced; give another name or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        difference = max(_write(to, graph, name, draft) for name, graph in graphs.items())
        names = sorted(path.name for path in draft.iterdir())
        files = {name: sha256_file(draft / name) for name in names}
        if out is not None:
            write_text(draft / _DESCRIPTION, json.dumps(_describe(bundle, to, graphs, files), indent=1))
        elif kept != content["files"]:  # at no time does the bundle list what is not there
            list_part(folder, to, {})
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if out is None:
        list_part(folder, to, {f"{to}/{name}": digest for name, digest in files.items()})
    return Exported(target, tuple(names), difference)


def _write(to: ExportFormat, graph: Graph, name: str, folder: Path) -> float:
    """Write one graph, and give how far it is from torch on one, two and three rows."""
    try:
        write_graph(to, graph, name, folder)
    except GenretreeError:
        raise
    except Exception as error:  # torch and the writers have errors of their own, for networks that they can't express
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleError(f"{name}: can't be written as {to} ({said})") from error
    run = open_runner(_WAYS[to], folder / graph_file(to, name))
    farthest = 0.0
    for rows in ([0], [0, 1], [1, 0, 1]):
        batch = graph.example[rows]
        with torch.inference_mode():
            expected = [output.numpy() for output in graph.module(batch)]
        for one, other in zip(expected, run(batch.numpy()), strict=True):
            spread = max(float(np.abs(one).max()), 1e-6)
            farthest = max(farthest, float(np.abs(one - other).max()) / spread)
    if not farthest < _FARTHEST:
        raise BundleError(f"{name}: as {to} it is {farthest:.1%} away from torch; report this, and use torch")
    return farthest


def _describe(
    bundle: Bundle, to: ExportFormat, graphs: Mapping[str, Graph], files: Mapping[str, str]
) -> dict[str, Any]:
    """Say what lies in an export of its own: who reads it has no bundle."""
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
