"""Getting pretrained weights: from this machine, the Hugging Face Hub at a pinned revision, or the web.

Training downloads only from the Hub, and only what its settings name: no default is downloaded. `get_weights` (the
command `genretree weights get`) downloads everything else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

from genretree.errors import TrainingError
from genretree.files import atomic_path, sha256_file
from genretree.models.pretrained.mn04_weights import get_mn04
from genretree.models.pretrained.musicnn_weights import get_musicnn
from genretree.models.pretrained.sources import (
    MN04,
    MUSICNN,
    SOURCES,
    STUDENT,
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
    list_parts,
    read_weights,
)

_MAIN = "main"
_JSON = ".json"
_COMMIT_LENGTH = 40
_MAX_REPO_PARTS = 2
_WITHOUT = "or train from scratch with `weights='none'`"


def open_checkpoint(name: str, *, download: bool = True) -> Checkpoint:
    """Read the weights that a setting names.

    Parameters
    ----------
    name : str
        A file or folder, a name from `genretree weights list`, or `user/name` or `user/name@revision` on the
        Hugging Face Hub. Without a revision it is the pinned one if the name is in the list, and main if not.

    Raises
    ------
    TrainingError
        If they can't be had or read; says what to do.
    """
    path = Path(name)
    source = find_source(name)
    if path.exists() and (source is None or source.access == "hub"):
        return read_weights(name, path)
    if source is not None and source.access == "url" and source.name != MN04:
        return _open_file(source)
    if source is not None and source.access != "hub":
        raise TrainingError(
            f"the weights '{name}' are not a value of `weights` for this model; give others, {_WITHOUT}"
        )
    if not _is_hub_name(name):
        raise TrainingError(
            f"the weights '{name}' can't be had (no such file or folder); give a file or folder as `weights`, a name "
            f"from: genretree weights list, {_WITHOUT}"
        )
    folder, file, commit = fetch(name, download=download)
    origin = {"source": _repo(name), "revision": commit}
    if source is not None:
        origin["licence"] = source.licence
        if source.sha256 is not None and file == source.file:
            _require_hash(folder / file, source)
    return read_weights(name, folder / file, **origin)


def get_weights(name: str, file: Path | None = None) -> list[Path]:
    """Put weights into the user's cache.

    Parameters
    ----------
    name : str
        A name from `genretree weights list`, or any `user/name` or `user/name@revision` on the Hugging Face Hub.
    file : path, optional
        The published file, fetched elsewhere; downloaded if not given.

    Returns
    -------
    list of Path
        The files in the cache.

    Raises
    ------
    TrainingError
        If they can't be had or are not the published ones.
    """
    source = find_source(name)
    if name == MUSICNN:
        return get_musicnn(file)
    if name == MN04:
        return [get_mn04(file)]
    if source is not None and source.access == "url":
        return [_put(source, file) if file is not None else _download(source)]
    if file is not None:
        raise TrainingError(
            f"{name}: `file` is for {_names('url', 'wheel')}; give other files as the setting `weights` directly"
        )
    if source is not None and source.access == "package":
        raise TrainingError(f"the weights '{name}' come with genretree; there is nothing to download")
    if not _is_hub_name(name):
        raise TrainingError(f"'{name}': unknown weights; choose from {_names('url', 'wheel', 'hub')}, or user/name")
    checkpoint = open_checkpoint(name)  # read once, so that what is wrong with it shows now
    folder, chosen, _ = fetch(name)
    return [folder / checkpoint.origin.get("file", chosen)]


def fetch(name: str, *, download: bool = True) -> tuple[Path, str, str]:
    """Download a repository's weights from the Hub, unless they are in the Hub's cache.

    Parameters
    ----------
    name : str
        `user/name` or `user/name@revision`; the revision is a branch, a tag, a commit or `refs/pr/N`.
    download : bool
        Download what is not in the cache.

    Returns
    -------
    (Path, str, str)
        The folder in the cache, the name of the weights file (or its index) in it, and the commit.

    Raises
    ------
    TrainingError
        If it can't be had; says how else to get it.
    """
    repo = _repo(name)
    given = name.partition("@")[2]
    source = find_source(repo)
    pinned = source.revision if source is not None else None
    revision = given or pinned or _MAIN
    found = _find_cached(repo, revision) if len(revision) == _COMMIT_LENGTH or not download else None
    if found is not None:
        return found
    if not download:
        raise TrainingError(
            f"the weights '{name}' are not on this machine, and training downloads only what its settings name; get "
            f"them with: genretree weights get {name}, choose others with `weights`, {_WITHOUT}"
        )
    try:
        return _ask_hub(name, repo, revision)
    except TrainingError:
        raise
    except Exception as error:  # the Hub's client and its HTTP library have errors of their own
        found = _find_cached(repo, revision)
        if found is not None:
            return found
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TrainingError(
            f"the weights '{name}' can't be had from the Hub ({said}); where there is a network: "
            f"genretree weights get {name}, or hf download {repo} --revision {revision}, and give the folder with "
            f"`weights=FOLDER`, {_WITHOUT}{_other_commit(repo, revision)}"
        ) from error


def _ask_hub(name: str, repo: str, revision: str) -> tuple[Path, str, str]:
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="genretree")
    info: Any = hub.model_info(repo, revision=revision)
    names = [sibling.rfilename for sibling in info.siblings or () if "/" not in sibling.rfilename]
    file = choose_files(name, names)
    # The weights last, so that what is in the cache is whole. The first file by the revision's own name, so that the
    # cache knows it without a network, too; the folder's name is the commit.
    first, *rest = [CONFIG, file] if CONFIG in names else [file]
    folder = Path(hub.hf_hub_download(repo, first, revision=revision)).parent
    for each in rest:
        hub.hf_hub_download(repo, each, revision=folder.name)
    for part in list_parts(folder / file) if file.endswith(_JSON) else []:
        hub.hf_hub_download(repo, part.name, revision=folder.name)
    return folder, file, folder.name


def _find_cached(repo: str, revision: str) -> tuple[Path, str, str] | None:
    """Find what was downloaded before in the Hub's cache; None if it is not whole."""
    from huggingface_hub import constants, try_to_load_from_cache

    # Any file shows which commit a branch was; the folder then shows what is there.
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
    """Name another commit that is in the cache, as it may be what the user means."""
    found = _find_cached(repo, _MAIN)
    if found is None or found[2] == revision:
        return ""
    return f". Another commit is in the cache: {repo}@{found[2]}"


