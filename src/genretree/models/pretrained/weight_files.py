"""Reading of weight files: choice of the file in a folder, detection of the format, loading without running code."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genretree.errors import BundleError, TrainingError
from genretree.files import is_lfs_pointer, printable, sha256_file
from genretree.models.finite_weights import require_finite
from genretree.models.pretrained.sources import WeightSource, find_by_hash

CONFIG = "config.json"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# Usual names in transformers and timm, the safest first; an index lists the parts of large weights.
_INDEX = ".index.json"
_USUAL = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
_EXPECTED = "a .safetensors, .pth, .pt or .bin file with a state dict"

_WEB_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|\?xml)", re.IGNORECASE)
_SAFETENSORS_JSON = 8  # bytes of the header's length, before the header's first brace
_HEAD = 512
_FORBIDDEN_GLOBAL = re.compile(r"GLOBAL:? ([\w.]+)")
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of the state dict in training checkpoints
_PARALLEL = "module."  # DataParallel's prefix


@dataclass(frozen=True)
class Checkpoint:
    """Weights read from files.

    Parameters
    ----------
    place : str
        The value given by the user, for messages.
    weights : mapping of str to tensor
    config : mapping
        Content of `config.json` next to the weights; empty without one.
    origin : mapping of str to str
        Source of the weights for a bundle: source, file, sha256, and revision and licence if known. No local folders.
    """

    place: str
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    origin: Mapping[str, str]


def download_published(source: WeightSource, path: Path) -> None:
    """Download the file of a source on the web, and verify its hash.

    Raises
    ------
    TrainingError
        If it can't be downloaded or its hash differs.
    """
    from torch.hub import download_url_to_file

    try:
        # The prefix is the complete hash.
        download_url_to_file(source.location, str(path), hash_prefix=source.sha256, progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TrainingError(
            f"{source.location}: can't be downloaded ({reason}); download it by other means and run "
            f"`genretree weights get {source.name} --file {Path(source.location).name}`"
        ) from error


def choose_files(place: str, names: Iterable[str]) -> str:
    """Select the file with the weights from the names in a folder or repository.

    Raises
    ------
    TrainingError
        If there is no file, or several without a usual name.
    """
    here = sorted(names)
    for usual in _USUAL:
        if usual in here:
            return usual
    found = [name for name in here if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if len(found) == 1:
        return found[0]
    if found:
        raise TrainingError(
            f"{place}: several weights files ({_few(found)}); give one of the files instead of the folder"
        )
    raise TrainingError(f"{place}: no weights in this folder; expected {_EXPECTED}, such as {_USUAL[0]}")


def read_weights(place: str, path: Path, **origin: str) -> Checkpoint:
    """Read weights from a file or folder.

    Parameters
    ----------
    place : str
        The value given by the user, for messages.
    path : Path
        A file, or a folder with one.
    **origin
        Further information on the source.

    Raises
    ------
    TrainingError
        If the file can't be read, is not a state dict, or could run code.
    """
    if path.is_dir():
        path = path / choose_files(place, (entry.name for entry in path.iterdir()))
    if not path.is_file():
        raise TrainingError(f"{place}: no such file or folder")
    record = {"source": Path(place).name, "file": path.name, **origin}
    if path.name.endswith(_INDEX):
        weights: dict[str, Tensor] = {}
        for part in list_parts(path):
            weights.update(_read_file(part))
    else:
        weights = _read_file(path)
        record["sha256"] = sha256_file(path)
        known = find_by_hash(record["sha256"])
        if known is not None:
            record.update(source=known.name, licence=known.licence)
    try:
        require_finite(path, weights)
    except BundleError as error:
        raise TrainingError(str(error).replace("copy or train the bundle again", "get the file again")) from error
    return Checkpoint(place, weights, _read_config(path.parent / CONFIG), record)


def list_parts(index: Path) -> list[Path]:
    """List the files of an index.

    Raises
    ------
    TrainingError
        If the index can't be read, or names a file outside its own folder.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{index}: not an index of weights ({_first_line(error)}); get it again") from error
    if not names or not all(isinstance(name, str) and PurePosixPath(name).name == name for name in names):
        raise TrainingError(f"{index}: names files outside its folder; get it again from a trusted source")
    return [index.with_name(name) for name in names]


