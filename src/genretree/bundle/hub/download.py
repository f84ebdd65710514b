"""Pulling a bundle from the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from genretree.bundle.hub.cache import ORIGIN, hub_cache, snapshot_folder, write_ref
from genretree.bundle.hub.client import explained, open_hub
from genretree.bundle.hub.contents import check_types
from genretree.bundle.hub.names import HubName, is_commit, require_name
from genretree.bundle.manifest import DESCRIPTION, check_files, read_description
from genretree.checks import require_path, require_text
from genretree.errors import BundleError, GenretreeError, HubError, MissingExtraError
from genretree.files import write_text


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A bundle that was pulled from the Hub.

    Parameters
    ----------
    name : HubName
    commit : str
        Hash of the commit, 40 hex digits.
    folder : Path
    """

    name: HubName
    commit: str
    folder: Path

    @property
    def pinned(self) -> str:
        """Name that always refers to the same bytes: `user/name@COMMIT`."""
        return f"{self.name.repo}@{self.commit}"


def pull(name: str, *, revision: str | None = None, to: str | Path | None = None, progress: bool = False) -> Pulled:
    """Download a bundle from the Hub into the cache and verify it.

    Parameters
    ----------
    name : str
        `user/name` or `user/name@revision`.
    revision : str, optional
        A branch, a tag or a commit hash; default `main`.
    to : path, optional
        A folder that must not exist; the bundle is also copied there.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Pulled

    Raises
    ------
    HubError
        If the bundle does not exist, lists files of types that are not allowed, or the Hub can't be reached.
    BundleError
        If a downloaded file does not match its SHA-256, or the bundle can't be loaded.

    See Also
    --------
    genretree.push : Upload a bundle.
    genretree.load : Load a bundle from the cache.

    Examples
    --------
    >>> import genretree
    >>> pulled = genretree.pull("you/rock")  # doctest: +SKIP
    >>> genretree.load(pulled.folder).predict("song.mp3").path  # doctest: +SKIP
    ('Rock', 'Punk')

    A name that can't be on the Hub is refused without a connection:

    >>> try:
    ...     genretree.pull("you/rock/punk")
    ... except genretree.GenretreeError as error:
    ...     print(error.kind)
    hub
    """
    require_text("name", name)
    hub_name = require_name(name, revision)
    target = None if to is None else require_path("to", to)
    if target is not None and target.exists():
        raise HubError(f"{target}: already exists; choose another name or delete it")
    commit = hub_name.revision if is_commit(hub_name.revision) else _resolve(hub_name)
    folder = snapshot_folder(hub_name, commit)
    with FileLock(hub_cache() / ".locks" / f"{hub_name.repo.replace('/', '--')}.lock"):
        if not _is_verified(folder):
            _fetch(hub_name, commit, progress)
        if target is None:
            write_ref(hub_name, commit)
            return Pulled(name=hub_name, commit=commit, folder=folder)
        draft = target.with_name(f".{target.name}.{commit[:12]}.pull")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(folder, draft)
    draft.rename(target)
    return Pulled(name=hub_name, commit=commit, folder=target)


def _is_verified(folder: Path) -> bool:
    """Check whether a commit is in the cache, was verified when it was pulled, and has not been damaged since."""
    try:
        check_files(folder, read_description(folder)["files"])
    except BundleError:
        return False
    return (folder / ORIGIN).is_file()


def _resolve(name: HubName) -> str:
    """Ask the Hub for the commit of a branch, a tag or an abbreviated hash."""
    with explained(name):
        commit = open_hub().model_info(name.repo, revision=name.revision).sha
    if commit is None or not is_commit(commit):
        raise HubError(f"{name}: the Hub doesn't say which commit that is")
    return commit


def _fetch(name: HubName, commit: str, progress: bool) -> None:
    """Download and verify a commit; on failure it is deleted from the cache, unless the download can be resumed."""
    folder = snapshot_folder(name, commit)
    try:
        try:
            _download(name, commit, progress, force=False)
        except BundleError:  # a file in the cache may be damaged
            _download(name, commit, progress, force=True)
        _try_to_load(folder)
        origin = {"name": name.repo, "revision": name.revision, "commit": commit}
        write_text(folder / ORIGIN, json.dumps(origin, indent=1))
    except GenretreeError:
        from huggingface_hub import scan_cache_dir

        if not any(folder.parents[1].glob("blobs/*.incomplete")):
            scan_cache_dir(hub_cache()).delete_revisions(commit).execute()
        raise


def _download(name: HubName, commit: str, progress: bool, force: bool) -> None:
    """Download the description, then the files that it lists, if all of them may be pulled."""
    folder = snapshot_folder(name, commit)
    _download_file(name, commit, DESCRIPTION, progress, force)
    files = read_description(folder)["files"]
    check_types(f"{name}", files)
    for file in files:
        _download_file(name, commit, file, progress, force)
    check_files(folder, files)


def _download_file(name: HubName, commit: str, file: str, progress: bool, force: bool) -> None:
    bar = None if progress else _HiddenBar
    with explained(name):
        open_hub().hf_hub_download(
            name.repo, file, revision=commit, cache_dir=hub_cache(), force_download=force, tqdm_class=bar
        )


def _try_to_load(folder: Path) -> None:
    """Load a bundle and score noise with it.

    A bundle that needs an extra that is not installed passes; loading it names the extra.

    Raises
    ------
    BundleError
    """
    bundles: Any = import_module("genretree.bundle.bundle")  # that module imports this one
    with suppress(MissingExtraError):
        bundles.score_noise(bundles.open_bundle(folder, read_description(folder)))


class _HiddenBar(tqdm):  # type: ignore[type-arg]  # generic only in the stubs
    """A disabled progress bar; `disable_progress_bars` would affect other downloads of the process."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})