def _open_file(source: WeightSource) -> Checkpoint:
    path = find_local(source)
    if path is None:
        raise TrainingError(
            f"the weights '{source.name}' are not on this machine; get them with: genretree weights get {source.name}, "
            f"give a file with `weights=FILE`, {_WITHOUT}"
        )
    _require_hash(path, source)
    return read_weights(source.name, path, source=source.name)


def _download(source: WeightSource) -> Path:
    from torch.hub import download_url_to_file

    path = cached_path(source)
    with atomic_path(path) as temporary:
        try:
            # The whole hash as the prefix that must fit.
            download_url_to_file(source.location, str(temporary), hash_prefix=source.sha256, progress=False)
        except (OSError, URLError, RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise TrainingError(
                f"{source.location}: can't be downloaded ({said}); fetch it elsewhere and give it with: "
                f"genretree weights get {source.name} --file {path.name}"
            ) from error
    return path


def _put(source: WeightSource, file: Path) -> Path:
    if not file.is_file():
        raise TrainingError(f"{file}: no such file; it is at {source.location}")
    _require_hash(file, source)
    path = cached_path(source)
    with atomic_path(path) as temporary:
        shutil.copyfile(file, temporary)
    return path


def _require_hash(path: Path, source: WeightSource) -> None:
    found = sha256_file(path)
    if found != source.sha256:
        raise TrainingError(
            f"{path}: not the published weights '{source.name}' (SHA-256 {found[:12]}... instead of "
            f"{str(source.sha256)[:12]}...); get them from {source.location}, or give the file itself as `weights`"
        )


def _is_hub_name(name: str) -> bool:
    """Check whether a name could be a repository's; a path to a file or folder that is not there is none."""
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
    return ", ".join(source.name for source in SOURCES if source.access in access and source.name != STUDENT)
