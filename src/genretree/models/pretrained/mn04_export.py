"""An OpenVINO export of mn04 in the cache: it runs without torch, whose import takes longer than a file."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from genretree.errors import BundleError
from genretree.files import atomic_folder, cache_folder, sha256_file, write_text
from genretree.models.pretrained.sources import mn04_path
from genretree.models.runtime.types import EXPORT_RUNTIMES, GRAPH, Runner, RuntimeConfig, graph_file

FOLDER = "mn04-openvino"
_DESCRIPTION = "export.json"
_GRAPH_FILE = graph_file("openvino", GRAPH)
_NETWORK_FILE = Path(_GRAPH_FILE).with_suffix(".bin").name


def open_mn04_export() -> tuple[Runner, RuntimeConfig] | None:
    """Open the export in the cache.

    Returns
    -------
    tuple of Runner and RuntimeConfig, or None
        None if OpenVINO is not installed, or if the export is missing, damaged or of other weights than those in the
        cache. Then the network runs in torch, which reports errors of the weights.
    """
    folder = cache_folder() / FOLDER
    if find_spec("openvino") is None or not _is_intact(folder):
        return None
    from genretree.models.runtime.backends import open_runner

    config = EXPORT_RUNTIMES["openvino"]
    try:
        return open_runner(config, folder / _GRAPH_FILE), config
    except BundleError:  # made by a version of OpenVINO whose format this one can't read
        return None


def export_mn04() -> list[Path]:
    """Export the weights in the cache, unless OpenVINO can open an export of them, and return its weight file.

    Returns
    -------
    list of Path
        Empty if OpenVINO is not installed.

    Raises
    ------
    BundleError
        If the export fails, or differs from torch.
    OSError
        If it can't be written.
    TrainingError
        If the weights are not in the cache.
    """
    folder = cache_folder() / FOLDER
    network_file = folder / _NETWORK_FILE
    if find_spec("openvino") is None:
        return []
    if open_mn04_export() is not None:
        return [network_file]
    from filelock import FileLock

    from genretree.models.pretrained.mn04 import as_graph
    from genretree.models.pretrained.mn04_weights import load_mn04
    from genretree.models.runtime.convert import write_checked_graph

    network = load_mn04()
    with FileLock(cache_folder() / f".{FOLDER}.lock"):
        if open_mn04_export() is not None:  # another process made it meanwhile
            return [network_file]
        with atomic_folder(folder) as draft:
            write_checked_graph("openvino", as_graph(network), GRAPH, draft)
            files = {path.name: sha256_file(path) for path in sorted(draft.iterdir())}
            description = {"weights": sha256_file(mn04_path()), "files": files}
            write_text(draft / _DESCRIPTION, json.dumps(description, indent=1))
    return [network_file]


def _is_intact(folder: Path) -> bool:
    """Return whether no file is missing, all have their hashes, and the export is one of the weights in the cache."""
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        hashes = {folder / name: digest for name, digest in description["files"].items()}
        hashes[mn04_path()] = description["weights"]
        listed = {_GRAPH_FILE, _NETWORK_FILE} <= description["files"].keys()
        return listed and all(sha256_file(path) == digest for path, digest in hashes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