def _read_file(path: Path) -> dict[str, Tensor]:
    """Read one file. Its first bytes determine the format, whatever the suffix."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        _check_content(path, head)
        if head[_SAFETENSORS_JSON : _SAFETENSORS_JSON + 1] == b"{":
            weights: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about old formats
                weights = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise TrainingError(f"{path}: damaged safetensors file ({_first_line(error)}); get it again") from error
    except pickle.UnpicklingError as error:
        raise TrainingError(_explain_pickle(path, str(error))) from error
    except OSError as error:
        raise TrainingError(f"{path}: can't be read ({error.strerror or error})") from error
    except (TrainingError, MemoryError):
        raise
    except Exception as error:  # damaged archives raise many types of errors
        raise TrainingError(f"{path}: can't be read as weights ({_first_line(error)}); expected {_EXPECTED}") from error
    return _unwrap(path, weights)


def _check_content(path: Path, head: bytes) -> None:
    if not head:
        raise TrainingError(f"{path}: the file is empty; get it again")
    if is_lfs_pointer(head):
        raise TrainingError(
            f"{path}: a Git LFS pointer, not the weights themselves; run 'git lfs pull' in its repository, or "
            "download the file"
        )
    if _WEB_PAGE.match(head):
        raise TrainingError(
            f"{path}: a web page (HTML) saved under this name, not weights; download the file itself, not the page "
            "that shows it"
        )


def _explain_pickle(path: Path, said: str) -> str:
    forbidden = _FORBIDDEN_GLOBAL.search(said)
    if forbidden is None:
        return f"{path}: not a state dict that torch.save wrote; expected {_EXPECTED}"
    return (
        f"{path}: contains more than arrays ({printable(forbidden[1])}), and reading it could run code; get the "
        "weights as safetensors, or save the state dict alone"
    )


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    """Extract the state dict from a training checkpoint, as float32 arrays with names without prefix."""
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise TrainingError(f"{path}: contains a {type(content).__name__}, not a state dict; expected {_EXPECTED}")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise TrainingError(f"{path}: not a state dict, since {_few(others)} are not arrays; save the state dict alone")
    cut = len(_PARALLEL) if all(str(name).startswith(_PARALLEL) for name in content) else 0
    return {str(name)[cut:]: value.float() if value.is_floating_point() else value for name, value in content.items()}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: can't be read as JSON ({_first_line(error)}); get it again") from error
    return content if isinstance(content, dict) else {}


def explain_mismatch(
    expected: str, missing: Iterable[str], unexpected: Iterable[str], shapes: Mapping[str, tuple[Any, Any]]
) -> str:
    """Describe how weights differ from those of a network, with a few names of each type of difference.

    Parameters
    ----------
    expected : str
        The network that the weights were compared with.
    missing, unexpected : iterable of str
        Names of arrays.
    shapes : mapping of str to (found, expected)
        Arrays of another shape.
    """
    missing, unexpected = sorted(missing), sorted(unexpected)
    said = []
    if missing:
        said.append(f"lack {len(missing)} arrays ({_few(missing)})")
    if unexpected:
        said.append(f"have {len(unexpected)} unknown ones ({_few(unexpected)})")
    if shapes:
        some = [f"{name} {tuple(found)} instead of {tuple(requested)}" for name, (found, requested) in shapes.items()]
        said.append(f"have {len(some)} of another shape ({_few(some)})")
    return f"not the weights of {expected}: they {' and '.join(said)}"


def _few(names: list[str], max_shown: int = 3) -> str:
    shown = ", ".join(printable(name) for name in names[:max_shown])
    return shown if len(names) <= max_shown else f"{shown}, ..."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
