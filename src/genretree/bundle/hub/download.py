"""Getting a bundle from the Hub: the commit first, then its description, then the files that this one lists."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genretree.bundle.hub.cache import find_pulled, folder_of, remember, run_exclusively
from genretree.bundle.hub.client import explained, open_hub
from genretree.bundle.hub.contents import check_types
from genretree.bundle.hub.names import HubName, is_commit, parse_name, require_name
from genretree.bundle.manifest import DESCRIPTION, check_files, read_description
from genretree.checks import require_path, require_text
from genretree.errors import BundleError, GenretreeError, HubError, MissingExtraError
from genretree.files import write_text

ORIGIN = "hub.json"  # beside a pulled bundle: where it is from


@dataclass(frozen=True)
class Pulled:
    """A bundle from the Hub: its name there, the hash of its commit (40 hex digits), and its folder here."""

    name: HubName
    commit: str
    folder: Path

    @property
    def pinned(self) -> str:
        """The name that means these very bytes for good: `user/name@COMMIT`."""
        return f"{self.name.repo}@{self.commit}"


def find_bundle(place: str | Path, download: bool = False, progress: bool = False) -> Path:
    """Give the folder of a bundle that is named by its path or by its name on the Hub.

    Parameters
    ----------
    place : path or str
        A folder, which always wins; or `user/name` or `user/name@revision`, if that was pulled before.
    download : bool
        Pull what is not here. Without it nothing is asked of the Hub, and what is here is never replaced.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Path
        Where neither a folder nor such a name was meant, the path as given, which may hold no bundle.

    Raises
    ------
    HubError
        If it is a name that was not pulled, or pulling fails; says what to do.
    """
    folder = Path(place)
    name = None if folder.exists() else parse_name(folder)
    if name is None:
        return folder
    found = find_pulled(name)
    if found is not None:
        return found
    if download:
        return pull(str(name), progress=progress).folder
    raise HubError(
        f"{name}: no such bundle on this machine, neither as a folder nor pulled from the Hub; "
        f"if it is there, get it with: genretree pull {name}"
    )


def pull(name: str, *, revision: str | None = None, to: str | Path | None = None, progress: bool = False) -> Pulled:
    """Get a bundle from the Hub, and check it.

    Parameters
    ----------
    name : str
        `user/name`, or `user/name@revision`.
    revision : str, optional
        A branch, a tag or a commit's hash; `main` if none is given.
    to : path, optional
        A folder to make; by default it goes into the user's cache, where its name on the Hub finds it.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Pulled

    Raises
    ------
    HubError
        If there is no such bundle, it holds files of types that don't travel, or the Hub can't be reached.
    BundleError
        If what came is damaged, by the hashes in the bundle itself.

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
    wanted = require_name(name, revision)
    target = None if to is None else require_path("to", to)
    if target is not None and target.exists():
        raise HubError(f"{target}: exists already; give another name or delete it")
    commit = wanted.revision if is_commit(wanted.revision) else _resolve(wanted)
    if target is not None:
        _fetch(wanted, commit, target, progress)
        return Pulled(wanted, commit, target)
    target = folder_of(wanted, commit)
    with run_exclusively(wanted):
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            _fetch(wanted, commit, target, progress)
        remember(wanted, commit)
    return Pulled(wanted, commit, target)


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder, read_description(folder)["files"])
    except BundleError:
        return False
    return True


def _resolve(name: HubName) -> str:
    """Ask which commit a branch, a tag or the beginning of a hash is now."""
    with explained(name):
        commit = open_hub().model_info(name.repo, revision=name.revision).sha
    if commit is None or not is_commit(commit):
        raise HubError(f"{name}: the Hub doesn't say which commit that is")
    return commit


def _fetch(name: HubName, commit: str, target: Path, progress: bool) -> None:
    """Put a commit's bundle into a folder that appears when it is whole; an interrupted download goes on."""
    draft = target.with_name(f".{target.name}.{commit[:12]}.pull")
    draft.mkdir(parents=True, exist_ok=True)
    try:
        _download(name, commit, DESCRIPTION, draft)
        files = read_description(draft)["files"]
        check_types(f"{name}", files)
        for file in files:
            _download(name, commit, file, draft, progress)
        check_files(draft, files)
        _try_to_load(draft)
        shutil.rmtree(draft / ".cache", ignore_errors=True)  # the client's notes
        origin = {"name": name.repo, "revision": name.revision, "commit": commit}
        write_text(draft / ORIGIN, json.dumps(origin, indent=1))
        draft.rename(target)
    except GenretreeError:
        if not any(draft.glob("**/*.incomplete")):  # what broke off can be gone on with; what is wrong stays wrong
            shutil.rmtree(draft, ignore_errors=True)
        raise


def _try_to_load(folder: Path) -> None:
    """Refuse what can't be loaded, before it has a name here.

    Raises
    ------
    BundleError
    """
    bundles: Any = import_module("genretree.bundle.bundle")  # by name, as that module itself finds bundles on the Hub
    with suppress(MissingExtraError):  # nothing is wrong with the bundle; loading it says what to install
        bundles.score_noise(bundles.open_bundle(folder, read_description(folder)))


def _download(name: HubName, commit: str, file: str, folder: Path, progress: bool = False) -> None:
    shown = None if progress else _Silent
    with explained(name):
        open_hub().hf_hub_download(name.repo, file, revision=commit, local_dir=folder, tqdm_class=shown)


class _Silent(tqdm):  # type: ignore[type-arg]  # it is generic for the type checker only
    """A bar that doesn't show, for this download alone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})
